//! The limits of pictures, checked before anything is allocated. Messages name the settings.

use crate::job::JobError;

/// The limits of input pictures. Their headers are checked before any pixel is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Pixels.
    pub max_width: u32,
    /// Pixels.
    pub max_height: u32,
    /// Width times height.
    pub max_pixels: u64,
    /// Size of the encoded file.
    pub max_bytes: u64,
    /// Bytes that the pictures of one job or request may hold while they are decoded.
    pub max_memory: u64,
}

/// The defaults of `config/default.toml`.
impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_width: 32_768, max_height: 32_768, max_pixels: 128 << 20, max_bytes: 256 << 20, max_memory: 4 << 30 }
    }
}

impl DecodeLimits {
    /// # Errors
    /// [`JobError::ImageTooLarge`] for a file with more than `max_bytes`.
    pub fn check_file(&self, name: &str, bytes: u64) -> Result<(), JobError> {
        if bytes <= self.max_bytes {
            return Ok(());
        }
        Err(too_large(name, format!("the file has {bytes} bytes; the limit, image.max_bytes, is {}", self.max_bytes)))
    }

    /// # Errors
    /// [`JobError::ImageTooLarge`] beyond a limit, [`JobError::InvalidImage`] for a side of 0.
    pub fn check_size(&self, name: &str, (width, height): (u32, u32)) -> Result<(), JobError> {
        if width == 0 || height == 0 {
            return Err(JobError::InvalidImage {
                input: name.to_owned(),
                reason: format!("the picture is {width}x{height} pixels; both sides must be at least 1"),
            });
        }
        let pixels = u64::from(width) * u64::from(height);
        let Self { max_width, max_height, max_pixels, .. } = *self;
        let limit = if width > max_width {
            format!("image.max_width, is {max_width}")
        } else if height > max_height {
            format!("image.max_height, is {max_height}")
        } else if pixels > max_pixels {
            format!("image.max_pixels, is {max_pixels} pixels in all")
        } else {
            return Ok(());
        };
        Err(too_large(name, format!("the picture says it is {width}x{height} pixels; the limit, {limit}")))
    }

    /// `bytes` is what the picture, or all that `name` stands for, holds at once.
    ///
    /// # Errors
    /// [`JobError::ImageTooLarge`] if they are more than `max_memory`.
    pub fn check_memory(&self, name: &str, bytes: u64) -> Result<(), JobError> {
        if bytes <= self.max_memory {
            return Ok(());
        }
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(too_large(
            name,
            format!(
                "decoding needs {} MiB of memory; the limit, image.max_memory, is {} MiB",
                mebibytes(bytes),
                mebibytes(self.max_memory)
            ),
        ))
    }
}

fn too_large(name: &str, reason: String) -> JobError {
    JobError::ImageTooLarge { input: name.to_owned(), reason }
}

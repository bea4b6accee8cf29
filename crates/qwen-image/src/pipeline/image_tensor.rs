//! Converts pictures to tensors and back, and computes the models' working sizes.

use ::image::{ImageBuffer, Pixel, RgbImage, RgbaImage};
use candle_core::{DType, Device, Tensor};

use super::error::{PipelineError, Result};

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSize {
    pub width: u32,
    pub height: u32,
}

impl ImageSize {
    /// About `area` square pixels in the shape of `width` x `height`, sides rounded to 32 as Python rounds (halves
    /// to the even neighbor) and never below 32.
    pub fn with_area(area: u32, width: u32, height: u32) -> Self {
        let ratio = f64::from(width) / f64::from(height);
        let target = (f64::from(area) * ratio).sqrt();
        let round = |side: f64| (((side / 32.0).round_ties_even() * 32.0) as u32).max(32);
        Self { width: round(target), height: round(target / ratio) }
    }
}

/// This limit comes from the text encoder's processor; without it, rounding to 32 would enlarge a line to a wide strip.
const MOST_ELONGATED: u32 = 200;

/// Refuses a picture that is too elongated.
pub fn check_shape(picture: &RgbaImage) -> Result<()> {
    let (width, height) = picture.dimensions();
    if width.max(height) <= MOST_ELONGATED * width.min(height) {
        return Ok(());
    }
    let reason = format!(
        "the picture is {width}x{height}; one side may be at most {MOST_ELONGATED} times the other, so crop it"
    );
    Err(PipelineError::Invalid { field: "image", reason })
}

/// `(1, h, w, 4)` in -1..1.
pub fn rgba_to_tensor(picture: &RgbaImage, device: &Device) -> Result<Tensor> {
    to_tensor(picture.as_raw(), picture.width(), picture.height(), 4, device)
}

/// `(1, h, w, 3)` in -1..1.
pub fn rgb_to_tensor(picture: &RgbImage, device: &Device) -> Result<Tensor> {
    to_tensor(picture.as_raw(), picture.width(), picture.height(), 3, device)
}

fn to_tensor(bytes: &[u8], width: u32, height: u32, channels: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = bytes.iter().map(|&byte| 2.0 * (f32::from(byte) / 255.0) - 1.0).collect();
    Ok(Tensor::from_vec(values, (1, height as usize, width as usize, channels), device)?)
}

/// A picture from `(1, h, w, c)` in -1..1, rounded like numpy; `c` is the pixel's number of channels.
pub fn to_picture<P: Pixel<Subpixel = u8>>(picture: &Tensor) -> Result<ImageBuffer<P, Vec<u8>>> {
    let (_, h, w, _) = picture.dims4()?;
    let (width, height) = (w as u32, h as u32);
    let values: Vec<f32> = picture.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let byte = |value: f32| ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    let bytes: Vec<u8> = values.into_iter().map(byte).collect();
    // The buffer would accept too many bytes.
    let (given, wanted) = (bytes.len(), w * h * usize::from(P::CHANNEL_COUNT));
    let decoded = (given == wanted).then(|| ImageBuffer::from_raw(width, height, bytes)).flatten();
    decoded.ok_or(PipelineError::DecodedSize { bytes: given, width, height })
}

#[cfg(test)]
mod tests {
    use ::image::{Rgb, Rgba};

    use super::*;

    #[test]
    fn a_picture_of_another_number_of_channels_is_an_error() {
        let picture = Tensor::zeros((1, 2, 3, 4), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(to_picture::<Rgba<u8>>(&picture).unwrap().dimensions(), (3, 2));
        let error = to_picture::<Rgb<u8>>(&picture).unwrap_err();
        assert!(matches!(error, PipelineError::DecodedSize { bytes: 24, width: 3, height: 2 }), "{error}");
    }
}

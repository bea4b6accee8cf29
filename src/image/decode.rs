//! Decodes pictures under limits, with a note for every conversion.

use std::io::{Cursor, ErrorKind};

use ::image::codecs::{bmp, gif, jpeg, png, tiff, webp};
use ::image::metadata::Orientation;
use ::image::{ColorType, DynamicImage, ExtendedColorType, ImageDecoder, ImageError, ImageFormat, RgbaImage};

use super::container::{self, Survey};
use super::icc;
use crate::job::JobError;

/// The limits of a picture. Its header is checked before any pixel is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pixels.
    pub max_width: u32,
    /// Pixels.
    pub max_height: u32,
    /// Width times height.
    pub max_pixels: u64,
    /// Size of the encoded file.
    pub max_bytes: u64,
}

/// The defaults of `config/default.toml`.
impl Default for Limits {
    fn default() -> Self {
        Self { max_width: 16_384, max_height: 16_384, max_pixels: 64 << 20, max_bytes: 256 << 20 }
    }
}

/// A decoded picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub pixels: RgbaImage,
    /// Notes about conversions for the manifest, without the picture's name.
    pub notes: Vec<String>,
}

/// Decodes PNG, JPEG, WebP, GIF, BMP or TIFF, detected by content. `name` is only for messages.
///
/// Takes the first picture of animations and multi-page files, applies the EXIF orientation, converts an embedded color
/// profile to sRGB, rounds 16 bits to 8 and converts CMYK to RGB; each of these adds a note.
///
/// # Errors
/// [`JobError::ImageTooLarge`] beyond a limit; [`JobError::InvalidImage`] if the bytes are not a picture, an incomplete
/// one, or an unsupported one. A truncated picture is always an error, never partly gray.
pub fn decode(name: &str, bytes: &[u8], limits: &Limits) -> Result<Decoded, JobError> {
    let invalid = |reason: String| JobError::InvalidImage { input: name.to_owned(), reason };
    if bytes.len() as u64 > limits.max_bytes {
        return Err(JobError::ImageTooLarge {
            input: name.to_owned(),
            reason: format!("the file has {} bytes; the limit is {}", bytes.len(), limits.max_bytes),
        });
    }
    let format = container::recognize(bytes).map_err(invalid)?;
    let survey = container::survey(format, bytes).map_err(invalid)?;
    if let Some(size) = survey.size {
        check_size(name, size, limits)?;
    }
    let refused = |error| explain(name, format, error);
    let mut decoder = open(format, bytes, limits).map_err(refused)?;
    check_size(name, decoder.dimensions(), limits)?;

    let mut notes = Vec::new();
    let mut note = |text: String| notes.push(text);
    note_kind(format, &survey, decoder.as_ref(), &mut note).map_err(invalid)?;

    // Unreadable metadata is not a reason to refuse the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let profile = decoder.icc_profile().ok().flatten();
    let color = if survey.cmyk || is_cmyk(decoder.as_ref()) {
        icc::Source::Converted
    } else if decoder.color_type().has_color() {
        icc::Source::Rgb
    } else {
        icc::Source::Gray
    };

    let mut pixels = DynamicImage::from_decoder(decoder).map_err(refused)?.into_rgba8();
    if let Some(profile) = profile
        && let Some(text) = icc::to_srgb(&mut pixels, color, &profile)
    {
        note(text);
    }
    if orientation != Orientation::NoTransforms {
        note(format!("rotated according to its EXIF orientation, {}", orientation.to_exif()));
        let mut turned = DynamicImage::from(pixels);
        turned.apply_orientation(orientation);
        pixels = turned.into_rgba8();
    }
    Ok(Decoded { pixels, notes })
}

/// The facts in a picture's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The file's extension: `png`.
    pub ending: &'static str,
    pub width: u32,
    pub height: u32,
}

/// Checks that the bytes start like a picture within the limits, without reading its pixels.
///
/// # Errors
/// Those of [`decode`] that the header shows.
pub fn look(name: &str, bytes: &[u8], limits: &Limits) -> Result<Look, JobError> {
    let invalid = |reason: String| JobError::InvalidImage { input: name.to_owned(), reason };
    let format = container::recognize(bytes).map_err(invalid)?;
    if let Some(size) = container::survey(format, bytes).map_err(invalid)?.size {
        check_size(name, size, limits)?;
    }
    let (width, height) = open(format, bytes, limits).map_err(|error| explain(name, format, error))?.dimensions();
    check_size(name, (width, height), limits)?;
    let ending = format.extensions_str().first().copied().unwrap_or("bin");
    Ok(Look { ending, width, height })
}

/// Reads the header. The decoder's own allocations are limited, too: 16 bytes per allowed pixel cover 16-bit RGBA and a
/// working copy.
fn open<'a>(format: ImageFormat, bytes: &'a [u8], limits: &Limits) -> Result<Box<dyn ImageDecoder + 'a>, ImageError> {
    let mut allowed = ::image::Limits::default();
    allowed.max_image_width = Some(limits.max_width);
    allowed.max_image_height = Some(limits.max_height);
    allowed.max_alloc = Some(limits.max_pixels.saturating_mul(16).saturating_add(limits.max_bytes));

    let reader = Cursor::new(bytes);
    let mut decoder: Box<dyn ImageDecoder + 'a> = match format {
        ImageFormat::Png => Box::new(png::PngDecoder::with_limits(reader, allowed.clone())?),
        ImageFormat::Jpeg => Box::new(jpeg::JpegDecoder::new(reader)?),
        ImageFormat::WebP => Box::new(webp::WebPDecoder::new(reader)?),
        ImageFormat::Gif => Box::new(gif::GifDecoder::new(reader)?),
        ImageFormat::Bmp => Box::new(bmp::BmpDecoder::new(reader)?),
        _ => Box::new(tiff::TiffDecoder::new(reader)?),
    };
    decoder.set_limits(allowed)?;
    Ok(decoder)
}

fn check_size(name: &str, (width, height): (u32, u32), limits: &Limits) -> Result<(), JobError> {
    if width == 0 || height == 0 {
        return Err(JobError::InvalidImage {
            input: name.to_owned(),
            reason: format!("the picture is {width}x{height} pixels; both sides must be at least 1"),
        });
    }
    let pixels = u64::from(width) * u64::from(height);
    let Limits { max_width, max_height, max_pixels, .. } = *limits;
    if width > max_width || height > max_height || pixels > max_pixels {
        return Err(JobError::ImageTooLarge {
            input: name.to_owned(),
            reason: format!(
                "the picture says it is {width}x{height} pixels; the limits are {max_width} wide, {max_height} high \
                 and {max_pixels} pixels in all"
            ),
        });
    }
    Ok(())
}

/// Notes what the conversion to 8 bits loses, and refuses unsupported pixel formats.
fn note_kind(
    format: ImageFormat,
    survey: &Survey,
    decoder: &dyn ImageDecoder,
    note: &mut impl FnMut(String),
) -> Result<(), String> {
    match decoder.color_type() {
        ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8 => {}
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            note("16 bits per channel, rounded to 8".to_owned());
        }
        other => return Err(format!("its pixels are {other:?}; save it with 8 or 16 bits per channel")),
    }
    if survey.cmyk || is_cmyk(decoder) {
        note("CMYK, converted to RGB without a color profile".to_owned());
    }
    if survey.frames > 1 {
        let kind = match format {
            ImageFormat::Tiff => format!("TIFF with {} pages", survey.frames),
            ImageFormat::Png => format!("animated PNG with {} frames", survey.frames),
            _ => format!("animated {} with {} frames", container::label(format), survey.frames),
        };
        note(format!("{kind}; only the first was used"));
    }
    Ok(())
}

fn is_cmyk(decoder: &dyn ImageDecoder) -> bool {
    matches!(decoder.original_color_type(), ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16)
}

fn explain(name: &str, format: ImageFormat, error: ImageError) -> JobError {
    let (input, label) = (name.to_owned(), container::label(format));
    let reason = match error {
        ImageError::Limits(error) => {
            return JobError::ImageTooLarge { input, reason: format!("decoding this {label} needs too much: {error}") };
        }
        ImageError::Unsupported(error) => {
            format!("this kind of {label} is not supported ({error}); save it as a plain PNG")
        }
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            format!("the {label} is cut short; download or save it again")
        }
        error => match plain(&error.to_string()) {
            Some(said) => format!("the {label} is damaged or cut short ({said}); download or save it again"),
            None => format!("the {label} is damaged; download or save it again"),
        },
    };
    JobError::InvalidImage { input, reason }
}

/// The decoder's message, if it is readable: some print their internal values.
fn plain(said: &str) -> Option<&str> {
    if said.contains("CRC error") {
        return Some("its checksum does not match its data");
    }
    (!said.contains(['{', '}'])).then_some(said)
}

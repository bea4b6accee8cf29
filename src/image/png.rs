//! Layers and pictures as PNG files.

use ::image::RgbaImage;
use ::png::{BitDepth, ColorType, Compression, Encoder, EncodingError, Filter, SrgbRenderingIntent};
use flate2::Crc;

use crate::job::JobError;

/// The bytes of a PNG's signature and header chunk, which begin every file.
const HEADER: usize = 33;

/// The text that marks a sheet: a name, a zero and a value.
const SHEET: &[u8] = b"Title\0acetate contact sheet";

/// How much of a file [`is_sheet`] needs.
pub const SHEET_HEAD: u64 = 128;

/// Encodes as 8-bit RGBA, lossless, including the color of transparent pixels. Says that it is sRGB.
///
/// # Errors
/// [`JobError::InvalidImage`] for a picture that PNG does not support: a side of 0.
pub fn encode_png(image: &RgbaImage) -> Result<Vec<u8>, JobError> {
    write(image).map_err(|error| JobError::InvalidImage {
        input: "output picture".to_owned(),
        reason: format!("{}x{} pixels cannot be written as PNG: {error}", image.width(), image.height()),
    })
}

fn write(image: &RgbaImage) -> Result<Vec<u8>, EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(ColorType::Rgba);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(Filter::Adaptive);
    encoder.set_source_srgb(SrgbRenderingIntent::Perceptual);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image)?;
    writer.finish()?;
    Ok(bytes)
}

/// Adds the mark by which [`is_sheet`] knows it to a PNG.
pub fn marked_as_sheet(png: &[u8]) -> Vec<u8> {
    let (header, rest) = png.split_at(HEADER.min(png.len()));
    [header, &chunk(b"tEXt", SHEET), rest].concat()
}

/// Whether a file that begins with these bytes is a sheet that acetate wrote.
pub fn is_sheet(head: &[u8]) -> bool {
    head.starts_with(b"\x89PNG\r\n\x1a\n")
        && head.get(HEADER..).is_some_and(|rest| rest.starts_with(&chunk(b"tEXt", SHEET)))
}

/// A chunk with its length and checksum.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

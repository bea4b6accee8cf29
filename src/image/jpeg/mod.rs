//! JPEG. zune-jpeg decodes the common kinds; jpeg-decoder those that zune-jpeg gets wrong: one scan for each component,
//! chroma with more samples than luma, unusual sampling, RGB and CMYK. Both are safe Rust or checked by fuzzing; a
//! binding to libjpeg-turbo would need nasm for the same speed, and C that reads untrusted files.
//!
//! Neither decoder says that data are missing in a file that still ends with an end-of-image marker, so
//! [`complete`] looks.

mod complete;
mod header;
mod huffman;

use jpeg_decoder::{ColorTransform, PixelFormat};
use zune_jpeg::zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};

use super::pixels::{Model, Pixels, Samples};
use header::FrameHeader;
pub(super) use header::JpegHeader;

const SAVE_AS: &str = "save it as an ordinary JPEG (baseline or progressive, 8 bits) or as PNG";

/// What the three components of a JPEG inside another file are, which that file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColorOf {
    Rgb,
    YCbCr,
}

/// A decoded picture and notes.
pub(super) struct Opened {
    pub pixels: Pixels,
    pub notes: Vec<String>,
}

impl JpegHeader {
    pub fn size(&self) -> (u32, u32) {
        (self.frame.width.into(), self.frame.height.into())
    }

    /// What decoding holds for each pixel: the result, and the coefficients if they come in several scans.
    pub fn bytes_per_pixel(&self) -> u64 {
        let components = self.frame.components.len() as u64;
        let whole = self.is_common() && !self.frame.is_progressive();
        if whole { components } else { components * 4 }
    }

    /// Whether Adobe's segment is there, whose programs store 0 for full ink.
    pub fn is_adobe(&self) -> bool {
        self.adobe.is_some()
    }

    /// Refuses what neither decoder reads, by its name.
    pub fn check(&self) -> Result<(), String> {
        let FrameHeader { marker, precision, components, .. } = &self.frame;
        let kind = match (marker, precision) {
            (0xc9 | 0xca, _) => "arithmetic coding".to_owned(),
            (0xc3, _) => "lossless coding (not JPEG-LS or JPEG 2000)".to_owned(),
            (0xcb, _) => "lossless arithmetic coding".to_owned(),
            (0xc5..=0xc7 | 0xcd..=0xcf, _) => "hierarchical coding".to_owned(),
            (_, 12) => "12 bits per sample".to_owned(),
            (_, 8) => return self.check_components(components.len()),
            (_, other) => format!("{other} bits per sample"),
        };
        Err(format!("it is a JPEG with {kind}, which acetate does not read; {SAVE_AS}"))
    }

    fn check_components(&self, count: usize) -> Result<(), String> {
        if !matches!(count, 1 | 3 | 4) {
            return Err(format!("it is a JPEG with {count} color components instead of 1, 3 or 4; {SAVE_AS}"));
        }
        let (across, down) = self.frame.most_sampled();
        let fits = |factor: u8, most: u8| (1..=4).contains(&factor) && most.is_multiple_of(factor);
        match self.frame.components.iter().find(|part| !fits(part.across, across) || !fits(part.down, down)) {
            None => Ok(()),
            Some(part) => Err(format!(
                "it is a JPEG whose color is sampled {}x{} where the most is {across}x{down}, which acetate does not \
                 read; {SAVE_AS}",
                part.across, part.down
            )),
        }
    }

    /// The color of the components, by libjpeg's rules.
    fn color(&self) -> ColorTransform {
        let ids: Vec<u8> = self.frame.components.iter().map(|component| component.id).collect();
        match (ids.as_slice(), self.adobe) {
            ([_], _) => ColorTransform::Grayscale,
            ([_, _, _], _) if self.jfif => ColorTransform::YCbCr,
            ([_, _, _], Some(0)) => ColorTransform::RGB,
            ([_, _, _], Some(_)) => ColorTransform::YCbCr,
            (b"RGB", None) => ColorTransform::RGB,
            ([_, _, _, _], Some(2)) => ColorTransform::YCCK,
            ([_, _, _, _], _) => ColorTransform::CMYK,
            _ => ColorTransform::YCbCr,
        }
    }

    /// Whether zune-jpeg decodes it right: all components in each scan, and luma with the most samples.
    fn is_common(&self) -> bool {
        match self.frame.components.as_slice() {
            [_] => true,
            [luma, chroma @ ..] if chroma.len() == 2 => {
                (self.interleaved || self.frame.is_progressive())
                    && matches!((luma.across, luma.down), (1 | 2, 1 | 2))
                    && chroma.iter().all(|part| (part.across, part.down) == (1, 1))
            }
            _ => false,
        }
    }
}

/// Decodes a file whose header was read and checked. `color` overrides what the file says of its three components;
/// `most_memory` limits what the decoders allocate, in bytes.
pub(super) fn decode(
    bytes: &[u8],
    header: &JpegHeader,
    color: Option<ColorOf>,
    most_memory: usize,
) -> Result<Opened, String> {
    let mut notes = Vec::new();
    let found = complete::examine(bytes, &header.frame);
    if found.lacks_component || found.intact < found.blocks {
        let part = (found.blocks - found.intact) as f64 / found.blocks.max(1) as f64;
        let much = match (found.lacks_component, part) {
            (true, _) => "a color of it has no data at all".to_owned(),
            (false, ..0.01) => "less than 1 % of its picture data is missing or unreadable".to_owned(),
            (false, part) => format!("{:.0} % of its picture data is missing or unreadable", part * 100.0),
        };
        return Err(format!("the JPEG is damaged: {much}; download or save it again"));
    }
    if found.lacks_detail {
        notes.push("a progressive JPEG without its last scans; it is less sharp than it was".to_owned());
    }
    let color = match color.filter(|_| header.frame.components.len() == 3) {
        Some(ColorOf::Rgb) => ColorTransform::RGB,
        Some(ColorOf::YCbCr) => ColorTransform::YCbCr,
        None => header.color(),
    };
    let common = header.is_common() && color == header.color() && color != ColorTransform::RGB;
    // Its data are complete, so what zune-jpeg refuses is a segment that nobody needs.
    let pixels = match common.then(|| common_kind(bytes, header)) {
        Some(Ok(pixels)) => pixels,
        Some(Err(_)) | None => unusual(bytes, header, color, most_memory)?,
    };
    Ok(Opened { pixels, notes })
}

fn common_kind(bytes: &[u8], header: &JpegHeader) -> Result<Pixels, String> {
    let (model, space) = match header.frame.components.len() {
        1 => (Model::Gray, ColorSpace::Luma),
        _ => (Model::Rgb, ColorSpace::RGB),
    };
    // Strict, it would also refuse bytes between segments, which many programs write.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(space);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let samples = decoder.decode().map_err(|error| damaged(&error.to_string()))?;
    assemble(header, model, samples)
}

fn unusual(bytes: &[u8], header: &JpegHeader, color: ColorTransform, most_memory: usize) -> Result<Pixels, String> {
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    decoder.set_color_transform(color);
    decoder.set_max_decoding_buffer_size(most_memory);
    let mut samples = decoder.decode().map_err(|error| damaged(&error.to_string()))?;
    let format = decoder.info().map(|info| info.pixel_format);
    let model = match format {
        Some(PixelFormat::L8) => Model::Gray,
        Some(PixelFormat::RGB24) => Model::Rgb,
        Some(PixelFormat::CMYK32) => {
            // jpeg-decoder inverts the samples, which is right for Adobe's files: they have 0 for full ink.
            if header.adobe.is_none() {
                samples.iter_mut().for_each(|sample| *sample = 255 - *sample);
            }
            Model::Cmyk
        }
        other => return Err(format!("it is a JPEG of an unknown pixel type ({other:?}); {SAVE_AS}")),
    };
    assemble(header, model, samples)
}

fn assemble(header: &JpegHeader, model: Model, samples: Vec<u8>) -> Result<Pixels, String> {
    let (width, height) = header.size();
    if samples.len() != width as usize * height as usize * model.channels() {
        return Err(damaged("it has another size than its header says"));
    }
    Ok(Pixels { width, height, model, alpha: false, samples: Samples::Eight(samples) })
}

fn damaged(said: &str) -> String {
    // Some messages print internal values.
    let said = if said.contains(['{', '}', '"']) {
        String::new()
    } else {
        format!(" ({})", said.trim_end_matches(['.', '\n']))
    };
    format!("the JPEG is damaged{said}; download or save it again")
}

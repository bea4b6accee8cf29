//! Reads PNG with the `png` crate. The chunks about color are read here, because their data must be bounded and the
//! `image` crate does not report them.

use std::{
    borrow::Cow,
    io::{Cursor, Read},
};

use flate2::read::ZlibDecoder;
use png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::{
    color::{Encoding, MOST_PROFILE, Profile},
    exif::{Exif, xmp_orientation},
    pixels::{CodecError, Model, Pixels, Samples},
};

/// sRGB's gamma and primaries, as gAMA and cHRM have them: times 100,000.
const SRGB_GAMMA: u32 = 45_455;
const SRGB_PRIMARIES: [u32; 8] = [31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000];
/// Rounding, and 2.2 for sRGB's curve.
const GAMMA_TOLERANCE: u32 = 1_000;
const PRIMARIES_TOLERANCE: u32 = 1_000;
/// The most bytes of a text that are decompressed.
const MOST_TEXT: u64 = 1 << 20;
/// The content of a valid cICP chunk, sRGB, and its checksum.
const SRGB_CICP: [u8; 8] = [1, 13, 0, 1, 0x9c, 0x69, 0x3b, 0x32];

/// Chunks that say how the pixels are to be shown.
#[derive(Debug, Clone, Default)]
pub(super) struct PngInfo<'a> {
    pub encoding: Encoding<'a>,
    pub exif: Exif,
    /// Bytes of a decoded pixel, at most.
    pub pixel_bytes: u64,
    /// Bytes that the decoder must see instead of the file's: it refuses pictures for a cICP chunk that is wrong.
    pub corrections: Vec<(usize, u8)>,
    pub notes: Vec<String>,
}

/// The file was surveyed: its chunks are complete.
pub(super) fn facts(bytes: &[u8]) -> PngInfo<'_> {
    let mut facts = PngInfo::default();
    let (mut gamma, mut primaries, mut turned) = (None, None, None);
    let mut at = 8usize;
    while let (Some(length), Some(kind)) = (word(bytes, at), bytes.get(at + 4..at + 8)) {
        let content = at + 8..(at + 8).saturating_add(length as usize);
        let Some(data) = bytes.get(content.clone()) else { break };
        match kind {
            b"IHDR" => {
                let deep = if data.get(8) == Some(&16) { 2 } else { 1 };
                let channels = if matches!(data.get(9), Some(0 | 4)) { 2 } else { 4 };
                facts.pixel_bytes = deep * channels;
            }
            b"cICP" => {
                let numbers = <[u8; 4]>::try_from(data).ok();
                match numbers {
                    Some([_, _, 0, 0 | 1]) => facts.encoding.cicp = facts.encoding.cicp.or(numbers),
                    Some(numbers) => {
                        facts.notes.push(unusable(numbers));
                        facts.corrections.extend((content.start..).zip(SRGB_CICP));
                    }
                    None => {}
                }
            }
            b"iCCP" => facts.encoding.profile = Some(profile(data)),
            b"sRGB" => facts.encoding.srgb = true,
            b"gAMA" => gamma = word(data, 0),
            b"cHRM" => primaries = (0..8).map(|index| word(data, 4 * index)).collect::<Option<Vec<u32>>>(),
            b"eXIf" => facts.exif = Exif::of(data),
            b"iTXt" => turned = turned.or_else(|| xmp(data)),
            b"zTXt" | b"tEXt" => turned = turned.or_else(|| raw_profile(data, kind == b"zTXt")),
            // Those about color come before the pixels; EXIF may come behind them.
            b"IEND" => break,
            _ => {}
        }
        at = content.end.saturating_add(4);
    }
    facts.exif.orientation = facts.exif.orientation.or(turned);
    facts.encoding.ignored = ignored(gamma, primaries.as_deref());
    facts
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A name, a zero, the compression method, and compressed data of any size.
fn profile(data: &[u8]) -> Profile<'static> {
    let Some(end) = data.iter().take(80).position(|byte| *byte == 0) else { return Profile::Unreadable };
    let mut profile = Vec::new();
    let most = MOST_PROFILE as u64 + 1;
    match ZlibDecoder::new(data.get(end + 2..).unwrap_or_default()).take(most).read_to_end(&mut profile) {
        Ok(size) if size > MOST_PROFILE => Profile::TooLarge,
        Ok(_) => Profile::Bytes(Cow::Owned(profile)),
        Err(_) => Profile::Unreadable,
    }
}

/// PNG has RGB or gray, so the third number, the matrix, is 0.
fn unusable([primaries, transfer, matrix, range]: [u8; 4]) -> String {
    let why = if matrix == 0 { "the range must be 0 or 1" } else { "the matrix must be 0" };
    format!("its cICP chunk ({primaries}, {transfer}, {matrix}, {range}) was ignored: {why}")
}

/// The orientation in an XMP packet, which may be compressed.
fn xmp(data: &[u8]) -> Option<u8> {
    let rest = data.strip_prefix(b"XML:com.adobe.xmp\0")?;
    match rest {
        [0, ..] => xmp_orientation(rest),
        [1, 0, rest @ ..] => {
            // Behind the language and the translated name.
            let packed = rest.splitn(3, |byte| *byte == 0).nth(2)?;
            let mut packet = Vec::new();
            let _ = ZlibDecoder::new(packed).take(MOST_TEXT).read_to_end(&mut packet);
            xmp_orientation(&packet)
        }
        _ => None,
    }
}

/// The orientation in EXIF as ImageMagick writes it: a text with the block in hexadecimal digits behind its length.
fn raw_profile(data: &[u8], compressed: bool) -> Option<u8> {
    const NAMES: [&[u8]; 2] = [b"Raw profile type exif\0", b"Raw profile type APP1\0"];
    let rest = NAMES.iter().find_map(|name| data.strip_prefix(*name))?;
    let mut text = Vec::new();
    match compressed {
        true => drop(ZlibDecoder::new(rest.get(1..)?).take(MOST_TEXT).read_to_end(&mut text)),
        false => text.extend_from_slice(rest),
    }
    // "\nexif\n    1234\n", then the digits, in lines.
    let text = std::str::from_utf8(&text).ok()?;
    let digits: Vec<u8> = text.lines().skip_while(|line| line.is_empty()).skip(2).flat_map(str::bytes).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let block: Vec<u8> = digits.chunks_exact(2).map_while(byte).collect();
    Exif::of(&block).orientation
}

/// Most programs, Pillow among them, show the pixels of such a file as they are.
fn ignored(gamma: Option<u32>, primaries: Option<&[u32]>) -> Option<String> {
    let gamma = gamma.filter(|gamma| gamma.abs_diff(SRGB_GAMMA) > GAMMA_TOLERANCE);
    let far = |list: &&[u32]| list.iter().zip(SRGB_PRIMARIES).any(|(a, b)| a.abs_diff(b) > PRIMARIES_TOLERANCE);
    let what = match (gamma, primaries.filter(far)) {
        (None, None) => return None,
        (Some(gamma), None) => format!("its gamma (gAMA {:.5}) was", f64::from(gamma) / 100_000.0),
        (None, Some(_)) => "its primaries (cHRM) were".to_owned(),
        (Some(gamma), Some(_)) => {
            format!("its gamma (gAMA {:.5}) and its primaries (cHRM) were", f64::from(gamma) / 100_000.0)
        }
    };
    Some(format!("{what} ignored; the pixels were treated as sRGB"))
}

/// The first picture, with 8 or 16 bits; palettes become RGB, and transparent colors alpha.
pub(super) fn decode(bytes: &[u8], most_memory: usize) -> Result<Pixels, CodecError> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: most_memory });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(failure)?;
    let (width, height) = (reader.info().width, reader.info().height);
    let size = reader.output_buffer_size().filter(|size| *size <= most_memory).ok_or(CodecError::TooLarge)?;
    let mut data = vec![0; size];
    let frame = reader.next_frame(&mut data).map_err(failure)?;
    if (frame.width, frame.height) != (width, height) {
        return Err(CodecError::Damaged("its first picture has another size".to_owned()));
    }
    data.truncate(frame.buffer_size());
    let (model, alpha) = match frame.color_type {
        ColorType::Grayscale => (Model::Gray, false),
        ColorType::GrayscaleAlpha => (Model::Gray, true),
        ColorType::Rgb => (Model::Rgb, false),
        ColorType::Rgba => (Model::Rgb, true),
        ColorType::Indexed => return Err(CodecError::Damaged("its palette is missing".to_owned())),
    };
    let samples = match frame.bit_depth {
        BitDepth::Sixteen => {
            Samples::Sixteen(data.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect())
        }
        _ => Samples::Eight(data),
    };
    Ok(Pixels { width, height, model, alpha, samples })
}

fn failure(error: DecodingError) -> CodecError {
    match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => CodecError::CutShort,
        DecodingError::LimitsExceeded => CodecError::TooLarge,
        error => CodecError::Damaged(error.to_string()),
    }
}

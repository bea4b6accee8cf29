//! Reads a file's container: the format, the size, the number of pictures, and whether the file is complete. Decoders
//! tolerate incomplete files, and do not report all of the other facts.

use std::{borrow::Cow, ops::Range};

use super::raw;

/// A format that acetate reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileFormat {
    Png,
    Jpeg,
    WebP,
    Gif,
    Bmp,
    Tiff,
    JpegXl,
    Avif,
    Heic,
}

impl FileFormat {
    /// Its name in messages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::JpegXl => "JPEG XL",
            Self::Avif => "AVIF",
            Self::Heic => "HEIC",
        }
    }

    /// The usual extension of its files.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
            Self::JpegXl => "jxl",
            Self::Avif => "avif",
            Self::Heic => "heic",
        }
    }
}

/// Facts read by walking over a file's parts without decoding them.
pub(super) struct Survey {
    /// Width and height, if they are at a fixed position in the file.
    pub size: Option<(u32, u32)>,
    /// Frames of an animation or pages of a document; at least 1.
    pub frames: usize,
    /// Where a WebP has its color profile, its EXIF block and its XMP packet.
    pub profile: Option<Range<usize>>,
    pub exif: Option<Range<usize>>,
    pub xmp: Option<Range<usize>>,
    /// Bytes that a decoder must see instead of the file's, because it believes a header that is wrong.
    pub corrections: Vec<(usize, u8)>,
    pub notes: Vec<String>,
}

impl Survey {
    fn new(size: Option<(u32, u32)>, frames: usize) -> Self {
        Self { size, frames, profile: None, exif: None, xmp: None, corrections: Vec::new(), notes: Vec::new() }
    }

    /// The file as decoders must see it.
    pub fn corrected<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let mut seen = Cow::Borrowed(bytes);
        for (at, byte) in &self.corrections {
            if let Some(there) = seen.to_mut().get_mut(*at) {
                *there = *byte;
            }
        }
        seen
    }
}

/// The format by the first bytes, or the reason why it is not supported.
pub(super) fn recognize(bytes: &[u8]) -> Result<FileFormat, String> {
    const ACCEPTED: &str = "PNG, JPEG, WebP, GIF, BMP, TIFF, JPEG XL, AVIF and HEIC are accepted";
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if let Some(camera) = raw::recognize(bytes) {
        return Err(format!(
            "it is a camera's raw file, {camera}, which holds only a thumbnail besides the sensor's data; develop it \
             with a raw converter and save it as JPEG, TIFF or PNG"
        ));
    }
    if starts(b"\x89PNG\r\n\x1a\n") {
        Ok(FileFormat::Png)
    } else if starts(b"\xff\xd8\xff") {
        Ok(FileFormat::Jpeg)
    } else if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Ok(FileFormat::WebP)
    } else if starts(b"GIF87a") || starts(b"GIF89a") {
        Ok(FileFormat::Gif)
    } else if starts(b"II*\0") || starts(b"MM\0*") || starts(b"II+\0") || starts(b"MM\0+") {
        Ok(FileFormat::Tiff)
    } else if starts(b"BM") {
        Ok(FileFormat::Bmp)
    } else if starts(b"\xff\x0a") || starts(b"\x00\x00\x00\x0cJXL \r\n\x87\n") {
        Ok(FileFormat::JpegXl)
    } else if let Some(format) = heif(bytes) {
        Ok(format)
    } else if bytes.is_empty() {
        Err(format!("the file is empty; {ACCEPTED}"))
    } else {
        Err(format!("not a readable picture: {}; {ACCEPTED}", describe(bytes)))
    }
}

/// The format of a HEIF file. Its main brand may be general; then the compatible ones say what it is.
fn heif(bytes: &[u8]) -> Option<FileFormat> {
    const HEIC: [&[u8]; 11] =
        [b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"];
    if bytes.get(4..8) != Some(b"ftyp") {
        return None;
    }
    let length = be32(bytes, 0).map_or(0, |length| length as usize).clamp(16, 256);
    let mut brands = bytes.get(8..length.min(bytes.len()))?.chunks_exact(4);
    if brands.clone().any(|brand| matches!(brand, b"avif" | b"avis")) {
        return Some(FileFormat::Avif);
    }
    brands.any(|brand| HEIC.contains(&brand)).then_some(FileFormat::Heic)
}

/// A guess for the message, for files that people often send by mistake.
fn describe(bytes: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 13] = [
        (b"%PDF", "PDF"),
        (b"%!PS", "PostScript"),
        (b"8BPS", "a Photoshop file"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x1f\x8b", "gzip"),
        (b"\x00\x00\x01\x00", "an icon (ICO)"),
        (b"\x00\x00\x00\x0cJXL ", "a JPEG XL whose first bytes were changed, for instance by a transfer in text mode"),
        (b"v/1\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"qoif", "QOI"),
        (b"DDS ", "DDS"),
        (b"\x89PNG", "a PNG whose first bytes were changed, for instance by a transfer in text mode"),
        (b"version https://git-lfs", "a Git LFS pointer; fetch the real file"),
    ];
    if let Some((_, what)) = KNOWN.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return format!("the bytes look like {what}");
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return "the bytes look like a video".to_owned();
    }
    let head = &bytes[..bytes.len().min(512)];
    let Ok(text) = std::str::from_utf8(head).or_else(|error| std::str::from_utf8(&head[..error.valid_up_to()])) else {
        return "the format is unknown".to_owned();
    };
    let text = text.trim_start_matches('\u{feff}').trim_start().to_lowercase();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        "the bytes look like HTML, perhaps an error page".to_owned()
    } else if text.contains("<svg") {
        "the bytes look like SVG; render it to PNG first".to_owned()
    } else if text.starts_with("<?xml") {
        "the bytes look like XML, perhaps an error message of a store".to_owned()
    } else if text.starts_with('{') || text.starts_with('[') {
        "the bytes look like JSON".to_owned()
    } else if text.len() >= head.len().min(16) && !text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        "the bytes look like plain text".to_owned()
    } else {
        let hex: Vec<String> = bytes.iter().take(8).map(|byte| hex::encode([*byte])).collect();
        format!("the bytes begin with {}, which is not a known format", hex.join(" "))
    }
}

/// Walks over the file. An error says where it ends early.
pub(super) fn survey(format: FileFormat, bytes: &[u8]) -> Result<Survey, String> {
    let found = match format {
        FileFormat::Png => png(bytes),
        FileFormat::Jpeg => jpeg(bytes),
        FileFormat::WebP => webp(bytes),
        FileFormat::Gif => gif(bytes),
        FileFormat::Bmp => Some(Survey::new(bmp_size(bytes), 1)),
        // A TIFF and a HEIF file have no order, and a JPEG XL no lengths; what is missing shows when they are read.
        FileFormat::Tiff | FileFormat::JpegXl | FileFormat::Avif | FileFormat::Heic => Some(Survey::new(None, 1)),
    };
    found.ok_or_else(|| {
        format!("the {} is cut short: it ends after {} bytes; download or save it again", format.label(), bytes.len())
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?).into())
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn le16(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?).into())
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Chunk after chunk until IEND.
fn png(bytes: &[u8]) -> Option<Survey> {
    let mut survey = Survey::new(Some((be32(bytes, 16)?, be32(bytes, 20)?)), 1);
    let mut at = 8usize;
    loop {
        let length = be32(bytes, at)? as usize;
        let kind = bytes.get(at + 4..at + 8)?;
        if kind == b"acTL" {
            survey.frames = be32(bytes, at + 8)?.max(1) as usize;
        }
        at = at.checked_add(length)?.checked_add(12)?;
        if at > bytes.len() {
            return None;
        }
        if kind == b"IEND" {
            return Some(survey);
        }
    }
}

/// Segment after segment until the end-of-image marker. Thumbnails are inside segments and are skipped.
fn jpeg(bytes: &[u8]) -> Option<Survey> {
    let mut survey = Survey::new(None, 1);
    let mut at = 2usize;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        let marker = *bytes.get(at + 1)?;
        match marker {
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd7 => at += 2,
            0xd9 => return Some(survey),
            _ => {
                // SOF0 to SOF15, except the three codes that mean something else.
                if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
                    survey.size = Some((be16(bytes, at + 7)?, be16(bytes, at + 5)?));
                }
                // After a start of scan comes entropy-coded data, in which 0xff is followed by 0 or a restart marker.
                at += 2 + be16(bytes, at + 2)?.max(2) as usize;
            }
        }
    }
}

/// RIFF chunks; each frame of an animation is one. The alpha flag of a still is corrected: lossless data say themselves
/// whether they have alpha, and lossy ones have it in a chunk of its own.
fn webp(bytes: &[u8]) -> Option<Survey> {
    let end = (le32(bytes, 4)? as usize).checked_add(8)?;
    if end > bytes.len() {
        return None;
    }
    const FLAGS: usize = 20;
    const ALPHA: u8 = 0x10;
    let mut survey = Survey::new(None, 0);
    let (mut lossless, mut lossy, mut has_alpha) = (None, false, false);
    let extended = bytes.get(12..16) == Some(b"VP8X");
    if extended {
        // The canvas: 24 bits per side, minus one.
        survey.size = Some(((le32(bytes, 24)? & 0xff_ffff) + 1, (le32(bytes, 26)? >> 8) + 1));
    }
    let mut at = 12usize;
    while let (Some(kind), Some(length)) = (bytes.get(at..at + 4), le32(bytes, at + 4)) {
        survey.frames += usize::from(kind == b"ANMF");
        let content = at + 8..(at + 8).saturating_add(length as usize);
        match kind {
            b"ICCP" => survey.profile = Some(content),
            b"EXIF" => survey.exif = Some(content),
            b"XMP " => survey.xmp = Some(content),
            // A signature, 14 bits for each side, and the bit.
            b"VP8L" if lossless.is_none() => lossless = bytes.get(at + 12).map(|byte| byte & ALPHA != 0),
            b"VP8 " => lossy = true,
            b"ALPH" => has_alpha = true,
            _ => {}
        }
        at = at.checked_add(8)?.checked_add(length as usize)?.checked_add(length as usize % 2)?;
    }
    if extended && survey.frames == 0 {
        let flags = *bytes.get(FLAGS)?;
        let told = flags & ALPHA != 0;
        let alpha = if lossy { told && has_alpha } else { told || lossless == Some(true) };
        if alpha != told {
            survey.corrections.push((FLAGS, flags ^ ALPHA));
        }
    }
    survey.frames = survey.frames.max(1);
    Some(survey)
}

/// Blocks until the trailer. Data after a complete first frame may be missing, because it is not used. A screen that is
/// smaller than the first frame grows.
fn gif(bytes: &[u8]) -> Option<Survey> {
    let mut survey = Survey::new(Some((le16(bytes, 6)?, le16(bytes, 8)?)), 0);
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3usize << ((flags & 7) + 1) };
    let mut at = 13 + table(*bytes.get(10)?);
    loop {
        let next = match bytes.get(at) {
            Some(0x21) => sub_blocks(bytes, at + 2),
            Some(0x2c) => bytes.get(at + 9).and_then(|flags| sub_blocks(bytes, at + 11 + table(*flags))),
            _ => break,
        };
        let Some(next) = next else { break };
        if bytes[at] == 0x2c {
            survey.frames += 1;
            if survey.frames == 1 {
                grow_screen(&mut survey, bytes, at + 1)?;
            }
        }
        at = next;
    }
    (survey.frames > 0).then_some(survey)
}

/// `at` is the place and size of the first frame.
fn grow_screen(survey: &mut Survey, bytes: &[u8], at: usize) -> Option<()> {
    let (x, y, width, height) = (le16(bytes, at)?, le16(bytes, at + 2)?, le16(bytes, at + 4)?, le16(bytes, at + 6)?);
    let (across, down) = survey.size?;
    let grown = [across.max(x + width), down.max(y + height)].map(|side| u16::try_from(side).unwrap_or(u16::MAX));
    let [new_across, new_down] = grown.map(u32::from);
    if (new_across, new_down) != (across, down) {
        survey.size = Some((new_across, new_down));
        survey.corrections.extend((6..).zip(grown.into_iter().flat_map(u16::to_le_bytes)));
        survey.notes.push(format!(
            "its first frame, {width}x{height} at {x}, {y}, reaches beyond its screen of {across}x{down}, which was \
             made {new_across}x{new_down}"
        ));
    }
    Some(())
}

/// The end of the chain of length-prefixed GIF blocks that starts at `at`.
fn sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

/// The old core header has 16-bit sides; in later ones the height is negative if rows go from top to bottom.
fn bmp_size(bytes: &[u8]) -> Option<(u32, u32)> {
    if le32(bytes, 14)? == 12 {
        Some((le16(bytes, 18)?, le16(bytes, 20)?))
    } else {
        Some((le32(bytes, 18)?, le32(bytes, 22)?.cast_signed().unsigned_abs()))
    }
}

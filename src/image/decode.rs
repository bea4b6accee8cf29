//! Decodes pictures under limits, with a note for every conversion.

use std::{
    borrow::Cow,
    io::{Cursor, ErrorKind},
    panic::{AssertUnwindSafe, catch_unwind},
};

use ::image::codecs::{bmp, gif, webp};
use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageError, RgbaImage};

use super::color::{self, Encoding, MOST_PROFILE, Profile};
use super::container::{self, FileFormat, Survey};
use super::exif::{Exif, xmp_orientation};
use super::heif::Heif;
use super::jxl::Jxl;
use super::limits::DecodeLimits;
use super::pixels::{CodecError, Pixels};
use super::tiff::Tiff;
use super::{jpeg, png_file};
use crate::job::JobError;

/// A decoded picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub pixels: RgbaImage,
    /// Notes about conversions for the manifest, without the picture's name.
    pub notes: Vec<String>,
}

/// Decodes PNG, JPEG, WebP, GIF, BMP, TIFF, JPEG XL, AVIF or HEIC, detected by content. `name` is only for messages.
///
/// Takes the first picture of animations and multi-page files, applies the EXIF orientation, converts to sRGB by the
/// file's color profile, CICP numbers or Adobe RGB mark, converts CMYK and Lab, and then rounds 16 bits to 8; each of
/// these adds a note.
///
/// # Errors
/// [`JobError::ImageTooLarge`] beyond a limit; [`JobError::InvalidImage`] if the bytes are not a picture, an incomplete
/// one, or an unsupported one. A truncated picture is always an error, never partly gray.
pub fn decode(name: &str, bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, JobError> {
    guarded(name, || {
        limits.check_file(name, bytes.len() as u64)?;
        let header = PictureHeader::read(name, bytes, limits)?;
        let frames = header.frames_note();
        let orientation = header.orientation();
        let most_memory = usize::try_from(limits.max_memory).unwrap_or(usize::MAX);

        let mut notes = Vec::new();
        let mut note = |text: String| notes.push(text);
        header.survey.notes.iter().cloned().for_each(&mut note);
        let pixels = header.pixels(name, bytes, most_memory, &mut note)?;
        let mut pixels = color::to_srgb(pixels, &header.encoding, &mut note);
        if let Some(frames) = frames {
            note(frames);
        }
        if orientation != Orientation::NoTransforms {
            note(format!("rotated according to its EXIF orientation, {}", orientation.to_exif()));
            let mut turned = DynamicImage::from(pixels);
            turned.apply_orientation(orientation);
            pixels = turned.into_rgba8();
        }
        Ok(Decoded { pixels, notes })
    })
}

/// The facts in a picture's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureInfo {
    /// The file's extension: `png`.
    pub ending: &'static str,
    /// As it is shown: after the EXIF orientation.
    pub width: u32,
    pub height: u32,
    /// Bytes that decoding it needs at its peak, beside the file.
    pub memory: u64,
}

impl PictureInfo {
    /// Bytes of the decoded picture.
    pub fn decoded(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height) * 4
    }
}

/// Checks that the bytes start like a picture within the limits, without reading its pixels.
///
/// # Errors
/// Those of [`decode`] that the header shows.
pub fn probe(name: &str, bytes: &[u8], limits: &DecodeLimits) -> Result<PictureInfo, JobError> {
    guarded(name, || {
        let header = PictureHeader::read(name, bytes, limits)?;
        let (mut width, mut height) = header.size;
        if header.orientation().to_exif() >= 5 {
            (width, height) = (height, width);
        }
        Ok(PictureInfo { ending: header.format.extension(), width, height, memory: header.memory() })
    })
}

/// Whether a PNG's pixels are what [`decode`] makes of them: 8 bits, sRGB, upright, one picture. False for anything
/// else.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    let Ok(header) = PictureHeader::read("", bytes, &DecodeLimits::default()) else { return false };
    let says_nothing = Encoding { srgb: header.encoding.srgb, ..Encoding::default() };
    matches!(header.kind, FormatHeader::Png { .. })
        && bytes.get(24) == Some(&8)
        && header.orientation() == Orientation::NoTransforms
        && header.encoding == says_nothing
        && header.survey.frames == 1
        && header.survey.corrections.is_empty()
}

/// Names the file if a decoder panics. None is known to; this is for those that nobody has found.
fn guarded<T>(name: &str, work: impl FnOnce() -> Result<T, JobError>) -> Result<T, JobError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(JobError::InvalidImage {
            input: name.to_owned(),
            reason: "crashes the picture decoder; convert it with another program, and please report it".to_owned(),
        })
    })
}

/// Everything about a picture but its pixels.
struct PictureHeader<'a> {
    format: FileFormat,
    survey: Survey,
    size: (u32, u32),
    /// Bytes of the file.
    file: u64,
    exif: Exif,
    encoding: Encoding<'a>,
    kind: FormatHeader<'a>,
}

enum FormatHeader<'a> {
    Png {
        pixel_bytes: u64,
    },
    Jpeg(jpeg::JpegHeader),
    Tiff(Box<Tiff<'a>>),
    Jxl(Box<Jxl>),
    Heif(Box<Heif<'a>>),
    /// A format that the `image` crate decodes.
    Other,
}

impl<'a> PictureHeader<'a> {
    /// Reads and checks it.
    fn read(name: &str, bytes: &'a [u8], limits: &DecodeLimits) -> Result<Self, JobError> {
        let invalid = |reason: String| JobError::InvalidImage { input: name.to_owned(), reason };
        let format = container::recognize(bytes).map_err(invalid)?;
        let survey = container::survey(format, bytes).map_err(invalid)?;
        if let Some(size) = survey.size {
            limits.check_size(name, size)?;
        }
        let part = |range: &Option<std::ops::Range<usize>>| range.clone().and_then(|range| bytes.get(range));
        let mut header = Self {
            format,
            size: survey.size.unwrap_or_default(),
            file: bytes.len() as u64,
            exif: part(&survey.exif).map(Exif::of).unwrap_or_default(),
            encoding: Encoding { profile: part(&survey.profile).map(bounded), ..Encoding::default() },
            kind: FormatHeader::Other,
            survey,
        };
        header.exif.orientation = header.exif.orientation.or(part(&header.survey.xmp).and_then(xmp_orientation));
        match format {
            FileFormat::Png => {
                let facts = png_file::facts(bytes);
                header.exif = facts.exif;
                header.encoding = facts.encoding;
                header.survey.corrections = facts.corrections;
                header.survey.notes = facts.notes;
                header.kind = FormatHeader::Png { pixel_bytes: facts.pixel_bytes };
            }
            FileFormat::Jpeg => {
                let jpeg = jpeg::JpegHeader::read(bytes, MOST_PROFILE).ok_or_else(|| {
                    invalid("the JPEG is damaged: it has no frame; download or save it again".to_owned())
                })?;
                header.size = jpeg.size();
                limits.check_size(name, header.size)?;
                jpeg.check().map_err(invalid)?;
                header.exif = part(&jpeg.exif).map(Exif::of).unwrap_or_default();
                header.exif.orientation = header.exif.orientation.or(part(&jpeg.xmp).and_then(xmp_orientation));
                header.encoding.profile = jpeg.icc.clone().map(|profile| Profile::Bytes(profile.into()));
                header.kind = FormatHeader::Jpeg(jpeg);
            }
            FileFormat::Tiff => {
                let tiff = Tiff::open(bytes).map_err(invalid)?;
                header.size = tiff.size();
                header.survey.frames = tiff.pages();
                header.exif = Exif { orientation: tiff.orientation(), ..Exif::of(bytes) };
                header.encoding.profile = tiff.icc(MOST_PROFILE).map(|profile| Profile::Bytes(profile.into()));
                header.kind = FormatHeader::Tiff(Box::new(tiff));
            }
            FileFormat::JpegXl => {
                let most = usize::try_from(limits.max_memory).unwrap_or(usize::MAX);
                let jxl = Jxl::open(bytes, most, |size| limits.check_size(name, size))?
                    .map_err(|error| explain_codec(name, format, error))?;
                header.size = jxl.size();
                header.survey.frames = jxl.frames();
                header.encoding.profile = jxl.icc().map(bounded);
                header.kind = FormatHeader::Jxl(Box::new(jxl));
            }
            FileFormat::Avif | FileFormat::Heic => {
                let heif = Heif::open(bytes).map_err(|error| explain_codec(name, format, error))?;
                limits.check_size(name, heif.coded_size())?;
                header.format = heif.format;
                header.size = heif.size;
                header.survey.frames = heif.frames;
                // HEIF turns pictures by its own properties; the orientation in EXIF only tells of them.
                header.exif = heif.exif.as_deref().map(Exif::of).unwrap_or_default();
                header.exif.orientation = None;
                header.encoding.profile = heif.profile.map(bounded);
                header.encoding.cicp = heif.cicp();
                header.kind = FormatHeader::Heif(Box::new(heif));
            }
            FileFormat::WebP | FileFormat::Gif | FileFormat::Bmp => {
                let seen = header.survey.corrected(bytes);
                let decoder = open(format, seen, limits.max_memory).map_err(|error| explain(name, format, error))?;
                header.size = decoder.dimensions();
            }
        }
        limits.check_size(name, header.size)?;
        header.encoding.adobe_rgb = header.exif.adobe_rgb;
        limits.check_memory(name, header.memory())?;
        Ok(header)
    }

    /// Bytes that decoding needs at its peak: what the decoder holds, the result, and a second one to turn it.
    fn memory(&self) -> u64 {
        let pixels = u64::from(self.size.0) * u64::from(self.size.1);
        let decoder = match &self.kind {
            FormatHeader::Png { pixel_bytes } => pixels * pixel_bytes,
            FormatHeader::Jpeg(jpeg) => pixels * jpeg.bytes_per_pixel(),
            FormatHeader::Tiff(tiff) => tiff.memory(),
            FormatHeader::Jxl(jxl) => pixels * jxl.bytes_per_pixel(),
            FormatHeader::Heif(heif) => heif.memory(),
            // The frame and the canvas.
            FormatHeader::Other => pixels * 8,
        };
        let turned = if self.orientation() == Orientation::NoTransforms { 0 } else { pixels * 4 };
        let corrected = if self.survey.corrections.is_empty() { 0 } else { self.file };
        // The decoder's samples are freed before the picture is turned.
        (decoder + corrected + pixels * 4).max(pixels * 4 + turned)
    }

    fn orientation(&self) -> Orientation {
        self.exif.orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
    }

    fn frames_note(&self) -> Option<String> {
        let frames = self.survey.frames;
        let kind = match self.format {
            _ if frames < 2 => return self.others_note(),
            FileFormat::Tiff => return self.page_note(),
            FileFormat::Png => format!("animated PNG with {frames} frames"),
            format => format!("animated {} with {frames} frames", format.label()),
        };
        Some(format!("{kind}; only the first was used"))
    }

    fn page_note(&self) -> Option<String> {
        let FormatHeader::Tiff(tiff) = &self.kind else { return None };
        let used = match tiff.page() {
            0 => "the first was used".to_owned(),
            page => format!("page {} was used, the first that is not a thumbnail or a mask", page + 1),
        };
        Some(format!("TIFF with {} pages; only {used}", tiff.pages()))
    }

    /// A HEIF file may have several pictures, of which one is the main one.
    fn others_note(&self) -> Option<String> {
        let FormatHeader::Heif(heif) = &self.kind else { return None };
        let (label, pictures) = (self.format.label(), heif.pictures);
        (pictures > 1).then(|| format!("{label} with {pictures} pictures; only the main one was used"))
    }

    fn pixels(
        &self,
        name: &str,
        bytes: &[u8],
        most_memory: usize,
        note: &mut impl FnMut(String),
    ) -> Result<Pixels, JobError> {
        let invalid = |reason: String| JobError::InvalidImage { input: name.to_owned(), reason };
        let broken = |error| explain_codec(name, self.format, error);
        match &self.kind {
            FormatHeader::Png { .. } => png_file::decode(&self.survey.corrected(bytes), most_memory).map_err(broken),
            FormatHeader::Jpeg(jpeg) => {
                let opened = jpeg::decode(bytes, jpeg, None, most_memory).map_err(invalid)?;
                opened.notes.into_iter().for_each(note);
                Ok(opened.pixels)
            }
            FormatHeader::Tiff(tiff) => {
                let (pixels, notes) = tiff.decode().map_err(invalid)?;
                notes.into_iter().for_each(note);
                Ok(pixels)
            }
            FormatHeader::Jxl(jxl) => {
                let (pixels, hdr) = jxl.decode().map_err(broken)?;
                hdr.into_iter().for_each(note);
                Ok(pixels)
            }
            FormatHeader::Heif(heif) => heif.decode().map_err(broken),
            FormatHeader::Other => {
                let refused = |error| explain(name, self.format, error);
                let seen = self.survey.corrected(bytes);
                let decoder = open(self.format, seen, most_memory as u64).map_err(refused)?;
                let image = DynamicImage::from_decoder(decoder).map_err(refused)?;
                Pixels::try_from(image)
                    .map_err(|kind| invalid(format!("its pixels are {kind}; save it with 8 or 16 bits per channel")))
            }
        }
    }
}

fn bounded<'a>(profile: impl Into<Cow<'a, [u8]>>) -> Profile<'a> {
    let profile = profile.into();
    if profile.len() > MOST_PROFILE { Profile::TooLarge } else { Profile::Bytes(profile) }
}

/// Reads the header. The decoder's own allocations are limited, too.
fn open<'a>(format: FileFormat, bytes: Cow<'a, [u8]>, most: u64) -> Result<Box<dyn ImageDecoder + 'a>, ImageError> {
    let mut allowed = ::image::Limits::default();
    allowed.max_alloc = Some(most);
    let reader = Cursor::new(bytes);
    let mut decoder: Box<dyn ImageDecoder + 'a> = match format {
        FileFormat::WebP => Box::new(webp::WebPDecoder::new(reader)?),
        FileFormat::Gif => Box::new(gif::GifDecoder::new(reader)?),
        _ => Box::new(bmp::BmpDecoder::new(reader)?),
    };
    decoder.set_limits(allowed)?;
    Ok(decoder)
}

fn explain(name: &str, format: FileFormat, error: ImageError) -> JobError {
    let label = format.label();
    let reason = match error {
        ImageError::Limits(error) => return too_much(name, label, &error.to_string()),
        ImageError::Unsupported(error) => {
            format!("this kind of {label} is not supported ({error}); save it as a plain PNG")
        }
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => cut_short(label),
        error => damaged(label, &error.to_string()),
    };
    JobError::InvalidImage { input: name.to_owned(), reason }
}

fn explain_codec(name: &str, format: FileFormat, error: CodecError) -> JobError {
    let label = format.label();
    let reason = match error {
        CodecError::TooLarge => return too_much(name, label, "the limit is image.max_memory"),
        CodecError::CutShort => cut_short(label),
        CodecError::Unsupported(what) => {
            format!("this kind of {label} is not supported ({what}); save it as a plain PNG or JPEG")
        }
        CodecError::Damaged(said) => damaged(label, &said),
    };
    JobError::InvalidImage { input: name.to_owned(), reason }
}

fn too_much(name: &str, label: &str, said: &str) -> JobError {
    let reason = format!("decoding this {label} needs too much memory: {said}");
    JobError::ImageTooLarge { input: name.to_owned(), reason }
}

fn cut_short(label: &str) -> String {
    format!("the {label} is cut short; download or save it again")
}

fn damaged(label: &str, said: &str) -> String {
    match plain(said) {
        Some(said) => format!("the {label} is damaged or cut short ({said}); download or save it again"),
        None => format!("the {label} is damaged; download or save it again"),
    }
}

/// The decoder's message, if it is readable: some print their internal values.
fn plain(said: &str) -> Option<&str> {
    if said.contains("CRC error") {
        return Some("its checksum does not match its data");
    }
    (!said.contains(['{', '}'])).then_some(said)
}

//! How a TIFF's samples are stored, from its directory.

use super::directory::{Directory, Tag};

const SAVE_AS: &str = "save it as PNG, or as an ordinary TIFF";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    /// Modified Huffman: rows without end-of-line codes, each from a new byte.
    FaxRuns,
    Fax3 {
        two_dimensional: bool,
    },
    Fax4,
    Lzw,
    /// The form before TIFF 6.0: one JPEG stream for the whole picture.
    OldJpeg,
    Jpeg,
    Deflate,
    PackBits,
    Zstd,
    WebP,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Photometric {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
    /// `signed`: a and b are signed; else they have an offset.
    Lab {
        signed: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SampleFormat {
    Unsigned,
    Signed,
    Float,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alpha {
    Straight,
    Premultiplied,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub width: u32,
    pub height: u32,
    pub bits: u32,
    pub format: SampleFormat,
    pub color: Photometric,
    pub compression: Compression,
    pub predictor: u64,
    /// The bits of each byte are reversed.
    pub reversed: bool,
    /// Samples per pixel in the file.
    pub samples: usize,
    /// Samples that are color; alpha follows them.
    pub colors: usize,
    pub alpha: Option<Alpha>,
    /// Each sample has its own chunks.
    pub planar: bool,
    /// The size of a strip or tile, in pixels.
    pub chunk: (u32, u32),
    pub tiled: bool,
    pub offsets: Vec<u64>,
    /// The stored bytes of each chunk.
    pub sizes: Vec<u64>,
    /// The number of samples of luma, across and down, for one of chroma.
    pub subsampling: (usize, usize),
}

impl Layout {
    /// Refuses what is not read, in the user's words.
    pub fn of(directory: &Directory<'_>) -> Result<Self, String> {
        let short =
            |what: &str| format!("the TIFF is damaged or cut short: it has no {what}; download or save it again");
        let side = |tag| directory.number(tag).and_then(|value| u32::try_from(value).ok());
        let width = side(Tag::Width).ok_or_else(|| short("width"))?;
        let height = side(Tag::Height).ok_or_else(|| short("height"))?;
        let depths = directory.numbers(Tag::BitsPerSample).unwrap_or_else(|| vec![1]);
        let samples = directory.number(Tag::SamplesPerPixel).unwrap_or(depths.len() as u64);
        let samples = usize::try_from(samples).ok().filter(|count| (1..=64).contains(count)).ok_or_else(|| {
            format!("it is a TIFF with {samples} samples per pixel, which acetate does not read; {SAVE_AS}")
        })?;
        let bits = depths.first().copied().unwrap_or(1);
        let color = match color(directory)? {
            Photometric::YCbCr if samples < 3 => Photometric::BlackIsZero,
            color => color,
        };
        let colors = match color {
            Photometric::WhiteIsZero | Photometric::BlackIsZero | Photometric::Palette => 1,
            Photometric::Rgb | Photometric::YCbCr | Photometric::Lab { .. } => 3,
            Photometric::Cmyk => 4,
        };
        if samples < colors {
            return Err(short(&format!("{colors} samples per pixel as its color needs")));
        }
        // Samples behind color and alpha may have any depth if they are stored apart; they are not read.
        if depths.iter().take(colors + 1).any(|depth| *depth != bits) {
            let list: Vec<String> = depths.iter().map(u64::to_string).collect();
            let list = list.join(", ");
            return Err(format!("it is a TIFF with {list} bits per sample; the samples must have the same; {SAVE_AS}"));
        }
        let format = format(directory, color)?;
        let usable = match format {
            SampleFormat::Float => matches!(bits, 16 | 24 | 32 | 64),
            SampleFormat::Unsigned | SampleFormat::Signed => matches!(bits, 1..=16 | 24 | 32 | 64),
        };
        if !usable {
            return Err(format!("it is a TIFF with {bits} bits per sample, which acetate does not read; {SAVE_AS}"));
        }
        let compression = compression(directory)?;
        let planar = directory.number(Tag::PlanarConfiguration) == Some(2) && samples > 1;
        if planar && directory.number(Tag::ImageDepth).is_some_and(|slices| slices > 1) {
            return Err(format!("it is a TIFF with slices in planes, which acetate does not read; {SAVE_AS}"));
        }
        let chunks = Chunks::of(directory, width, height).ok_or_else(|| short("complete list of strips or tiles"))?;
        let subsampling = directory.numbers(Tag::YCbCrSubsampling).filter(|list| list.len() >= 2);
        let subsampling = subsampling.map_or((2, 2), |list| (list[0] as usize, list[1] as usize));
        let layout = Self {
            width,
            height,
            bits: bits as u32,
            format,
            color,
            compression,
            predictor: directory.number(Tag::Predictor).unwrap_or(1),
            reversed: directory.number(Tag::FillOrder) == Some(2),
            samples,
            colors,
            alpha: alpha(directory, samples, colors, color),
            planar,
            chunk: chunks.size,
            tiled: chunks.tiled,
            offsets: chunks.offsets,
            sizes: chunks.sizes,
            subsampling,
        };
        layout.checked()
    }

    fn checked(self) -> Result<Self, String> {
        let unread = |what: &str| Err(format!("it is a TIFF with {what}, which acetate does not read; {SAVE_AS}"));
        let fax = matches!(self.compression, Compression::FaxRuns | Compression::Fax3 { .. } | Compression::Fax4);
        if fax && (self.bits != 1 || self.samples_in_chunk() != 1) {
            return unread("fax compression of pixels that are not one bit");
        }
        if fax && self.chunk.0 > u32::from(u16::MAX) {
            return unread("fax compression and more than 65535 pixels in a row");
        }
        if self.color == Photometric::YCbCr && self.compression != Compression::OldJpeg {
            let known = |factor: usize| matches!(factor, 1 | 2 | 4);
            let raw = !matches!(self.compression, Compression::Jpeg | Compression::WebP);
            if self.bits != 8 || raw && self.samples != 3 || !known(self.subsampling.0) || !known(self.subsampling.1) {
                return unread("this form of YCbCr");
            }
            if self.compression != Compression::Jpeg && self.planar && self.subsampling != (1, 1) {
                return unread("YCbCr in planes of different sizes");
            }
        }
        if self.color == Photometric::Palette && (self.bits > 16 || self.format != SampleFormat::Unsigned) {
            return unread("a palette and more than 16 bits per pixel");
        }
        if matches!(self.color, Photometric::Lab { .. }) && !matches!(self.bits, 8 | 16) {
            return unread("Lab of other than 8 or 16 bits");
        }
        if matches!(self.compression, Compression::Jpeg | Compression::WebP) && self.bits != 8 {
            return unread(&format!("JPEG or WebP compression of {} bits", self.bits));
        }
        match self.predictor {
            1 | 2 => Ok(self),
            3 if self.format == SampleFormat::Float => Ok(self),
            other => unread(&format!("predictor {other}")),
        }
    }

    /// Samples per pixel in one chunk.
    pub fn samples_in_chunk(&self) -> usize {
        if self.planar { 1 } else { self.samples }
    }

    /// Samples per pixel that are kept: color and alpha.
    pub fn kept(&self) -> usize {
        self.colors + usize::from(self.alpha.is_some())
    }

    /// Chunks across and down.
    pub fn grid(&self) -> (u32, u32) {
        (self.width.div_ceil(self.chunk.0), self.height.div_ceil(self.chunk.1))
    }

    /// The word for a chunk in messages.
    pub fn part(&self) -> &'static str {
        if self.tiled { "tile" } else { "strip" }
    }
}

struct Chunks {
    size: (u32, u32),
    tiled: bool,
    offsets: Vec<u64>,
    sizes: Vec<u64>,
}

impl Chunks {
    fn of(directory: &Directory<'_>, width: u32, height: u32) -> Option<Self> {
        let side = |tag| directory.number(tag).and_then(|value| u32::try_from(value).ok());
        if let Some(offsets) = directory.numbers(Tag::TileOffsets) {
            let size = (side(Tag::TileWidth)?, side(Tag::TileLength)?);
            let sizes = directory.numbers(Tag::TileByteCounts)?;
            return (size.0 > 0 && size.1 > 0).then_some(Self { size, tiled: true, offsets, sizes });
        }
        // Without it, all rows are in one strip. It is often the largest number instead.
        let rows = directory.number(Tag::RowsPerStrip).map_or(height, |rows| rows.min(height.into()) as u32).max(1);
        let offsets = directory.numbers(Tag::StripOffsets).or_else(|| directory.numbers(Tag::JpegStream))?;
        let sizes = directory.numbers(Tag::StripByteCounts).unwrap_or_else(|| {
            // Old files lack it: a strip reaches to the next one.
            let ends = offsets.iter().skip(1).copied().chain([directory.reader.len() as u64]);
            offsets.iter().zip(ends).map(|(start, end)| end.saturating_sub(*start)).collect()
        });
        Some(Self { size: (width.max(1), rows), tiled: false, offsets, sizes })
    }
}

fn color(directory: &Directory<'_>) -> Result<Photometric, String> {
    let ink_set = directory.number(Tag::InkSet).unwrap_or(1);
    let what = match directory.number(Tag::Photometric).unwrap_or(1) {
        0 => return Ok(Photometric::WhiteIsZero),
        1 | 4 => return Ok(Photometric::BlackIsZero),
        2 => return Ok(Photometric::Rgb),
        3 => return Ok(Photometric::Palette),
        5 if ink_set == 1 => return Ok(Photometric::Cmyk),
        5 => "inks other than cyan, magenta, yellow and black".to_owned(),
        6 => return Ok(Photometric::YCbCr),
        8 => return Ok(Photometric::Lab { signed: true }),
        9 => return Ok(Photometric::Lab { signed: false }),
        10 => "ITU Lab color".to_owned(),
        32844 | 32845 => "LogLuv color (high dynamic range)".to_owned(),
        32803 | 34892 => "a camera's raw samples".to_owned(),
        51177 => "a depth map".to_owned(),
        other => format!("color of an unknown kind ({other})"),
    };
    Err(format!("it is a TIFF with {what}, which acetate does not read; {SAVE_AS}"))
}

fn format(directory: &Directory<'_>, color: Photometric) -> Result<SampleFormat, String> {
    match directory.number(Tag::SampleFormat).unwrap_or(1) {
        // Programs disagree about the format of Lab's a and b.
        _ if matches!(color, Photometric::Lab { .. }) => Ok(SampleFormat::Unsigned),
        1 | 4 => Ok(SampleFormat::Unsigned),
        2 => Ok(SampleFormat::Signed),
        3 => Ok(SampleFormat::Float),
        _ => Err(format!("it is a TIFF with complex numbers, which acetate does not read; {SAVE_AS}")),
    }
}

fn compression(directory: &Directory<'_>) -> Result<Compression, String> {
    let two_dimensional = directory.number(Tag::T4Options).is_some_and(|options| options & 1 == 1);
    let what = match directory.number(Tag::Compression).unwrap_or(1) {
        1 => return Ok(Compression::None),
        2 | 32771 => return Ok(Compression::FaxRuns),
        3 => return Ok(Compression::Fax3 { two_dimensional }),
        4 => return Ok(Compression::Fax4),
        5 => return Ok(Compression::Lzw),
        6 => return Ok(Compression::OldJpeg),
        7 => return Ok(Compression::Jpeg),
        8 | 32946 => return Ok(Compression::Deflate),
        32773 => return Ok(Compression::PackBits),
        50000 => return Ok(Compression::Zstd),
        50001 => return Ok(Compression::WebP),
        9 | 10 | 34661 => "JBIG compression",
        32766 => "NeXT compression",
        32809 => "ThunderScan compression",
        32908 | 32909 => "Pixar's compression",
        33003 | 33004 | 33005 | 34712 => "JPEG 2000 compression",
        34676 | 34677 => "LogLuv compression (high dynamic range)",
        34887 => "LERC compression",
        34933 => "PNG compression",
        22610 | 34934 => "JPEG XR compression",
        34925 => "LZMA compression",
        34892 => "lossy DNG compression",
        50002 | 52546 => "JPEG XL compression",
        _ => {
            let number = directory.number(Tag::Compression).unwrap_or(0);
            return Err(format!(
                "it is a TIFF with an unknown compression ({number}), which acetate does not read; {SAVE_AS}"
            ));
        }
    };
    Err(format!("it is a TIFF with {what}, which acetate does not read; {SAVE_AS}"))
}

/// Alpha is the first sample behind the color, unless the file says that it is something else.
fn alpha(directory: &Directory<'_>, samples: usize, colors: usize, color: Photometric) -> Option<Alpha> {
    if samples <= colors || color == Photometric::Palette && samples > 2 {
        return None;
    }
    match (directory.number(Tag::ExtraSamples), color) {
        (Some(1), _) => Some(Alpha::Premultiplied),
        (Some(2), _) => Some(Alpha::Straight),
        // Corel Draw's number for straight alpha.
        (Some(999), Photometric::Rgb) => Some(Alpha::Straight),
        (Some(_), _) => None,
        (None, Photometric::Rgb) if samples == 4 => Some(Alpha::Straight),
        (None, Photometric::BlackIsZero | Photometric::WhiteIsZero) if samples == 2 => Some(Alpha::Straight),
        (None, _) => None,
    }
}

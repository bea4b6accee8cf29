//! A TIFF's directory: tags and their values. Classic and BigTIFF.

use crate::image::bytes::EndianReader;

/// Tags that decide how a picture is read (TIFF 6.0 and its technical notes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Tag {
    NewSubfileType = 254,
    OldSubfileType = 255,
    Width = 256,
    Height = 257,
    BitsPerSample = 258,
    Compression = 259,
    Photometric = 262,
    FillOrder = 266,
    StripOffsets = 273,
    Orientation = 274,
    SamplesPerPixel = 277,
    RowsPerStrip = 278,
    StripByteCounts = 279,
    PlanarConfiguration = 284,
    T4Options = 292,
    Predictor = 317,
    ColorMap = 320,
    TileWidth = 322,
    TileLength = 323,
    TileOffsets = 324,
    TileByteCounts = 325,
    InkSet = 332,
    ExtraSamples = 338,
    SampleFormat = 339,
    JpegTables = 347,
    JpegStream = 513,
    JpegStreamLength = 514,
    YCbCrCoefficients = 529,
    YCbCrSubsampling = 530,
    ReferenceBlackWhite = 532,
    Xmp = 700,
    ImageDepth = 32997,
    IccProfile = 34675,
}

/// Tags whose values may be apart from their entry, and which decide about the layout.
const LAYOUT: [u16; 10] = [258, 273, 279, 320, 324, 325, 338, 339, 347, 530];

/// The most entries that a directory may have; real ones have a few dozen.
const MOST_ENTRIES: u64 = 4096;
const MOST_PAGES: usize = 10_000;
/// How many pages are looked at for the first that is not a thumbnail or a mask.
const MOST_SEARCHED: usize = 64;

#[derive(Debug, Clone, Copy)]
struct IfdEntry {
    tag: u16,
    kind: u16,
    count: u64,
    /// Where the values are.
    at: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Directory<'a> {
    pub reader: EndianReader<'a>,
    entries: Vec<IfdEntry>,
    /// Directories in the file; at least 1.
    pub pages: usize,
    /// Which of them this is, from 0.
    pub page: usize,
}

impl<'a> Directory<'a> {
    /// The directory of the first page that is not a thumbnail or a mask; if all are, of the first page. None if there
    /// is none or it does not fit into the file.
    pub fn main(bytes: &'a [u8]) -> Option<Self> {
        let reader = EndianReader::of_tiff(bytes)?;
        let (big, first) = match reader.u16(2)? {
            42 => (false, u64::from(reader.u32(4)?)),
            43 if reader.u16(4)? == 8 => (true, reader.u64(8)?),
            _ => return None,
        };
        let (entries, mut next) = read(&reader, first, big)?;
        let mut main = Self { reader, entries, pages: 1, page: 0 };
        // A chain that loops or leaves the file ends the count.
        while let Some(at) = next.filter(|at| *at != 0 && main.pages < MOST_PAGES) {
            let Some(after) = skip(&reader, at, big) else { break };
            if main.pages < MOST_SEARCHED
                && main.is_secondary()
                && let Some((entries, _)) = read(&reader, at, big)
            {
                let other = Self { reader, entries, pages: main.pages, page: main.pages };
                if !other.is_secondary() {
                    main = other;
                }
            }
            main.pages += 1;
            next = after;
        }
        Some(main)
    }

    /// A smaller copy of another page, or its mask.
    fn is_secondary(&self) -> bool {
        const THUMBNAIL_OR_MASK: u64 = 1 | 4;
        const OLD_THUMBNAIL: u64 = 2;
        match self.number(Tag::NewSubfileType) {
            Some(kind) => kind & THUMBNAIL_OR_MASK != 0,
            None => self.number(Tag::OldSubfileType) == Some(OLD_THUMBNAIL),
        }
    }

    /// All values of a tag as whole numbers. None if it is absent, of another type, or outside the file.
    pub fn numbers(&self, tag: Tag) -> Option<Vec<u64>> {
        let entry = self.entry(tag)?;
        let size = size_of(entry.kind)?;
        let count = usize::try_from(entry.count).ok()?;
        self.reader.bytes(entry.at, count.checked_mul(size)?)?;
        (0..count)
            .map(|index| {
                let at = entry.at + index * size;
                match entry.kind {
                    1 | 6 | 7 => self.reader.u8(at).map(u64::from),
                    3 | 8 => self.reader.u16(at).map(u64::from),
                    4 | 9 | 13 => self.reader.u32(at).map(u64::from),
                    16..=18 => self.reader.u64(at),
                    _ => None,
                }
            })
            .collect()
    }

    pub fn number(&self, tag: Tag) -> Option<u64> {
        self.numbers(tag)?.first().copied()
    }

    /// All values of a tag as fractions.
    pub fn fractions(&self, tag: Tag) -> Option<Vec<f32>> {
        let entry = self.entry(tag)?;
        if !matches!(entry.kind, 5 | 10) {
            return Some(self.numbers(tag)?.into_iter().map(|value| value as f32).collect());
        }
        let count = usize::try_from(entry.count).ok()?.min(64);
        (0..count)
            .map(|index| {
                let at = entry.at + index * 8;
                let (above, below) = (self.reader.u32(at)?, self.reader.u32(at + 4)?);
                Some(above as f32 / below.max(1) as f32)
            })
            .collect()
    }

    /// The bytes of a tag, whatever their type.
    pub fn bytes(&self, tag: Tag) -> Option<&'a [u8]> {
        let entry = self.entry(tag)?;
        let size = usize::try_from(entry.count).ok()?.checked_mul(size_of(entry.kind)?)?;
        self.reader.bytes(entry.at, size)
    }

    fn entry(&self, tag: Tag) -> Option<&IfdEntry> {
        self.entries.iter().find(|entry| entry.tag == tag as u16)
    }
}

/// The entries of a directory and the position of the next one.
fn read(reader: &EndianReader<'_>, at: u64, big: bool) -> Option<(Vec<IfdEntry>, Option<u64>)> {
    let at = usize::try_from(at).ok()?;
    let (count, start, size) =
        if big { (reader.u64(at)?, at.checked_add(8)?, 20) } else { (u64::from(reader.u16(at)?), at + 2, 12) };
    let count = usize::try_from(count.min(MOST_ENTRIES)).ok()?;
    let mut entries = Vec::with_capacity(count.min(256));
    for index in 0..count {
        let at = start + index * size;
        let (tag, kind) = (reader.u16(at)?, reader.u16(at + 2)?);
        // An incomplete entry would look like an absent one.
        reader.bytes(at, size)?;
        let (number, value, inline) =
            if big { (reader.u64(at + 4)?, at + 12, 8) } else { (u64::from(reader.u32(at + 4)?), at + 8, 4) };
        let Some(bytes) = size_of(kind).and_then(|size| number.checked_mul(size as u64)) else { continue };
        let place = if bytes <= inline {
            Some(value)
        } else if big {
            reader.u64(value).and_then(|at| usize::try_from(at).ok())
        } else {
            reader.u32(value).map(|at| at as usize)
        };
        let inside = place.filter(|at| usize::try_from(bytes).is_ok_and(|size| reader.bytes(*at, size).is_some()));
        match inside {
            Some(at) => entries.push(IfdEntry { tag, kind, count: number, at }),
            // Without these, the pixels would be read as others than they are. Private tags are often broken.
            None if LAYOUT.contains(&tag) => return None,
            None => {}
        }
    }
    Some((entries, link(reader, start + count * size, big)))
}

/// The position after a directory.
fn skip(reader: &EndianReader<'_>, at: u64, big: bool) -> Option<Option<u64>> {
    let at = usize::try_from(at).ok()?;
    let count = if big { reader.u64(at)? } else { u64::from(reader.u16(at)?) };
    if count > MOST_ENTRIES {
        return None;
    }
    let (start, size) = if big { (at.checked_add(8)?, 20) } else { (at + 2, 12) };
    Some(link(reader, start + count as usize * size, big))
}

fn link(reader: &EndianReader<'_>, at: usize, big: bool) -> Option<u64> {
    if big { reader.u64(at) } else { reader.u32(at).map(u64::from) }
}

/// The bytes of one value of a type.
fn size_of(kind: u16) -> Option<usize> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 | 17 | 18 => Some(8),
        _ => None,
    }
}

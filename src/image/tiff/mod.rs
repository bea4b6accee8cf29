//! TIFF: every kind of sample and compression that programs write, classic and BigTIFF. The `tiff` crate knows few of
//! them and panics on some files, so this reads the directories itself; the codecs are crates.

mod codec;
mod directory;
mod fax;
mod finish;
mod layout;
mod samples;

use std::ops::Range;

use super::exif::xmp_orientation;
use super::pixels::{Pixels, Samples};
use codec::Chunk;
use directory::{Directory, Tag};
use layout::{Compression, Layout, Photometric};
use samples::Plain;

/// Decompressing may write at most this many times the picture's bytes, for chunks that reach far outside it.
const MOST_OUTSIDE: u64 = 16;

/// A TIFF of which the directory of one page was read.
pub(super) struct Tiff<'a> {
    bytes: &'a [u8],
    directory: Directory<'a>,
    layout: Layout,
}

impl<'a> Tiff<'a> {
    /// # Errors
    /// Says what the file lacks, or which kind it is that is not read.
    pub fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let directory = Directory::main(bytes).ok_or("the TIFF is damaged or cut short; download or save it again")?;
        let layout = Layout::of(&directory)?;
        Ok(Self { bytes, directory, layout })
    }

    pub fn size(&self) -> (u32, u32) {
        (self.layout.width, self.layout.height)
    }

    pub fn pages(&self) -> usize {
        self.directory.pages
    }

    /// Which page is read, from 0.
    pub fn page(&self) -> usize {
        self.directory.page
    }

    /// By its tag, or else in XMP.
    pub fn orientation(&self) -> Option<u8> {
        let value = self.directory.number(Tag::Orientation).and_then(|value| u8::try_from(value).ok());
        value.filter(|v| (1..=8).contains(v)).or_else(|| xmp_orientation(self.directory.bytes(Tag::Xmp)?))
    }

    /// The embedded profile. None if there is none, it is larger than `most`, or the color is Lab, which needs none.
    pub fn icc(&self, most: usize) -> Option<&'a [u8]> {
        let lab = matches!(self.layout.color, Photometric::Lab { .. });
        self.directory.bytes(Tag::IccProfile).filter(|profile| !lab && profile.len() <= most)
    }

    /// The bytes that [`Self::decode`] holds, beside the file.
    pub fn memory(&self) -> u64 {
        let Layout { width, height, .. } = self.layout;
        let samples = u64::from(width) * u64::from(height) * self.layout.kept() as u64;
        samples.saturating_mul(Plain::size_of_one(&self.layout)).saturating_add(self.chunk_bytes() as u64)
    }

    /// The pixels, and notes.
    ///
    /// # Errors
    /// Says what is damaged. The caller has checked the size.
    pub fn decode(&self) -> Result<(Pixels, Vec<String>), String> {
        if self.layout.compression == Compression::OldJpeg {
            return self.old_jpeg();
        }
        let layout = &self.layout;
        let (width, height) = (layout.width as usize, layout.height as usize);
        let (across, down) = layout.grid();
        let planes = if layout.planar { layout.samples } else { 1 };
        let in_plane = across as usize * down as usize;
        let chunk_bytes = self.chunk_bytes();
        let picture = width as u64 * height as u64 * layout.samples as u64 * u64::from(layout.bits.div_ceil(8));
        let written = (chunk_bytes as u64).saturating_mul((in_plane * planes) as u64);
        if written > picture.saturating_mul(MOST_OUTSIDE).saturating_add(64 << 20) {
            return Err(self.damaged(&format!("its {}s are far larger than the picture", layout.part())));
        }
        if layout.offsets.len() < in_plane * planes || layout.sizes.len() < in_plane * planes {
            return Err(self.damaged(&format!("its list of {}s is incomplete", layout.part())));
        }
        let mut all = Plain::empty(layout, width * height * layout.kept());
        let tables = self.directory.bytes(Tag::JpegTables);
        for plane in 0..planes {
            if plane >= layout.kept() {
                break;
            }
            for index in 0..in_plane {
                let x = (index as u32 % across) * layout.chunk.0;
                let y = (index as u32 / across) * layout.chunk.1;
                // The last strip has only the rows that are left; tiles are always whole.
                let rows = if layout.tiled { layout.chunk.1 } else { layout.chunk.1.min(layout.height - y) };
                let number = plane * in_plane + index;
                let place = ChunkArea { x: x as usize, y: y as usize, size: (layout.chunk.0, rows), plane, number };
                self.chunk(&place, tables, &mut all)?;
            }
        }
        finish::finish(all, layout, &self.directory)
    }

    /// Decodes a chunk into its place in `all`.
    fn chunk(&self, place: &ChunkArea, tables: Option<&[u8]>, all: &mut Plain) -> Result<(), String> {
        let layout = &self.layout;
        let samples = layout.samples_in_chunk();
        let (columns, rows) = (place.size.0 as usize, place.size.1 as usize);
        let fault = |what: &str| self.damaged(&format!("{} {}{what}", layout.part(), place.number + 1));
        let stored = self.stored(place.number).ok_or_else(|| fault(" is outside the file"))?;
        let wanted = self.wanted(columns, rows);
        let chunk = codec::decompress(stored, layout, tables, place.size, wanted)
            .map_err(|reason| fault(&format!(": {reason}")))?;
        let mut raw = match chunk {
            Chunk::Picture(picture) => {
                return self
                    .picture(&picture, place, all)
                    .ok_or_else(|| fault(" has other pixels than its directory says"));
            }
            Chunk::Raw(raw) => raw,
        };
        if raw.len() < wanted {
            // Some programs leave the unused rows of the last tile out.
            let used = rows.min(layout.height as usize - place.y);
            if raw.len() < self.wanted(columns, used) {
                return Err(fault(&format!(" has {} of {wanted} bytes", raw.len())));
            }
            raw.resize(wanted, 0);
        }
        if layout.color == Photometric::YCbCr && !layout.planar && layout.subsampling != (1, 1) {
            raw = finish::full_chroma(&raw, layout, columns, rows);
        }
        let stride = self.stride(columns);
        for (row, bytes) in raw.chunks_exact_mut(stride).take(rows).enumerate() {
            let y = place.y + row;
            if y >= layout.height as usize {
                break;
            }
            let big = samples::unpredict(bytes, layout, samples, self.directory.reader.little);
            let row = samples::unpack(bytes, columns * samples, layout, big);
            let to = self.target(place.x, y);
            let plane = layout.planar.then_some(place.plane);
            match (&row, &mut *all) {
                (Plain::Eight(row), Plain::Eight(all)) => copy(row, samples, plane, &mut all[to], layout.kept()),
                (Plain::Sixteen(row), Plain::Sixteen(all)) => copy(row, samples, plane, &mut all[to], layout.kept()),
                (Plain::Float(row), Plain::Float(all)) => copy(row, samples, plane, &mut all[to], layout.kept()),
                _ => return Err(fault(" has samples of another kind")),
            }
        }
        Ok(())
    }

    /// Puts a chunk into its place that a codec of whole pictures has decoded.
    fn picture(&self, picture: &Pixels, place: &ChunkArea, all: &mut Plain) -> Option<()> {
        let (layout, samples) = (&self.layout, picture.channels());
        let Samples::Eight(from) = &picture.samples else { return None };
        let Plain::Eight(all) = all else { return None };
        let columns = picture.width as usize;
        let needed = (place.size.0 as usize).min(layout.width as usize - place.x);
        let rows = (place.size.1 as usize).min(layout.height as usize - place.y);
        // WebP leaves an alpha out that is full everywhere.
        let opaque = samples + 1 == layout.kept() && layout.compression == Compression::WebP;
        let enough =
            if layout.planar { samples == 1 } else { samples >= layout.colors && (samples >= layout.kept() || opaque) };
        if columns < needed || (picture.height as usize) < rows || !enough {
            return None;
        }
        for row in 0..rows {
            let bytes = &from[row * columns * samples..(row + 1) * columns * samples];
            let to = &mut all[self.target(place.x, place.y + row)];
            if opaque {
                for (pixel, to) in bytes.chunks_exact(samples).zip(to.chunks_exact_mut(layout.kept())) {
                    to[..samples].copy_from_slice(pixel);
                    to[samples] = 255;
                }
            } else {
                copy(bytes, samples, layout.planar.then_some(place.plane), to, layout.kept());
            }
        }
        Some(())
    }

    /// The samples from `x` to the end of row `y`.
    fn target(&self, x: usize, y: usize) -> Range<usize> {
        let (width, kept) = (self.layout.width as usize, self.layout.kept());
        (y * width + x) * kept..(y + 1) * width * kept
    }

    fn stored(&self, number: usize) -> Option<&'a [u8]> {
        let start = usize::try_from(*self.layout.offsets.get(number)?).ok()?;
        let mut size = usize::try_from(*self.layout.sizes.get(number)?).ok()?;
        let left = self.bytes.len().checked_sub(start)?;
        if size == 0 || size > left && self.layout.compression == Compression::None {
            size = left;
        }
        self.bytes.get(start..start.checked_add(size)?)
    }

    /// Bytes of a row of a chunk.
    fn stride(&self, columns: usize) -> usize {
        (columns * self.layout.samples_in_chunk() * self.layout.bits as usize).div_ceil(8).max(1)
    }

    /// Bytes of a decompressed chunk.
    fn wanted(&self, columns: usize, rows: usize) -> usize {
        let layout = &self.layout;
        if layout.color == Photometric::YCbCr && layout.compression != Compression::Jpeg && !layout.planar {
            let (across, down) = layout.subsampling;
            return columns.div_ceil(across) * rows.div_ceil(down) * (across * down + 2);
        }
        self.stride(columns).saturating_mul(rows)
    }

    fn chunk_bytes(&self) -> usize {
        self.wanted(self.layout.chunk.0 as usize, self.layout.chunk.1 as usize)
    }

    fn old_jpeg(&self) -> Result<(Pixels, Vec<String>), String> {
        let stream = self.directory.number(Tag::JpegStream).and_then(|at| usize::try_from(at).ok());
        let length = self.directory.number(Tag::JpegStreamLength).and_then(|length| usize::try_from(length).ok());
        let whole = stream
            .and_then(|at| self.bytes.get(at..))
            .map(|rest| &rest[..length.unwrap_or(rest.len()).min(rest.len())]);
        let only = (self.layout.offsets.len() == 1).then(|| self.stored(0)).flatten();
        let streams = [whole, only];
        let found = streams.into_iter().flatten().find_map(|stream| {
            let header = super::jpeg::JpegHeader::read(stream, 0)?;
            (header.size() == self.size()).then_some((stream, header))
        });
        let Some((stream, header)) = found else {
            return Err(
                "it is a TIFF with JPEG compression of the form before 1995, which acetate does not read; save it \
                        as PNG, or as an ordinary TIFF"
                    .to_owned(),
            );
        };
        header.check()?;
        let most = self.layout.width as usize * self.layout.height as usize * 16 + (1 << 20);
        let opened = super::jpeg::decode(stream, &header, None, most)?;
        Ok((opened.pixels, opened.notes))
    }

    fn damaged(&self, what: &str) -> String {
        format!("the TIFF is damaged or cut short: {what}; download or save it again")
    }
}

/// Where a chunk belongs.
struct ChunkArea {
    x: usize,
    y: usize,
    /// Pixels.
    size: (u32, u32),
    plane: usize,
    number: usize,
}

/// Copies a row: all samples that are kept, or those of one plane.
fn copy<T: Copy>(from: &[T], samples: usize, plane: Option<usize>, to: &mut [T], kept: usize) {
    match plane {
        Some(plane) => {
            for (from, to) in from.iter().zip(to.chunks_exact_mut(kept)) {
                to[plane] = *from;
            }
        }
        None if samples == kept => {
            let count = from.len().min(to.len());
            to[..count].copy_from_slice(&from[..count]);
        }
        None => {
            for (from, to) in from.chunks_exact(samples).zip(to.chunks_exact_mut(kept)) {
                to.copy_from_slice(&from[..kept]);
            }
        }
    }
}

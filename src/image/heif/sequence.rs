//! The first picture of an image sequence, whose tracks are like a video's.

use std::borrow::Cow;

use super::boxes::{BoxContent, Boxes, FourLetters, IsoBox};
use super::coded::CodedPicture;
use crate::image::pixels::CodecError;

/// Bytes before the boxes of a sample entry.
const SAMPLE_ENTRY: usize = 78;

#[derive(Debug, Clone, Copy)]
pub(super) struct SequenceTrack<'a> {
    pub frames: usize,
    handler: FourLetters,
    kind: FourLetters,
    /// The box of the coding with what it says of a picture.
    entry: &'a [u8],
    first: (u64, u32),
}

impl<'a> SequenceTrack<'a> {
    /// The tracks of the box `moov`: the pictures, and perhaps their alpha.
    pub fn all(movie: &'a [u8]) -> Vec<Self> {
        let tracks = Boxes::of(movie).map_while(Result::ok).filter(|track| track.kind == *b"trak");
        tracks.filter_map(|track| Self::read(track.content)).collect()
    }

    fn read(track: &'a [u8]) -> Option<Self> {
        let media = child(track, b"mdia")?;
        let handler = BoxContent::of(child(media, b"hdlr")?.get(8..)?).letters().ok()?;
        let table = child(child(media, b"minf")?, b"stbl")?;
        let IsoBox { kind, content: entry } = Boxes::of(child(table, b"stsd")?.get(8..)?).next()?.ok()?;
        let mut sizes = BoxContent::of(child(table, b"stsz")?.get(4..)?);
        let (same, frames) = (sizes.u32().ok()?, sizes.u32().ok()?);
        let size = if same == 0 { sizes.u32().ok()? } else { same };
        let place = match (child(table, b"stco"), child(table, b"co64")) {
            (Some(places), _) => BoxContent::of(places.get(8..)?).u32().ok()?.into(),
            (None, Some(places)) => BoxContent::of(places.get(8..)?).u64().ok()?,
            (None, None) => return None,
        };
        Some(Self { frames: frames as usize, handler, kind, entry, first: (place, size) })
    }

    pub fn is_picture(&self) -> bool {
        self.handler == *b"pict"
    }

    pub fn is_alpha(&self) -> bool {
        self.handler == *b"auxv" && self.property(b"auxi").is_some_and(super::is_alpha)
    }

    /// A box of the sample entry, such as its color.
    pub fn property(&self, kind: &FourLetters) -> Option<&'a [u8]> {
        child(self.entry.get(SAMPLE_ENTRY..)?, kind)
    }

    pub fn properties(&self) -> impl Iterator<Item = IsoBox<'a>> {
        Boxes::of(self.entry.get(SAMPLE_ENTRY..).unwrap_or_default()).map_while(Result::ok)
    }

    pub fn first(&self, file: &'a [u8]) -> Result<CodedPicture<'a>, CodecError> {
        let mut fields = BoxContent::of(self.entry);
        fields.take(24)?;
        let size = (fields.u16()?.into(), fields.u16()?.into());
        let config = self.property(if self.kind == *b"av01" { b"av1C" } else { b"hvcC" }).unwrap_or_default();
        let (start, length) = self.first;
        let data = || {
            let start = usize::try_from(start).ok();
            let data = start.and_then(|start| file.get(start..)?.get(..length as usize));
            data.map(Cow::Borrowed).ok_or(CodecError::CutShort)
        };
        CodedPicture::of(self.kind, config, 0, size, data)
    }
}

fn child<'a>(content: &'a [u8], kind: &FourLetters) -> Option<&'a [u8]> {
    let found = Boxes::of(content).map_while(Result::ok).find(|child| child.kind == *kind);
    found.map(|child| child.content)
}

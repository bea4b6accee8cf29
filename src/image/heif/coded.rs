//! Coded pictures of a HEIF file, alone or as the tiles of a grid.

use std::borrow::Cow;

use rayon::prelude::*;

use super::boxes::{BoxContent, FourLetters};
use super::hevc::HevcConfig;
use super::items::{HeifItems, coding_name};
use super::planes::{CodedColor, PlaneFormat, Planes};
use super::{av1, av1_header};
use crate::image::pixels::CodecError;

/// The most bytes that tiles may share.
const MOST_SHARED: usize = 64 << 20;

/// The properties that crop, rotate and mirror a picture.
pub(super) const TURNS: [&FourLetters; 3] = [b"clap", b"irot", b"imir"];

/// Pictures side by side; most files have only one.
pub(super) struct Tiles<'a> {
    pub size: (u32, u32),
    pub format: PlaneFormat,
    pub color: CodedColor,
    columns: usize,
    tiles: Vec<CodedPicture<'a>>,
}

pub(super) struct CodedPicture<'a> {
    size: (u32, u32),
    data: Cow<'a, [u8]>,
    coding: PictureCoding<'a>,
    format: PlaneFormat,
    color: CodedColor,
}

enum PictureCoding<'a> {
    Av1 { operating_point: u8 },
    Hevc(HevcConfig<'a>),
}

impl<'a> Tiles<'a> {
    pub fn one(picture: CodedPicture<'a>) -> Self {
        let CodedPicture { size, format, color, .. } = picture;
        Self { size, format, color, columns: 1, tiles: vec![picture] }
    }

    /// The item `id`: a coded picture or a grid of them.
    pub fn read(items: &HeifItems<'a>, id: u32) -> Result<Self, CodecError> {
        if items.kind(id)? == *b"grid" {
            Self::grid(items, id, items.referred(id, b"dimg"))
        } else {
            CodedPicture::read(items, id).map(Self::one)
        }
    }

    /// The tiles of the grid `id`, or as many others, such as their alpha.
    pub fn grid(items: &HeifItems<'a>, id: u32, tiles: &[u32]) -> Result<Self, CodecError> {
        let data = items.data(id)?;
        let mut fields = BoxContent::of(&data);
        let (_, flags) = (fields.u8()?, fields.u8()?);
        let (rows, columns) = (usize::from(fields.u8()?) + 1, usize::from(fields.u8()?) + 1);
        let mut side = || fields.item(flags & 1 != 0);
        let size = (side()?, side()?);
        if tiles.iter().any(|tile| items.properties(*tile).any(|(property, _)| TURNS.contains(&&property.kind))) {
            return Err(CodecError::Unsupported("a grid of tiles that are cropped or turned".to_owned()));
        }
        let damaged = |said: &str| CodecError::Damaged(said.to_owned());
        if tiles.len() != rows * columns {
            return Err(damaged("its grid has another number of tiles than it says"));
        }
        let mut read = Vec::with_capacity(tiles.len());
        let mut bytes = 0;
        for tile in tiles {
            // Equal tiles may share their data, but a small file must not take long.
            bytes += items.data(*tile)?.len();
            if bytes > items.file_size() + MOST_SHARED {
                return Err(damaged("the data of its tiles overlap"));
            }
            read.push(CodedPicture::read(items, *tile)?);
        }
        let tiles = read;
        let first = &tiles[0];
        let (format, color) = (first.format, first.color);
        if tiles.iter().any(|tile| (tile.size, tile.format, tile.color) != (first.size, format, color)) {
            return Err(damaged("the tiles of its grid are of different kinds"));
        }
        let covers = |count: usize, tile: u32, side: u32| {
            let (count, tile, side) = (count as u64, u64::from(tile), u64::from(side));
            count * tile >= side && (count - 1) * tile < side
        };
        if !covers(columns, first.size.0, size.0) || !covers(rows, first.size.1, size.1) {
            return Err(damaged("the tiles of its grid do not fit its size"));
        }
        Ok(Self { size, format, color, columns, tiles })
    }

    pub fn is_hevc(&self) -> bool {
        self.tiles.iter().all(|tile| matches!(tile.coding, PictureCoding::Hevc(_)))
    }

    pub fn decode(&self) -> Result<Planes, CodecError> {
        if let [tile] = &self.tiles[..]
            && tile.size == self.size
        {
            return tile.decode();
        }
        let mut canvas = Planes::canvas((self.size.0 as usize, self.size.1 as usize), self.format);
        let at_once = rayon::current_num_threads();
        for (number, batch) in self.tiles.chunks(at_once).enumerate() {
            let decoded: Vec<Planes> = batch.par_iter().map(CodedPicture::decode).collect::<Result<_, _>>()?;
            for (index, tile) in decoded.iter().enumerate() {
                let index = number * at_once + index;
                canvas.put(tile, (index % self.columns * tile.width, index / self.columns * tile.height))?;
            }
        }
        Ok(canvas)
    }
}

impl<'a> CodedPicture<'a> {
    fn read(items: &HeifItems<'a>, id: u32) -> Result<Self, CodecError> {
        let kind = items.kind(id)?;
        check_properties(items, id)?;
        let size = items.property(id, b"ispe").map(BoxContent::of).and_then(|mut fields| {
            fields.version().ok()?;
            Some((fields.u32().ok()?, fields.u32().ok()?))
        });
        let size = size.ok_or_else(|| CodecError::Damaged("it does not say its size".to_owned()))?;
        let operating_point = items.property(id, b"a1op").and_then(|content| content.first().copied());
        let config = if kind == *b"av01" { b"av1C" } else { b"hvcC" };
        let config = items.property(id, config).unwrap_or_default();
        Self::of(kind, config, operating_point.unwrap_or(0), size, || items.data(id))
    }

    /// `config` is the content of `av1C` or `hvcC`.
    pub fn of(
        kind: FourLetters,
        config: &'a [u8],
        operating_point: u8,
        size: (u32, u32),
        data: impl FnOnce() -> Result<Cow<'a, [u8]>, CodecError>,
    ) -> Result<Self, CodecError> {
        let (data, coding, format, color) = match &kind {
            b"av01" => {
                let data = data()?;
                let (format, color) = av1_header::read(&data)
                    .ok_or_else(|| CodecError::Damaged("its AV1 data have no header".to_owned()))?;
                (data, PictureCoding::Av1 { operating_point }, format, color)
            }
            b"hvc1" | b"hev1" => {
                let data = data()?;
                let config = HevcConfig::read(config, &data)?;
                let (format, color) = (config.format, config.color);
                (data, PictureCoding::Hevc(config), format, color)
            }
            _ => return Err(CodecError::Unsupported(coding_name(kind))),
        };
        Ok(Self { size, data, coding, format, color })
    }

    fn decode(&self) -> Result<Planes, CodecError> {
        let (width, height) = self.size;
        let planes = match &self.coding {
            PictureCoding::Av1 { operating_point } => {
                av1::decode(&self.data, *operating_point, u64::from(width) * u64::from(height))?
            }
            PictureCoding::Hevc(config) => config.decode(&self.data, self.size)?,
        };
        if (planes.width, planes.height) != (width as usize, height as usize) {
            let coded = format!("{}x{}", planes.width, planes.height);
            return Err(CodecError::Damaged(format!("it says {width}x{height} pixels, but its data have {coded}")));
        }
        if planes.format != self.format {
            return Err(CodecError::Damaged("its samples are not of the kind that it says".to_owned()));
        }
        Ok(planes)
    }
}

/// Refuses what changes a picture in a way that is not known here.
pub(super) fn check_properties(items: &HeifItems<'_>, id: u32) -> Result<(), CodecError> {
    const KNOWN: [&FourLetters; 18] = [
        b"ispe", b"pixi", b"colr", b"pasp", b"av1C", b"hvcC", b"auxC", b"irot", b"imir", b"clap", b"a1op", b"a1lx",
        b"rloc", b"clli", b"mdcv", b"cclv", b"amve", b"udes",
    ];
    for (property, essential) in items.properties(id) {
        match &property.kind {
            // All layers unless this names one.
            b"lsel" if property.content != [0xff, 0xff] => {
                return Err(CodecError::Unsupported("one of several layers".to_owned()));
            }
            b"lsel" => {}
            kind if essential && !KNOWN.contains(&kind) => {
                let name = super::boxes::name(*kind);
                return Err(CodecError::Unsupported(format!("the property {name}")));
            }
            _ => {}
        }
    }
    Ok(())
}

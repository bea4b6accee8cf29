//! AVIF and HEIC: pictures coded as AV1 or HEVC in HEIF files (ISO/IEC 23008-12).
//!
//! The container is read here, so that the size, the memory and the color are known before anything is decoded, and
//! what is not understood is refused. The decoders are Rust: rav1d, and heifer's of intra pictures.

mod av1;
mod av1_header;
mod boxes;
mod coded;
mod hevc;
mod items;
mod planes;
mod rgb;
mod sequence;
mod turn;

use std::borrow::Cow;

use boxes::{BoxContent, Boxes, IsoBox};
use coded::{TURNS, Tiles, check_properties};
use items::HeifItems;
use planes::{Chroma, CodedColor};
use rgb::AlphaPlane;
use sequence::SequenceTrack;
use turn::Turn;

use super::container::FileFormat;
use super::pixels::{CodecError, Pixels};

/// Pictures derived from pictures derived from others.
const MOST_DERIVATIONS: usize = 4;

/// A HEIF file that is read, but not decoded.
pub(super) struct Heif<'a> {
    pub format: FileFormat,
    /// As it is shown.
    pub size: (u32, u32),
    pub profile: Option<&'a [u8]>,
    pub exif: Option<Cow<'a, [u8]>>,
    /// Frames of an image sequence; at least 1.
    pub frames: usize,
    /// Pictures that could be shown; at least 1.
    pub pictures: usize,
    picture: Tiles<'a>,
    alpha: Option<HeifAlpha<'a>>,
    color: CodedColor,
    turns: Vec<Turn>,
}

struct HeifAlpha<'a> {
    tiles: Tiles<'a>,
    full_range: bool,
    premultiplied: bool,
}

impl<'a> HeifAlpha<'a> {
    fn of(tiles: Tiles<'a>, premultiplied: bool) -> Self {
        // HEVC files do not say the range of alpha, and all of them have the full one.
        let full_range = tiles.is_hevc() || tiles.color.full_range;
        Self { tiles, full_range, premultiplied }
    }
}

impl<'a> Heif<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let (mut items, mut tracks) = (None, Vec::new());
        for part in Boxes::of(bytes) {
            match part {
                Ok(part) if part.kind == *b"meta" => items = Some(HeifItems::read(bytes, part.content)),
                Ok(part) if part.kind == *b"moov" => tracks = SequenceTrack::all(part.content),
                Ok(_) => {}
                // Some phones append what is no box. Missing data show when they are read.
                Err(_) if items.is_some() => break,
                Err(error) => return Err(error),
            }
        }
        let track = tracks.iter().find(|track| track.is_picture());
        match (items, track) {
            (Some(Ok(items)), _) => {
                let frames = track.map_or(1, |track| track.frames.max(1));
                Ok(Self { frames, ..Self::of_items(&items)? })
            }
            (_, Some(track)) => Self::of_track(bytes, track, tracks.iter().find(|track| track.is_alpha())),
            (Some(Err(error)), None) => Err(error),
            (None, None) => Err(CodecError::Damaged("it has no picture".to_owned())),
        }
    }

    fn of_items(items: &HeifItems<'a>) -> Result<Self, CodecError> {
        let (source, properties) = resolved(items, items.primary)?;
        let picture = Tiles::read(items, source)?;
        let (turns, size) = turns(&properties, picture.size)?;
        let alpha = alpha(items, source, &picture)?;
        let tile = items.referred(source, b"dimg").first().copied();
        let described = [Some(items.primary), Some(source), tile];
        let colors: Vec<ColorProperty<'a>> = described
            .into_iter()
            .flatten()
            .flat_map(|id| items.properties(id))
            .filter_map(|(property, _)| ColorProperty::of(property))
            .collect();
        let exif = described.into_iter().flatten().find_map(|id| items.exif(id));
        let pictures = items.pictures();
        Ok(Self { size, exif, frames: 1, pictures, alpha, turns, ..Self::colored(picture, &colors) })
    }

    fn of_track(
        bytes: &'a [u8],
        track: &SequenceTrack<'a>,
        alpha: Option<&SequenceTrack<'a>>,
    ) -> Result<Self, CodecError> {
        let picture = Tiles::one(track.first(bytes)?);
        let alpha = match alpha {
            Some(alpha) => Some(HeifAlpha::of(same_size(Tiles::one(alpha.first(bytes)?), &picture)?, false)),
            None => None,
        };
        let colors: Vec<_> = track.properties().filter_map(ColorProperty::of).collect();
        Ok(Self { frames: track.frames.max(1), alpha, ..Self::colored(picture, &colors) })
    }

    /// With the first profile and the first numbers among `colors`, else with the numbers of the coded data.
    fn colored(picture: Tiles<'a>, colors: &[ColorProperty<'a>]) -> Self {
        let profile = colors.iter().find_map(|color| match color {
            ColorProperty::Profile(profile) => Some(*profile),
            ColorProperty::Numbers(_) => None,
        });
        let numbers = colors.iter().find_map(|color| match color {
            ColorProperty::Numbers(numbers) => Some(*numbers),
            ColorProperty::Profile(_) => None,
        });
        let mut color = numbers.unwrap_or(picture.color);
        // Cameras of Sony name the limited range in the file and the full one, which they use, in the coded data.
        color.full_range |= picture.is_hevc() && picture.color.full_range;
        Self {
            format: if picture.is_hevc() { FileFormat::Heic } else { FileFormat::Avif },
            size: picture.size,
            profile,
            exif: None,
            frames: 1,
            pictures: 1,
            alpha: None,
            color,
            turns: Vec::new(),
            picture,
        }
    }

    /// Before it is cropped and turned.
    pub fn coded_size(&self) -> (u32, u32) {
        self.picture.size
    }

    /// Primaries, transfer, matrix and range as in a cICP chunk, if there is no profile and one of the first two is
    /// said.
    pub fn cicp(&self) -> Option<[u8; 4]> {
        let CodedColor { primaries, transfer, .. } = self.color;
        if self.profile.is_some() || (primaries, transfer) == (2, 2) {
            return None;
        }
        let primaries = if primaries == 2 { 1 } else { primaries };
        // Pictures that name a camera's curve are shown as those of sRGB are; no program undoes that curve.
        let transfer = if matches!(transfer, 1 | 2 | 6 | 14 | 15) { 13 } else { transfer };
        Some([primaries, transfer, 0, 1].map(|number| number.min(255) as u8))
    }

    /// Bytes that decoding holds at its peak: the decoder's planes and a copy of them, and the samples of the picture.
    pub fn memory(&self) -> u64 {
        let (width, height) = self.picture.size;
        let halves = match self.picture.format.chroma {
            Chroma::None => 2,
            Chroma::Quarter => 3,
            Chroma::Half => 4,
            Chroma::Full => 6,
        };
        let colors = if halves == 2 { 1 } else { 3 };
        let deep =
            self.picture.format.depth > 8 || self.alpha.as_ref().is_some_and(|alpha| alpha.tiles.format.depth > 8);
        let (planes, channels) = match self.alpha {
            Some(_) => (halves * 2 + 4, colors + 1),
            None => (halves * 2, colors),
        };
        let copies = if self.turns.is_empty() { 1 } else { 2 };
        u64::from(width) * u64::from(height) * (planes + channels * copies * if deep { 2 } else { 1 })
    }

    pub fn decode(&self) -> Result<Pixels, CodecError> {
        let planes = self.picture.decode()?;
        let alpha = match &self.alpha {
            Some(HeifAlpha { tiles, full_range, premultiplied }) => {
                Some(AlphaPlane { planes: tiles.decode()?, full_range: *full_range, premultiplied: *premultiplied })
            }
            None => None,
        };
        let pixels = rgb::interleaved(&planes, self.color, alpha.as_ref())?;
        drop((planes, alpha));
        Ok(self.turns.iter().fold(pixels, |pixels, turn| turn.apply(pixels)))
    }
}

/// A property that says how colors are meant.
enum ColorProperty<'a> {
    Profile(&'a [u8]),
    Numbers(CodedColor),
}

impl<'a> ColorProperty<'a> {
    fn of(property: IsoBox<'a>) -> Option<Self> {
        let mut fields = BoxContent::of((property.kind == *b"colr").then_some(property.content)?);
        match &fields.letters().ok()? {
            b"prof" | b"rICC" => Some(Self::Profile(fields.rest)).filter(|_| !fields.rest.is_empty()),
            b"nclx" => {
                let mut number = || fields.u16().ok();
                let (primaries, transfer, matrix) = (number()?, number()?, number()?);
                Some(Self::Numbers(CodedColor {
                    primaries,
                    transfer,
                    matrix,
                    full_range: fields.u8().ok()? & 0x80 != 0,
                }))
            }
            _ => None,
        }
    }
}

/// The item that has the pixels of `id`, and the properties that crop and turn them, in order.
fn resolved<'a>(items: &HeifItems<'a>, mut id: u32) -> Result<(u32, Vec<IsoBox<'a>>), CodecError> {
    let mut turns = Vec::new();
    for _ in 0..MOST_DERIVATIONS {
        check_properties(items, id)?;
        let own = items.properties(id).map(|(property, _)| property);
        let own = own.filter(|property| TURNS.contains(&&property.kind));
        turns.splice(0..0, own);
        match (&items.kind(id)?, items.referred(id, b"dimg")) {
            (b"iden", [source]) => id = *source,
            (b"iden", _) => return Err(CodecError::Damaged("its main picture has no source".to_owned())),
            _ => return Ok((id, turns)),
        }
    }
    Err(CodecError::Damaged("its pictures are derived from each other".to_owned()))
}

/// The turns that properties ask for, for a picture of this size, and the size after them.
fn turns(properties: &[IsoBox<'_>], mut size: (u32, u32)) -> Result<(Vec<Turn>, (u32, u32)), CodecError> {
    let mut turns = Vec::new();
    for property in properties {
        let turn = match &property.kind {
            b"irot" => Turn::rotation(property.content)?,
            b"imir" => Turn::mirror(property.content)?,
            _ => Turn::crop(property.content, size)?,
        };
        size = turn.size(size);
        if turn != Turn::Rotate(0) {
            turns.push(turn);
        }
    }
    Ok((turns, size))
}

/// The alpha of an item: of the whole, or of each of its tiles.
fn alpha<'a>(items: &HeifItems<'a>, id: u32, picture: &Tiles<'a>) -> Result<Option<HeifAlpha<'a>>, CodecError> {
    let of = |id: &u32| {
        let mut found = items.auxiliaries(*id).iter().copied();
        found.find(|auxiliary| items.property(*auxiliary, b"auxC").is_some_and(is_alpha))
    };
    let premultiplied = |id: &u32, alpha: u32| items.referred(*id, b"prem").contains(&alpha);
    if id != items.primary && of(&items.primary).is_some() {
        return Err(CodecError::Unsupported("alpha of a derived picture".to_owned()));
    }
    if let Some(alpha) = of(&id) {
        let (source, _) = resolved(items, alpha)?;
        let tiles = same_size(Tiles::read(items, source)?, picture)?;
        return Ok(Some(HeifAlpha::of(tiles, premultiplied(&id, alpha))));
    }
    let tiles = items.referred(id, b"dimg");
    let alphas: Option<Vec<u32>> = tiles.iter().map(of).collect();
    match (tiles.first(), alphas.as_deref()) {
        (Some(tile), Some(alphas @ [first, ..])) => {
            let premultiplied = premultiplied(tile, *first);
            let tiles = same_size(Tiles::grid(items, id, alphas)?, picture)?;
            Ok(Some(HeifAlpha::of(tiles, premultiplied)))
        }
        _ => Ok(None),
    }
}

fn same_size<'a>(alpha: Tiles<'a>, picture: &Tiles<'a>) -> Result<Tiles<'a>, CodecError> {
    if alpha.size == picture.size {
        return Ok(alpha);
    }
    Err(CodecError::Unsupported("alpha of another size than the picture".to_owned()))
}

/// Whether a property says that an auxiliary picture is alpha.
fn is_alpha(content: &[u8]) -> bool {
    const NAMES: [&[u8]; 2] = [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"];
    let mut fields = BoxContent::of(content);
    fields.version().is_ok() && NAMES.contains(&fields.text())
}

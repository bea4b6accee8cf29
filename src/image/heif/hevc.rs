//! HEVC pictures, through heifer's decoder of intra pictures.

use heifer_hevc_dec::{
    Error,
    decoder::{DecodeOptions, decode_picture},
    nal::NalUnit,
    params::ParameterSets,
};

use super::boxes::BoxContent;
use super::planes::{Chroma, CodedColor, PlaneFormat, Planes};
use crate::image::pixels::CodecError;

/// Coded pictures are padded to whole blocks, of at most this many rows and columns.
const BLOCK: u64 = 64;

/// What the box `hvcC` holds.
#[derive(Debug, Clone)]
pub(super) struct HevcConfig<'a> {
    /// Bytes of the length before each unit.
    length_size: usize,
    units: Vec<&'a [u8]>,
    pub format: PlaneFormat,
    pub color: CodedColor,
}

impl<'a> HevcConfig<'a> {
    /// `data` is the coded picture, which may hold what `content` lacks.
    pub fn read(content: &'a [u8], data: &[u8]) -> Result<Self, CodecError> {
        let mut fields = BoxContent::of(content);
        fields.take(21)?;
        let length_size = usize::from(fields.u8()? & 3) + 1;
        let mut units = Vec::new();
        for _ in 0..fields.u8()? {
            fields.u8()?;
            for _ in 0..fields.u16()? {
                let length = usize::from(fields.u16()?);
                units.push(fields.take(length)?);
            }
        }
        let mut sets = ParameterSets::default();
        for unit in units.iter().copied().chain(split(data, length_size)?).filter(|unit| in_base_layer(unit)) {
            let unit = NalUnit::parse(unit).map_err(said)?;
            if unit.header.unit_type.is_slice() {
                break;
            }
            sets.add(&unit).map_err(said)?;
        }
        let sps = sets.sps.iter().flatten().next();
        let sps = sps.ok_or_else(|| CodecError::Damaged("its HEVC data have no parameters".to_owned()))?;
        if sps.chroma_format_idc != 0 && sps.bit_depth_luma != sps.bit_depth_chroma {
            return Err(CodecError::Unsupported("other bits for chroma than for luma".to_owned()));
        }
        let format = PlaneFormat { depth: sps.bit_depth_luma, chroma: chroma(sps.chroma_format_idc) };
        let color = match &sps.vui {
            Some(vui) => CodedColor {
                primaries: vui.colour_primaries.into(),
                transfer: vui.transfer_characteristics.into(),
                matrix: vui.matrix_coeffs.into(),
                full_range: vui.video_full_range_flag,
            },
            None => CodedColor { primaries: 2, transfer: 2, matrix: 2, full_range: false },
        };
        Ok(Self { length_size, units, format, color })
    }

    /// Decodes a picture of no more than `width` and `height`.
    pub fn decode(&self, data: &[u8], (width, height): (u32, u32)) -> Result<Planes, CodecError> {
        let mut stream = Vec::with_capacity(data.len() + 1024);
        let units = self.units.iter().copied().chain(split(data, self.length_size)?);
        // Further layers hold the other eye's view, or a depth map.
        for unit in units.filter(|unit| in_base_layer(unit)) {
            stream.extend_from_slice(&[0, 0, 1]);
            stream.extend_from_slice(unit);
        }
        let [columns, rows] = [width, height].map(|side| (u64::from(side) + 2 * BLOCK).next_multiple_of(BLOCK));
        let options = DecodeOptions { max_pixels: columns * rows, ..DecodeOptions::default() };
        let frame = decode_picture(&stream, options).map_err(said)?;
        let format = PlaneFormat { depth: frame.bit_depth[0], chroma: chroma(frame.chroma_format) };
        let (width, height) = (frame.widths[0] as usize, frame.heights[0] as usize);
        Ok(Planes { width, height, format, samples: frame.planes })
    }
}

fn chroma(format: u8) -> Chroma {
    match format {
        0 => Chroma::None,
        1 => Chroma::Quarter,
        2 => Chroma::Half,
        _ => Chroma::Full,
    }
}

/// The units of the picture, which have their lengths before them.
fn split(data: &[u8], length_size: usize) -> Result<impl Iterator<Item = &[u8]>, CodecError> {
    let mut fields = BoxContent::of(data);
    let mut units = Vec::new();
    while !fields.rest.is_empty() {
        let length = fields.number(length_size)? as usize;
        units.push(fields.take(length)?);
    }
    Ok(units.into_iter())
}

fn in_base_layer(unit: &[u8]) -> bool {
    matches!(unit, [first, second, ..] if first & 1 == 0 && second >> 3 == 0)
}

fn said(error: Error) -> CodecError {
    match error {
        Error::UnexpectedEof => CodecError::Damaged("its HEVC data end too early".to_owned()),
        Error::Invalid(what) => CodecError::Damaged(format!("its HEVC data are not valid: {what}")),
        Error::Unimplemented(what) => CodecError::Unsupported(format!("HEVC with {what}")),
        Error::HashMismatch(_) => CodecError::Damaged("its checksum does not match its data".to_owned()),
    }
}

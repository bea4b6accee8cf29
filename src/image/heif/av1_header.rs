//! The sequence header of AV1 (section 5.5 of its specification): the format and the color of the samples.

use super::planes::{Chroma, CodedColor, PlaneFormat};

const SEQUENCE_HEADER: u8 = 1;

/// Searches the open bitstream units for the header. None if it is not there or not whole.
pub(super) fn read(mut data: &[u8]) -> Option<(PlaneFormat, CodedColor)> {
    loop {
        let (first, mut rest) = data.split_first()?;
        let (kind, has_extension, has_size) = (first >> 3 & 15, first & 4 != 0, first & 2 != 0);
        if has_extension {
            rest = rest.get(1..)?;
        }
        let size = if has_size { variable_length(&mut rest)? } else { rest.len() };
        let (unit, after) = rest.split_at_checked(size)?;
        if kind == SEQUENCE_HEADER {
            return sequence_header(&mut BitFields { bytes: unit, at: 0 });
        }
        data = after;
    }
}

/// Seven bits per byte, the lowest first.
fn variable_length(bytes: &mut &[u8]) -> Option<usize> {
    let mut size = 0;
    for shift in (0..56).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        size |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(size);
        }
    }
    None
}

struct BitFields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BitFields<'_> {
    fn bits(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.bits(1)? == 1)
    }
}

fn sequence_header(fields: &mut BitFields<'_>) -> Option<(PlaneFormat, CodedColor)> {
    let profile = fields.bits(3)?;
    fields.flag()?;
    let reduced = fields.flag()?;
    if reduced {
        fields.bits(5)?;
    } else {
        operating_points(fields)?;
    }
    let (width_bits, height_bits) = (fields.bits(4)? + 1, fields.bits(4)? + 1);
    fields.bits(width_bits as usize)?;
    fields.bits(height_bits as usize)?;
    // Numbers of frames.
    if !reduced && fields.flag()? {
        fields.bits(7)?;
    }
    // 128x128 blocks, filters of intra prediction.
    fields.bits(3)?;
    if !reduced {
        prediction_tools(fields)?;
    }
    // Super-resolution and filters.
    fields.bits(3)?;
    color(fields, profile)
}

fn operating_points(fields: &mut BitFields<'_>) -> Option<()> {
    let mut delay_bits = None;
    if fields.flag()? {
        fields.bits(32)?;
        fields.bits(32)?;
        if fields.flag()? {
            // The ticks of a picture: as many bits as there are zeros before the first one.
            let mut zeros = 0;
            while !fields.flag()? {
                zeros += 1;
            }
            fields.bits(if zeros < 32 { zeros } else { 0 })?;
        }
        if fields.flag()? {
            delay_bits = Some(fields.bits(5)? as usize + 1);
            fields.bits(32)?;
            fields.bits(10)?;
        }
    }
    let has_display_delay = fields.flag()?;
    for _ in 0..=fields.bits(5)? {
        fields.bits(12)?;
        if fields.bits(5)? > 7 {
            fields.flag()?;
        }
        if let Some(bits) = delay_bits
            && fields.flag()?
        {
            fields.bits(bits)?;
            fields.bits(bits)?;
            fields.flag()?;
        }
        if has_display_delay && fields.flag()? {
            fields.bits(4)?;
        }
    }
    Some(())
}

fn prediction_tools(fields: &mut BitFields<'_>) -> Option<()> {
    fields.bits(4)?;
    let has_order = fields.flag()?;
    if has_order {
        fields.bits(2)?;
    }
    let chooses_screen_content = fields.flag()?;
    if (chooses_screen_content || fields.flag()?) && !fields.flag()? {
        fields.flag()?;
    }
    if has_order {
        fields.bits(3)?;
    }
    Some(())
}

fn color(fields: &mut BitFields<'_>, profile: u32) -> Option<(PlaneFormat, CodedColor)> {
    let high = fields.flag()?;
    let twelve = profile == 2 && high && fields.flag()?;
    let depth = if twelve { 12 } else { 8 + 2 * u8::from(high) };
    let gray = profile != 1 && fields.flag()?;
    let [primaries, transfer, matrix] =
        if fields.flag()? { [fields.bits(8)?, fields.bits(8)?, fields.bits(8)?] } else { [2; 3] }
            .map(|code| code as u16);
    let srgb = !gray && (primaries, transfer, matrix) == (1, 13, 0);
    let full_range = srgb || fields.flag()?;
    let chroma = match profile {
        _ if gray => Chroma::None,
        _ if srgb => Chroma::Full,
        0 => Chroma::Quarter,
        1 => Chroma::Full,
        _ if !twelve => Chroma::Half,
        _ if !fields.flag()? => Chroma::Full,
        _ if !fields.flag()? => Chroma::Half,
        _ => Chroma::Quarter,
    };
    Some((PlaneFormat { depth, chroma }, CodedColor { primaries, transfer, matrix, full_range }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a still picture of 64x64 pixels; `color` are the bits after the filters.
    fn reduced(profile: u8, color: &str) -> Vec<u8> {
        let bits = format!("{profile:03b}1100000{}{:06b}{:06b}000000{color}", "01010101", 63, 63);
        let mut unit: Vec<u8> = Vec::new();
        for byte in bits.as_bytes().chunks(8) {
            let text = format!("{:0<8}", String::from_utf8_lossy(byte));
            unit.push(u8::from_str_radix(&text, 2).expect("bits"));
        }
        // A temporal delimiter before it.
        [vec![0x12, 0, 0x0a, unit.len() as u8], unit].concat()
    }

    #[test]
    fn the_format_and_the_color_are_read_and_no_cut_panics() {
        let said = CodedColor { primaries: 9, transfer: 16, matrix: 9, full_range: false };
        let numbers = "000010010001000000001001";
        for (profile, color, depth, chroma) in [
            (0, format!("001{numbers}0"), 8, Chroma::Quarter),
            (0, format!("111{numbers}0"), 10, Chroma::None),
            (1, format!("11{numbers}0"), 10, Chroma::Full),
            (2, format!("001{numbers}0"), 8, Chroma::Half),
            (2, format!("1101{numbers}011"), 12, Chroma::Quarter),
        ] {
            let bytes = reduced(profile, &color);
            assert_eq!(read(&bytes), Some((PlaneFormat { depth, chroma }, said)), "profile {profile}");
            for end in 0..bytes.len() {
                let _ = read(&bytes[..end]);
            }
        }
        let srgb = CodedColor { primaries: 1, transfer: 13, matrix: 0, full_range: true };
        let bytes = reduced(1, "01000000010000110100000000");
        assert_eq!(read(&bytes), Some((PlaneFormat { depth: 8, chroma: Chroma::Full }, srgb)));
    }
}

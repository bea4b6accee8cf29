//! Samples of a chunk: predictors undone, bits unpacked, brought to 8 or 16 bits or floating point.

use super::layout::{Layout, Photometric, SampleFormat};

/// Samples of one kind, interleaved.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Plain {
    Eight(Vec<u8>),
    Sixteen(Vec<u16>),
    Float(Vec<f32>),
}

impl Plain {
    /// `count` samples of the kind that the layout's samples become.
    pub fn empty(layout: &Layout, count: usize) -> Self {
        match (layout.format, layout.bits) {
            (SampleFormat::Float, _) => Self::Float(vec![0.0; count]),
            (_, ..=8) => Self::Eight(vec![0; count]),
            _ => Self::Sixteen(vec![0; count]),
        }
    }

    /// The bytes of one sample.
    pub fn size_of_one(layout: &Layout) -> u64 {
        match (layout.format, layout.bits) {
            (SampleFormat::Float, _) => 4,
            (_, ..=8) => 1,
            _ => 2,
        }
    }
}

/// Undoes the predictor in a row of `samples` samples per pixel. Returns whether the row is big-endian afterwards.
pub(super) fn unpredict(row: &mut [u8], layout: &Layout, samples: usize, little: bool) -> bool {
    let size = layout.bits as usize / 8;
    match layout.predictor {
        2 if matches!(layout.bits, 8 | 16 | 24 | 32 | 64) => {
            let step = size * samples;
            let whole = row.len() - row.len() % size;
            for at in (step..whole).step_by(size) {
                let sum = number(&row[at - step..], size, little).wrapping_add(number(&row[at..], size, little));
                put(&mut row[at..at + size], sum, little);
            }
            !little
        }
        3 => {
            // Bytes of equal weight are together, the highest first, and each is the difference to the one before.
            for at in samples..row.len() {
                row[at] = row[at].wrapping_add(row[at - samples]);
            }
            let count = row.len() / size;
            let apart = row.to_vec();
            for index in 0..count {
                for byte in 0..size {
                    row[index * size + byte] = apart[byte * count + index];
                }
            }
            true
        }
        _ => !little,
    }
}

fn number(bytes: &[u8], size: usize, little: bool) -> u64 {
    let mut value = 0u64;
    for index in 0..size {
        let byte = if little { bytes[size - 1 - index] } else { bytes[index] };
        value = value << 8 | u64::from(byte);
    }
    value
}

fn put(bytes: &mut [u8], mut value: u64, little: bool) {
    let size = bytes.len();
    for index in 0..size {
        let at = if little { index } else { size - 1 - index };
        bytes[at] = value as u8;
        value >>= 8;
    }
}

/// Unpacks `count` samples of a row that has enough bytes. Whole numbers are scaled to the full range of 8 or 16 bits,
/// but those of a palette are not.
pub(super) fn unpack(row: &[u8], count: usize, layout: &Layout, big: bool) -> Plain {
    let bits = layout.bits;
    let scaled = layout.color != Photometric::Palette;
    let word = |at: usize, size: usize| number(&row[at * size..], size, !big);
    match (layout.format, bits) {
        (SampleFormat::Float, 16) => Plain::Float((0..count).map(|at| half(word(at, 2) as u16)).collect()),
        (SampleFormat::Float, 24) => Plain::Float((0..count).map(|at| float24(word(at, 3) as u32)).collect()),
        (SampleFormat::Float, 64) => Plain::Float((0..count).map(|at| f64::from_bits(word(at, 8)) as f32).collect()),
        (SampleFormat::Float, _) => Plain::Float((0..count).map(|at| f32::from_bits(word(at, 4) as u32)).collect()),
        // Signed bytes are mostly bytes whose program did not know better, and all others show them as they are.
        (SampleFormat::Unsigned | SampleFormat::Signed, 8) => Plain::Eight(row[..count].to_vec()),
        (SampleFormat::Unsigned, 16) => {
            let sample = |two: &[u8]| if big { [two[0], two[1]] } else { [two[1], two[0]] };
            Plain::Sixteen(row.chunks_exact(2).take(count).map(|two| u16::from_be_bytes(sample(two))).collect())
        }
        (SampleFormat::Unsigned, 24 | 32 | 64) => {
            let size = bits as usize / 8;
            Plain::Sixteen((0..count).map(|at| (word(at, size) >> (bits - 16)) as u16).collect())
        }
        (SampleFormat::Unsigned, 1..=7) => {
            let most = (1u32 << bits) - 1;
            let full = |value: u32| if scaled { (value * 255 + most / 2) / most } else { value } as u8;
            Plain::Eight(bits_of(row, count, bits).map(full).collect())
        }
        (SampleFormat::Unsigned, _) => {
            let most = (1u32 << bits) - 1;
            let full = |value: u32| {
                let wide = (u64::from(value) * 65535 + u64::from(most / 2)) / u64::from(most);
                if scaled { wide as u16 } else { value as u16 }
            };
            Plain::Sixteen(bits_of(row, count, bits).map(full).collect())
        }
        (SampleFormat::Signed, _) => signed(row, count, bits, big),
    }
}

/// Negative numbers become 0, and the largest becomes white.
fn signed(row: &[u8], count: usize, bits: u32, big: bool) -> Plain {
    let values: Box<dyn Iterator<Item = u64>> = if bits.is_multiple_of(8) {
        let size = bits as usize / 8;
        Box::new((0..count).map(move |at| number(&row[at * size..], size, !big)))
    } else {
        Box::new(bits_of(row, count, bits).map(u64::from))
    };
    let sign = 1u64 << (bits - 1);
    let most = (sign - 1).max(1);
    let positive = values.map(|value| if value & sign == 0 { value } else { 0 });
    if bits <= 8 {
        Plain::Eight(positive.map(|value| (value * 255 / most) as u8).collect())
    } else {
        Plain::Sixteen(positive.map(|value| (u128::from(value) * 65535 / u128::from(most)) as u16).collect())
    }
}

/// Numbers of up to 16 bits, the highest bit first, as all TIFF files have them.
fn bits_of(row: &[u8], count: usize, bits: u32) -> impl Iterator<Item = u32> + '_ {
    (0..count).map(move |index| {
        let start = index * bits as usize;
        let at = start / 8;
        let byte = |offset: usize| u32::from(row.get(at + offset).copied().unwrap_or(0));
        let three = byte(0) << 16 | byte(1) << 8 | byte(2);
        three >> (24 - (start % 8) as u32 - bits) & ((1 << bits) - 1)
    })
}

fn half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

/// Adobe's 24-bit floating point: 7 bits of exponent, 16 of fraction.
fn float24(bits: u32) -> f32 {
    let sign = if bits & 0x80_0000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = ((bits >> 16 & 127) as i32, (bits & 0xffff) as f32);
    sign * match exponent {
        0 => fraction * 2f32.powi(-78),
        127 if fraction == 0.0 => f32::INFINITY,
        127 => f32::NAN,
        _ => (1.0 + fraction / 65536.0) * 2f32.powi(exponent - 63),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats_are_those_of_their_standards() {
        for (bits, value) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (1, 2f32.powi(-24)), (0x3555, 0.333_251_95)]
        {
            assert_eq!(half(bits), value);
        }
        assert!(half(0x7e00).is_nan() && half(0x7c00).is_infinite());
        assert_eq!((float24(0x3f_0000), float24(0xbf_8000)), (1.0, -1.5));
    }

    #[test]
    fn numbers_of_any_bits_are_unpacked() {
        let row = [0b1011_0010, 0b0111_0001, 0b1100_0011];
        assert_eq!(bits_of(&row, 8, 1).collect::<Vec<_>>(), [1, 0, 1, 1, 0, 0, 1, 0]);
        assert_eq!(bits_of(&row, 2, 12).collect::<Vec<_>>(), [0b1011_0010_0111, 0b0001_1100_0011]);
        assert_eq!(bits_of(&row, 3, 5).collect::<Vec<_>>(), [0b10110, 0b01001, 0b11000]);
    }
}

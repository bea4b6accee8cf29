//! The ICC profile for sRGB. moxcms writes its own white point, a matrix that is not an adaptation, and the current
//! time; they are replaced by what ICC.1 (version 4) requires: D50, the adaptation from D65 to it, and a fixed date.

use std::ops::Range;

use moxcms::{ColorProfile, Xyz, Xyzd, adaption_matrix_d};

/// The white of sRGB, IEC 61966-2-1.
const D65: Xyz = Xyz { x: 0.9505, y: 1.0, z: 1.0890 };
/// The white of the profile connection space.
const D50: Xyz = Xyz { x: 0.9642, y: 1.0, z: 0.8249 };

/// Year, month, day, hour, minute, second in the header, two bytes each.
const WRITTEN: Range<usize> = 24..36;
/// The publication date of the standard, so that the same picture gives the same file.
const PUBLISHED: [u16; 6] = [1999, 10, 18, 0, 0, 0];
/// The illuminant in the header, three numbers of 16.16 bits, which the standard prescribes exactly.
const ILLUMINANT: Range<usize> = 68..80;
const D50_BITS: [u32; 3] = [0xF6D6, 0x1_0000, 0xD32D];

/// None if the library cannot write it.
pub(super) fn profile() -> Option<Vec<u8>> {
    let mut profile = ColorProfile::new_srgb();
    profile.media_white_point = Some(Xyzd { x: f64::from(D50.x), y: f64::from(D50.y), z: f64::from(D50.z) });
    profile.chromatic_adaptation = Some(adaption_matrix_d(D65, D50));
    let mut bytes = aligned(&profile.encode().ok()?)?;
    bytes.get_mut(WRITTEN)?.copy_from_slice(&PUBLISHED.map(u16::to_be_bytes).concat());
    bytes.get_mut(ILLUMINANT)?.copy_from_slice(&D50_BITS.map(u32::to_be_bytes).concat());
    Some(bytes)
}

/// The profile with each tag's data at a multiple of four, as ICC.1 requires and moxcms does not; libpng warns. Tags
/// that share their data still do.
fn aligned(profile: &[u8]) -> Option<Vec<u8>> {
    const TABLE: usize = 128;
    let number = |at: usize| Some(u32::from_be_bytes(profile.get(at..at + 4)?.try_into().ok()?) as usize);
    let count = number(TABLE)?;
    let start = TABLE + 4 + 12 * count;
    let mut out = profile.get(..start)?.to_vec();
    let mut moved: Vec<(usize, usize)> = Vec::new();
    for entry in (0..count).map(|index| TABLE + 4 + 12 * index) {
        let (from, size) = (number(entry + 4)?, number(entry + 8)?);
        let known = moved.iter().find(|(before, _)| *before == from).map(|(_, to)| *to);
        let to = known.unwrap_or(out.len());
        if known.is_none() {
            out.extend_from_slice(profile.get(from..from.checked_add(size)?)?);
            out.resize(out.len().next_multiple_of(4), 0);
            moved.push((from, to));
        }
        out[entry + 4..entry + 8].copy_from_slice(&u32::try_from(to).ok()?.to_be_bytes());
    }
    let size = u32::try_from(out.len()).ok()?.to_be_bytes();
    out[..4].copy_from_slice(&size);
    Some(out)
}

#[cfg(test)]
mod tests {
    use moxcms::DataColorSpace;

    use super::*;

    #[test]
    fn it_is_srgb_under_d50() {
        let bytes = profile().unwrap();
        assert_eq!(bytes[WRITTEN], [7, 207, 0, 10, 0, 18, 0, 0, 0, 0, 0, 0]);
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(number(0), bytes.len());
        for entry in (0..number(128)).map(|index| 132 + 12 * index) {
            assert!(number(entry + 4).is_multiple_of(4), "the data of {:?}", &bytes[entry..entry + 4]);
            assert!(number(entry + 4) + number(entry + 8) <= bytes.len());
        }
        let read = ColorProfile::new_from_slice(&bytes).unwrap();
        assert_eq!(read.color_space, DataColorSpace::Rgb);
        let white = read.media_white_point.unwrap();
        assert!((white.x - 0.9642).abs() < 1e-4 && (white.z - 0.8249).abs() < 1e-4, "{white:?}");
        // Bradford's, as the ICC's own sRGB profiles have it.
        let adaptation = read.chromatic_adaptation.unwrap().v;
        for (row, expected) in
            adaptation.iter().zip([[1.0479, 0.0229, -0.0502], [0.0296, 0.9905, -0.0171], [-0.0092, 0.0151, 0.7517]])
        {
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 3e-4), "{adaptation:?}");
        }
    }
}

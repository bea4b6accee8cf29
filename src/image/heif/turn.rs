//! Crops, rotations and mirrorings that a HEIF file asks for.

use super::boxes::BoxContent;
use crate::image::pixels::{CodecError, Pixels, Samples};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Quarter turns, counterclockwise.
    Rotate(u8),
    /// Exchanges top and bottom.
    FlipRows,
    /// Exchanges left and right.
    FlipColumns,
    Crop {
        left: u32,
        top: u32,
        width: u32,
        height: u32,
    },
}

impl Turn {
    /// From the content of the property `irot`.
    pub fn rotation(content: &[u8]) -> Result<Self, CodecError> {
        Ok(Self::Rotate(BoxContent::of(content).u8()? & 3))
    }

    /// From the content of the property `imir`.
    pub fn mirror(content: &[u8]) -> Result<Self, CodecError> {
        Ok(if BoxContent::of(content).u8()? & 1 == 0 { Self::FlipRows } else { Self::FlipColumns })
    }

    /// From the content of the property `clap`: a width, a height, and the distance between the two centers, as
    /// fractions.
    pub fn crop(content: &[u8], (width, height): (u32, u32)) -> Result<Self, CodecError> {
        let mut fields = BoxContent::of(content);
        let mut fraction = || Ok::<_, CodecError>((i64::from(fields.u32()?.cast_signed()), i64::from(fields.u32()?)));
        let sizes = [fraction()?, fraction()?];
        let distances = [fraction()?, fraction()?];
        let mut found = [(0, 0); 2];
        for (index, side) in [width, height].into_iter().enumerate() {
            let (part, of) = sizes[index];
            let (distance, distance_of) = distances[index];
            let side = i64::from(side);
            let whole = |part: i64, of: i64| (of > 0 && part % of == 0).then(|| part / of);
            // The start is distance + (side - size) / 2; half a pixel is rounded down, as in libheif.
            let start = whole(part, of)
                .zip(whole(2 * distance, distance_of))
                .map(|(size, twice)| ((twice + side - size).div_euclid(2), size))
                .filter(|(start, size)| *start >= 0 && *size > 0 && start + size <= side);
            found[index] = start.ok_or_else(|| CodecError::Unsupported("a crop to parts of pixels".to_owned()))?;
        }
        let [(left, width), (top, height)] = found.map(|(start, size)| (start as u32, size as u32));
        Ok(Self::Crop { left, top, width, height })
    }

    /// The size after it.
    pub fn size(self, (width, height): (u32, u32)) -> (u32, u32) {
        match self {
            Self::Rotate(1 | 3) => (height, width),
            Self::Crop { width, height, .. } => (width, height),
            _ => (width, height),
        }
    }

    pub fn apply(self, pixels: Pixels) -> Pixels {
        let size = self.size((pixels.width, pixels.height));
        let samples = match &pixels.samples {
            Samples::Eight(samples) => Samples::Eight(self.moved(&pixels, samples, size)),
            Samples::Sixteen(samples) => Samples::Sixteen(self.moved(&pixels, samples, size)),
        };
        Pixels { width: size.0, height: size.1, samples, ..pixels }
    }

    fn moved<T: Copy>(self, pixels: &Pixels, samples: &[T], (width, height): (u32, u32)) -> Vec<T> {
        let channels = pixels.channels();
        let (right, bottom) = (pixels.width - 1, pixels.height - 1);
        let mut moved = Vec::with_capacity(width as usize * height as usize * channels);
        for y in 0..height {
            for x in 0..width {
                let (x, y) = match self {
                    Self::Rotate(1) => (right - y, x),
                    Self::Rotate(2) => (right - x, bottom - y),
                    Self::Rotate(3) => (y, bottom - x),
                    Self::Rotate(_) => (x, y),
                    Self::FlipRows => (x, bottom - y),
                    Self::FlipColumns => (right - x, y),
                    Self::Crop { left, top, .. } => (left + x, top + y),
                };
                let at = (y as usize * pixels.width as usize + x as usize) * channels;
                moved.extend_from_slice(&samples[at..at + channels]);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::pixels::Model;

    /// Three columns and two rows: 1 2 3, 4 5 6.
    fn turned(turn: Turn) -> (u32, u32, Vec<u8>) {
        let samples = Samples::Eight(vec![1, 2, 3, 4, 5, 6]);
        let pixels = turn.apply(Pixels { width: 3, height: 2, model: Model::Gray, alpha: false, samples });
        let Samples::Eight(samples) = pixels.samples else { panic!("8 bits") };
        (pixels.width, pixels.height, samples)
    }

    #[test]
    fn every_turn_moves_the_pixels() {
        assert_eq!(turned(Turn::Rotate(0)), (3, 2, vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(turned(Turn::Rotate(1)), (2, 3, vec![3, 6, 2, 5, 1, 4]));
        assert_eq!(turned(Turn::Rotate(2)), (3, 2, vec![6, 5, 4, 3, 2, 1]));
        assert_eq!(turned(Turn::Rotate(3)), (2, 3, vec![4, 1, 5, 2, 6, 3]));
        assert_eq!(turned(Turn::FlipRows), (3, 2, vec![4, 5, 6, 1, 2, 3]));
        assert_eq!(turned(Turn::FlipColumns), (3, 2, vec![3, 2, 1, 6, 5, 4]));
        assert_eq!(turned(Turn::Crop { left: 1, top: 1, width: 2, height: 1 }), (2, 1, vec![5, 6]));
    }

    #[test]
    fn a_crop_is_whole_pixels_inside_the_picture() {
        let crop = |numbers: [i32; 8], size| Turn::crop(&numbers.map(i32::to_be_bytes).concat(), size);
        let wanted = Turn::Crop { left: 3, top: 1, width: 4, height: 6 };
        assert_eq!(crop([4, 1, 6, 1, 0, 1, -1, 1], (10, 10)).ok(), Some(wanted));
        // Between two pixels of an odd width.
        assert_eq!(crop([8, 2, 6, 1, 1, 2, -1, 1], (9, 10)).ok(), Some(wanted));
        // Half a pixel.
        assert_eq!(crop([4, 1, 6, 1, 0, 1, -1, 1], (11, 10)).ok(), Some(wanted));
        assert!(crop([9, 2, 6, 1, 0, 1, -1, 1], (10, 10)).is_err(), "a size of half a pixel");
        assert!(crop([4, 1, 6, 1, 4, 1, 0, 1], (10, 10)).is_err(), "outside");
        assert!(crop([4, 0, 6, 1, 0, 1, 0, 1], (10, 10)).is_err(), "divided by zero");
        assert!(crop([0, 1, 6, 1, 0, 1, 0, 1], (10, 10)).is_err(), "nothing");
        assert!(Turn::crop(&[0; 31], (10, 10)).is_err());
    }
}

//! Luma and chroma to RGB, by the matrices of H.273.

use rayon::prelude::*;

use super::planes::{Chroma, CodedColor, Planes};
use crate::image::pixels::{CodecError, Model, Pixels, Samples, straight};

/// How three samples become red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ColorMatrix {
    /// The planes are green, blue and red.
    Identity,
    /// YCgCo.
    Differences,
    /// The parts of red and blue in luma.
    Parts { red: f32, blue: f32 },
}

impl ColorMatrix {
    pub fn of(color: CodedColor, chroma: Chroma) -> Result<Self, CodecError> {
        let parts = |red, blue| Ok(Self::Parts { red, blue });
        match color.matrix {
            0 if matches!(chroma, Chroma::Full | Chroma::None) => Ok(Self::Identity),
            0 => Err(CodecError::Damaged("its RGB samples are not complete".to_owned())),
            1 => parts(0.2126, 0.0722),
            // What is not said is taken as that of most pictures, as other decoders do.
            2 | 5 | 6 => parts(0.299, 0.114),
            4 => parts(0.3, 0.11),
            7 => parts(0.212, 0.087),
            8 => Ok(Self::Differences),
            9 => parts(0.2627, 0.0593),
            12 => derived(color.primaries).ok_or_else(|| unknown(color)),
            _ => Err(unknown(color)),
        }
    }
}

fn unknown(color: CodedColor) -> CodecError {
    CodecError::Unsupported(format!("the color matrix {} of H.273", color.matrix))
}

/// The parts of red and blue in the luminance of white, by the chromaticities (H.273, 8.3).
fn derived(primaries: u16) -> Option<ColorMatrix> {
    const D65: [f64; 2] = [0.3127, 0.3290];
    const C: [f64; 2] = [0.310, 0.316];
    let ([red, green, blue], white) = match primaries {
        1 | 2 => ([[0.64, 0.33], [0.30, 0.60], [0.15, 0.06]], D65),
        4 => ([[0.67, 0.33], [0.21, 0.71], [0.14, 0.08]], C),
        5 => ([[0.64, 0.33], [0.29, 0.60], [0.15, 0.06]], D65),
        6 | 7 => ([[0.630, 0.340], [0.310, 0.595], [0.155, 0.070]], D65),
        9 => ([[0.708, 0.292], [0.170, 0.797], [0.131, 0.046]], D65),
        11 => ([[0.680, 0.320], [0.265, 0.690], [0.150, 0.060]], [0.314, 0.351]),
        12 => ([[0.680, 0.320], [0.265, 0.690], [0.150, 0.060]], D65),
        _ => return None,
    };
    // XYZ of each for a luminance of 1.
    let [red, green, blue, white] = [red, green, blue, white].map(|[x, y]| [x / y, 1.0, (1.0 - x - y) / y]);
    let determinant = |a: [f64; 3], b: [f64; 3], c: [f64; 3]| {
        a[0] * (b[1] * c[2] - b[2] * c[1]) - b[0] * (a[1] * c[2] - a[2] * c[1]) + c[0] * (a[1] * b[2] - a[2] * b[1])
    };
    let all = determinant(red, green, blue);
    let part = |value: f64| (value / all) as f32;
    Some(ColorMatrix::Parts { red: part(determinant(white, green, blue)), blue: part(determinant(red, green, white)) })
}

/// A plane of alpha; its samples use the full range unless its file says otherwise.
pub(super) struct AlphaPlane {
    pub planes: Planes,
    pub full_range: bool,
    pub premultiplied: bool,
}

/// Interleaves the samples, with 8 bits or with 16 for more.
pub(super) fn interleaved(
    planes: &Planes,
    color: CodedColor,
    alpha: Option<&AlphaPlane>,
) -> Result<Pixels, CodecError> {
    let matrix = ColorMatrix::of(color, planes.format.chroma)?;
    let model = if planes.format.chroma == Chroma::None { Model::Gray } else { Model::Rgb };
    let deep = planes.format.depth > 8 || alpha.is_some_and(|alpha| alpha.planes.format.depth > 8);
    let conversion = Conversion { planes, color, matrix, model, alpha };
    let samples = if deep {
        Samples::Sixteen(conversion.samples(65535.0, |value| value as u16))
    } else {
        Samples::Eight(conversion.samples(255.0, |value| value as u8))
    };
    let (width, height) = (planes.width as u32, planes.height as u32);
    Ok(Pixels { width, height, model, alpha: alpha.is_some(), samples })
}

struct Conversion<'a> {
    planes: &'a Planes,
    color: CodedColor,
    matrix: ColorMatrix,
    model: Model,
    alpha: Option<&'a AlphaPlane>,
}

impl Conversion<'_> {
    fn samples<T>(&self, most: f32, round: impl Fn(f32) -> T + Sync) -> Vec<T>
    where
        T: Copy + Default + Send + Sync + Into<u32> + TryFrom<u32>,
    {
        let width = self.planes.width;
        let colors = self.model.channels();
        let channels = colors + usize::from(self.alpha.is_some());
        let mut samples = vec![T::default(); width * self.planes.height * channels];
        let value = |part: f32| round(part.clamp(0.0, 1.0) * most + 0.5);
        samples.par_chunks_exact_mut(width * channels).enumerate().for_each(|(y, out)| {
            let luma = scaled(&self.planes.samples[0][y * width..], self.luma_scale(), width);
            if self.model == Model::Gray {
                out.chunks_exact_mut(channels).zip(&luma).for_each(|(out, luma)| out[0] = value(*luma));
            } else {
                let [first, second] = [1, 2].map(|plane| self.chroma_row(plane, y));
                for (x, out) in out.chunks_exact_mut(channels).enumerate() {
                    let color = rgb(self.matrix, luma[x], first[x], second[x]);
                    out.iter_mut().zip(color).for_each(|(out, color)| *out = value(color));
                }
            }
            if let Some(alpha) = self.alpha {
                let scale = SampleScale::luma(alpha.planes.format.depth, alpha.full_range);
                let row = scaled(&alpha.planes.samples[0][y * width..], scale, width);
                for (out, alpha_value) in out.chunks_exact_mut(channels).zip(row) {
                    out[colors] = value(alpha_value);
                    if alpha.premultiplied {
                        straight(out, colors);
                    }
                }
            }
        });
        samples
    }

    fn luma_scale(&self) -> SampleScale {
        SampleScale::luma(self.planes.format.depth, self.color.full_range)
    }

    /// A row of chroma for every pixel: subsampled chroma lies between the pixels, and is interpolated.
    fn chroma_row(&self, plane: usize, y: usize) -> Vec<f32> {
        let (width, height) = self.planes.plane_size(plane);
        let scale = if self.matrix == ColorMatrix::Identity {
            self.luma_scale()
        } else {
            SampleScale::chroma(self.planes.format.depth, self.color.full_range)
        };
        let row = |y: usize| scaled(&self.planes.samples[plane][y * width..], scale, width);
        let (across, down) = self.planes.format.chroma.steps();
        let mut values = row(y / down);
        if down == 2 {
            let other = row(neighbor(y, height));
            values.iter_mut().zip(other).for_each(|(near, far)| *near = 0.75 * *near + 0.25 * far);
        }
        if across == 1 {
            return values;
        }
        (0..self.planes.width).map(|x| 0.75 * values[x / 2] + 0.25 * values[neighbor(x, width)]).collect()
    }
}

/// The second nearest of `count` chroma samples, each of which lies in the middle of two pixels.
fn neighbor(pixel: usize, count: usize) -> usize {
    let nearest = pixel / 2;
    if pixel.is_multiple_of(2) { nearest.saturating_sub(1) } else { (nearest + 1).min(count - 1) }
}

/// A sample is a number between 0 and 1, or of chroma between -0.5 and 0.5.
#[derive(Debug, Clone, Copy)]
struct SampleScale {
    zero: f32,
    factor: f32,
}

impl SampleScale {
    fn luma(depth: u8, full_range: bool) -> Self {
        let (most, step) = Self::range(depth);
        if full_range {
            Self { zero: 0.0, factor: 1.0 / most }
        } else {
            Self { zero: 16.0 * step, factor: 1.0 / (219.0 * step) }
        }
    }

    fn chroma(depth: u8, full_range: bool) -> Self {
        let (most, step) = Self::range(depth);
        Self { zero: 128.0 * step, factor: 1.0 / if full_range { most } else { 224.0 * step } }
    }

    /// The largest sample, and how many of them are one of 8 bits.
    fn range(depth: u8) -> (f32, f32) {
        let depth = u32::from(depth.clamp(8, 16));
        (((1u32 << depth) - 1) as f32, (1u32 << (depth - 8)) as f32)
    }
}

fn scaled(samples: &[u16], scale: SampleScale, count: usize) -> Vec<f32> {
    samples.iter().take(count).map(|sample| (f32::from(*sample) - scale.zero) * scale.factor).collect()
}

fn rgb(matrix: ColorMatrix, luma: f32, first: f32, second: f32) -> [f32; 3] {
    match matrix {
        ColorMatrix::Identity => [second, luma, first],
        ColorMatrix::Differences => [luma - first + second, luma + first, luma - first - second],
        ColorMatrix::Parts { red, blue } => {
            let r = luma + 2.0 * (1.0 - red) * second;
            let b = luma + 2.0 * (1.0 - blue) * first;
            [r, (luma - red * r - blue * b) / (1.0 - red - blue), b]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::heif::planes::PlaneFormat;

    fn color(matrix: u16, full_range: bool) -> CodedColor {
        CodedColor { primaries: 1, transfer: 13, matrix, full_range }
    }

    fn one(matrix: u16, full_range: bool, depth: u8, samples: [u16; 3]) -> Samples {
        let format = PlaneFormat { depth, chroma: Chroma::Full };
        let planes = Planes { width: 1, height: 1, format, samples: samples.map(|sample| vec![sample]) };
        interleaved(&planes, color(matrix, full_range), None).expect("pixels").samples
    }

    #[test]
    fn known_colors_of_every_matrix() {
        // Red, by the formulas of H.273.
        assert_eq!(one(6, true, 8, [76, 85, 255]), Samples::Eight(vec![254, 0, 0]));
        assert_eq!(one(1, false, 8, [63, 102, 240]), Samples::Eight(vec![255, 1, 0]));
        assert_eq!(one(9, false, 10, [294, 387, 960]), Samples::Sixteen(vec![65526, 0, 6]));
        assert_eq!(one(0, true, 8, [10, 20, 30]), Samples::Eight(vec![30, 10, 20]));
        assert_eq!(one(8, true, 8, [128, 138, 148]), Samples::Eight(vec![138, 138, 98]));
        assert_eq!(one(2, false, 8, [235, 128, 128]), Samples::Eight(vec![255, 255, 255]));
    }

    #[test]
    fn the_parts_that_follow_from_primaries_are_those_of_the_standards() {
        for (primaries, wanted) in [(1, (0.2126, 0.0722)), (9, (0.2627, 0.0593)), (4, (0.299, 0.114))] {
            let Some(ColorMatrix::Parts { red, blue }) = derived(primaries) else { panic!("{primaries}") };
            assert!((red - wanted.0).abs() < 2e-3 && (blue - wanted.1).abs() < 2e-3, "{primaries}: {red} {blue}");
        }
        assert!(ColorMatrix::of(color(14, true), Chroma::Full).is_err());
        assert!(ColorMatrix::of(color(0, true), Chroma::Quarter).is_err());
    }

    #[test]
    fn chroma_lies_between_the_pixels() {
        assert_eq!([0, 1, 2, 3, 4].map(|pixel| neighbor(pixel, 3)), [0, 1, 0, 2, 1]);
        assert_eq!(neighbor(5, 3), 2);
    }
}

//! What stands under an alpha of 0. Programs write anything there, and a model would see it.

use ::image::RgbaImage;
use rayon::prelude::*;

/// Colors are continued over this part of the longer side, which is as far as resizing to a model's size reaches.
const REACH: u32 = 32;
/// Below this many pixels, nothing is continued: a picture of about the model's size is hardly resized.
const LEAST_REACH: u32 = 8;

/// The picture without the colors of fully transparent pixels, which become black.
pub fn without_hidden(mut image: RgbaImage) -> RgbaImage {
    image.par_chunks_exact_mut(4).filter(|pixel| pixel[3] == 0).for_each(|pixel| pixel.fill(0));
    image
}

/// Puts the fully transparent pixels of a picture of the same size back, with the colors that they had, unless they are
/// not transparent any more.
pub fn put_back_hidden(image: &mut RgbaImage, source: &RgbaImage) {
    let pixels = image.par_chunks_exact_mut(4).zip(source.par_chunks_exact(4));
    let hidden = pixels.filter(|(pixel, source)| pixel[3] == 0 && source[3] == 0);
    hidden.for_each(|(pixel, source)| pixel.copy_from_slice(source));
}

/// The same for an edit, whose model sees colors without alpha. Next to what is visible, transparent pixels continue
/// its colors, so that resizing does not mix black into the edges; alpha stays 0.
///
/// A pixel gets the mean of the smallest visible cell that it is in, of cells of 2, 4, 8, ... pixels, as in the first
/// half of push-pull (Gortler et al., "The Lumigraph", 1996).
pub fn with_continued_colors(image: RgbaImage) -> RgbaImage {
    let image = without_hidden(image);
    let reach = image.width().max(image.height()) / REACH;
    if reach < LEAST_REACH { image } else { continued_over(image, reach) }
}

/// Continues visible colors over at least `reach` transparent pixels, up to twice as many.
pub(super) fn continued_over(mut image: RgbaImage, reach: u32) -> RgbaImage {
    if image.par_chunks_exact(4).all(|pixel| pixel[3] > 0) {
        return image;
    }
    let mut levels = vec![Level::of(&image)];
    while 1 << levels.len() < reach {
        levels.push(levels[levels.len() - 1].halved());
    }
    let row = image.width() as usize * 4;
    image.par_chunks_exact_mut(row).enumerate().for_each(|(y, row)| {
        for (x, pixel) in row.chunks_exact_mut(4).enumerate().filter(|(_, pixel)| pixel[3] == 0) {
            let found = (1..).zip(&levels).map(|(by, level)| level.cells[(y >> by) * level.width + (x >> by)]);
            if let Some([r, g, b, alpha]) = found.into_iter().find(|cell| cell[3] > 0.0) {
                pixel[..3].copy_from_slice(&[r, g, b].map(|value| (value / alpha).round() as u8));
            }
        }
    });
    image
}

/// The sums of color times alpha, and of alpha, in cells of a picture.
struct Level {
    width: usize,
    cells: Vec<[f32; 4]>,
}

impl Level {
    /// Cells of 2 x 2 pixels.
    fn of(image: &RgbaImage) -> Self {
        Self::sums((image.width() as usize, image.height() as usize), |at| {
            let [r, g, b, alpha] = [0, 1, 2, 3].map(|channel| f32::from(image.as_raw()[at * 4 + channel]));
            [r * alpha, g * alpha, b * alpha, alpha]
        })
    }

    /// Cells of twice the size.
    fn halved(&self) -> Self {
        Self::sums((self.width, self.cells.len() / self.width), |at| self.cells[at])
    }

    fn sums((width, height): (usize, usize), value: impl Fn(usize) -> [f32; 4] + Sync) -> Self {
        let (columns, rows) = (width.div_ceil(2), height.div_ceil(2));
        let cell = |at: usize| {
            let (left, top) = (at % columns * 2, at / columns * 2);
            let mut sum = [0.0; 4];
            for y in top..(top + 2).min(height) {
                for x in left..(left + 2).min(width) {
                    let value = value(y * width + x);
                    sum = [0, 1, 2, 3].map(|channel| sum[channel] + value[channel]);
                }
            }
            sum
        };
        Self { width: columns, cells: (0..columns * rows).into_par_iter().map(cell).collect() }
    }
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;
    use crate::image_processor::{lanczos_rgb, rgb_of};

    fn disk(side: u32, hidden: [u8; 3]) -> RgbaImage {
        RgbaImage::from_fn(side, side, |x, y| {
            let half = f64::from(side) / 2.0;
            let alpha =
                ((half * 0.6 - (f64::from(x) - half).hypot(f64::from(y) - half)) * 80.0).clamp(0.0, 255.0) as u8;
            let [r, g, b] = if alpha == 0 { hidden } else { [220, 90, 30] };
            Rgba([r, g, b, alpha])
        })
    }

    #[test]
    fn hidden_colors_do_not_matter_and_alpha_stays() {
        for side in [100, 901] {
            let [black, loud] = [[0, 0, 0], [255, 0, 255]].map(|hidden| disk(side, hidden));
            for make in [without_hidden, with_continued_colors] {
                let (one, other) = (make(black.clone()), make(loud.clone()));
                assert_eq!(one, other);
                assert!(
                    one.pixels().zip(black.pixels()).all(|(new, old)| new[3] == old[3] && (old[3] == 0 || new == old))
                );
            }
            assert_eq!(with_continued_colors(loud).get_pixel(0, 0).0, [0; 4], "far away");
        }
    }

    #[test]
    fn edges_keep_their_color_when_they_are_resized() {
        let drift = |layer: RgbaImage| {
            let small = lanczos_rgb(&rgb_of(&layer), 450, 450);
            let back = lanczos_rgb(&small, 900, 900);
            let visible = layer.pixels().zip(back.pixels()).filter(|(layer, _)| layer[3] > 0);
            visible.map(|(layer, back)| u64::from(layer[0].abs_diff(back[0]))).sum::<u64>()
        };
        let [black, continued] = [without_hidden, with_continued_colors].map(|make| drift(make(disk(900, [0; 3]))));
        assert!(continued * 50 < black, "{continued} instead of {black}");
    }
}

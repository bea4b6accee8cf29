//! Composites layers, back to front.

use std::borrow::Borrow;

use ::image::RgbaImage;
use rayon::prelude::*;

use super::ImageError;

/// Composites `layers` (back to front, all of one size, straight alpha).
///
/// Each pixel is blended with "over" in float32 through the whole stack and rounded once at the end. It is exact where
/// nothing blends: an alpha of 0 keeps the pixel below unchanged, including its color, and an alpha of 255 replaces it.
///
/// # Errors
/// If there is no layer, or a layer's size differs from the first one's.
pub fn composite<Layer: Borrow<RgbaImage>>(layers: &[Layer]) -> Result<RgbaImage, ImageError> {
    let layers: Vec<&RgbaImage> = layers.iter().map(Borrow::borrow).collect();
    let Some((&back, above)) = layers.split_first() else {
        return Err(ImageError::NoLayers);
    };
    for (index, layer) in above.iter().enumerate() {
        if layer.dimensions() != back.dimensions() {
            let ((width, height), (first_width, first_height)) = (layer.dimensions(), back.dimensions());
            return Err(ImageError::LayerSize { index: index + 1, width, height, first_width, first_height });
        }
    }
    let mut out = back.clone();
    let row_bytes = back.width() as usize * 4;
    if row_bytes > 0 {
        out.par_chunks_exact_mut(row_bytes).enumerate().for_each(|(y, row)| {
            let span = y * row_bytes..(y + 1) * row_bytes;
            let rows: Vec<&[u8]> = above.iter().map(|layer| &layer.as_raw()[span.clone()]).collect();
            for (x, pixel) in row.chunks_exact_mut(4).enumerate() {
                let at = x * 4;
                let stack = rows.iter().map(|row| [row[at], row[at + 1], row[at + 2], row[at + 3]]);
                pixel.copy_from_slice(&blend([pixel[0], pixel[1], pixel[2], pixel[3]], stack));
            }
        });
    }
    Ok(out)
}

/// One pixel of the stack. `whole` is the result until something is blended, `mixed` from then on.
fn blend(back: [u8; 4], above: impl Iterator<Item = [u8; 4]>) -> [u8; 4] {
    let mut whole = back;
    let mut mixed: Option<Premultiplied> = None;
    for top in above {
        match (top[3], &mixed) {
            (0, _) => {}
            (255, _) => (whole, mixed) = (top, None),
            (_, None) if whole[3] == 0 => whole = top,
            (_, None) => mixed = Some(Premultiplied::of(whole).under(top)),
            (_, Some(below)) => mixed = Some(below.under(top)),
        }
    }
    mixed.map_or(whole, |pixel| pixel.straight())
}

/// Color times alpha, and alpha, each from 0 to 1.
struct Premultiplied {
    color: [f32; 3],
    alpha: f32,
}

impl Premultiplied {
    fn of([r, g, b, a]: [u8; 4]) -> Self {
        let alpha = f32::from(a) / 255.0;
        Self { color: [r, g, b].map(|value| f32::from(value) / 255.0 * alpha), alpha }
    }

    fn under(&self, top: [u8; 4]) -> Self {
        let top = Self::of(top);
        let through = 1.0 - top.alpha;
        let over = |i: usize| top.color[i] + self.color[i] * through;
        Self { color: [over(0), over(1), over(2)], alpha: top.alpha + self.alpha * through }
    }

    fn straight(&self) -> [u8; 4] {
        let byte = |value: f32| (value * 255.0).round().clamp(0.0, 255.0) as u8;
        let [r, g, b] = self.color.map(|value| byte(value / self.alpha));
        [r, g, b, byte(self.alpha)]
    }
}

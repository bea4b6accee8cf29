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
/// [`ImageError::NoLayers`] if there is no layer; [`ImageError::LayerSize`] if a layer's size differs from the first
/// one's.
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

/// Composites a stack layer by layer, for stacks that do not fit into memory: it holds the result so far, and the
/// caller one layer. The pixels are those of [`composite`], also with opacities: they are rounded once.
pub struct Compositor {
    whole: RgbaImage,
    /// The pixels that were blended; a negative alpha marks those that were not, which are in `whole`. Empty until a
    /// second layer comes.
    mixed: Vec<[f32; 4]>,
    layers: usize,
}

impl Compositor {
    /// A transparent picture.
    pub fn new(width: u32, height: u32) -> Self {
        Self { whole: RgbaImage::new(width, height), mixed: Vec::new(), layers: 0 }
    }

    /// Bytes per pixel that it holds, without the layer that is added.
    pub const BYTES_PER_PIXEL: u64 = 20;

    /// Puts a layer on top, its alpha times `opacity`, from 0 to 1.
    ///
    /// # Errors
    /// [`ImageError::LayerSize`] if the layer's size differs.
    pub fn add(&mut self, layer: &RgbaImage, opacity: f32) -> Result<(), ImageError> {
        let (first_width, first_height) = self.whole.dimensions();
        if layer.dimensions() != self.whole.dimensions() {
            let (width, height) = layer.dimensions();
            return Err(ImageError::LayerSize { index: self.layers, width, height, first_width, first_height });
        }
        self.layers += 1;
        let row_bytes = first_width as usize * 4;
        if opacity == 0.0 || row_bytes == 0 {
            return Ok(());
        }
        if self.layers == 1 && opacity == 1.0 {
            self.whole.copy_from_slice(layer);
            return Ok(());
        }
        if self.mixed.is_empty() {
            self.mixed = vec![[0.0, 0.0, 0.0, -1.0]; self.whole.len() / 4];
        }
        let rows = self.whole.par_chunks_exact_mut(row_bytes).zip(self.mixed.par_chunks_exact_mut(row_bytes / 4));
        rows.zip(layer.par_chunks_exact(row_bytes)).for_each(|((whole, mixed), top)| {
            for ((whole, mixed), top) in whole.chunks_exact_mut(4).zip(mixed).zip(top.chunks_exact(4)) {
                let [r, g, b, alpha] = *mixed;
                let below = (alpha >= 0.0).then_some(Premultiplied { color: [r, g, b], alpha });
                let mut pixel = Pixel { whole: [whole[0], whole[1], whole[2], whole[3]], mixed: below };
                pixel.lay([top[0], top[1], top[2], top[3]], opacity);
                whole.copy_from_slice(&pixel.whole);
                *mixed = match pixel.mixed {
                    Some(Premultiplied { color: [r, g, b], alpha }) => [r, g, b, alpha],
                    None => [0.0, 0.0, 0.0, -1.0],
                };
            }
        });
        Ok(())
    }

    /// The composite, with straight alpha.
    pub fn finish(mut self) -> RgbaImage {
        for (pixel, [r, g, b, alpha]) in self.whole.chunks_exact_mut(4).zip(self.mixed) {
            if alpha >= 0.0 {
                pixel.copy_from_slice(&Premultiplied { color: [r, g, b], alpha }.straight());
            }
        }
        self.whole
    }
}

/// One pixel of the stack.
fn blend(back: [u8; 4], above: impl Iterator<Item = [u8; 4]>) -> [u8; 4] {
    let mut pixel = Pixel { whole: back, mixed: None };
    above.for_each(|top| pixel.lay(top, 1.0));
    pixel.mixed.map_or(pixel.whole, |mixed| mixed.straight())
}

/// `whole` is the result until something is blended, `mixed` from then on.
struct Pixel {
    whole: [u8; 4],
    mixed: Option<Premultiplied>,
}

impl Pixel {
    #[inline]
    fn lay(&mut self, top: [u8; 4], opacity: f32) {
        match (top[3], &self.mixed) {
            (0, _) => {}
            (255, _) if opacity == 1.0 => (self.whole, self.mixed) = (top, None),
            (_, None) if self.whole[3] == 0 && opacity == 1.0 => self.whole = top,
            (_, None) if self.whole[3] == 0 => self.mixed = Some(Premultiplied::of(top, opacity)),
            (_, None) => self.mixed = Some(Premultiplied::of(self.whole, 1.0).under(top, opacity)),
            (_, Some(below)) => self.mixed = Some(below.under(top, opacity)),
        }
    }
}

/// Color times alpha, and alpha, each from 0 to 1.
struct Premultiplied {
    color: [f32; 3],
    alpha: f32,
}

impl Premultiplied {
    fn of([r, g, b, a]: [u8; 4], opacity: f32) -> Self {
        let alpha = f32::from(a) / 255.0 * opacity;
        Self { color: [r, g, b].map(|value| f32::from(value) / 255.0 * alpha), alpha }
    }

    fn under(&self, top: [u8; 4], opacity: f32) -> Self {
        let top = Self::of(top, opacity);
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

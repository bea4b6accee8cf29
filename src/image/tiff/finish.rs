//! From a TIFF's samples to pixels: palettes, YCbCr, inverted gray, premultiplied alpha, floating point.

use super::{
    directory::{Directory, Tag},
    layout::{Alpha, Compression, Layout, Photometric, SampleFormat},
    samples::Plain,
};
use crate::image::pixels::{Model, Pixels, Samples, straight};

/// The pixels, and notes about what the conversion changed.
pub(super) fn finish(all: Plain, layout: &Layout, directory: &Directory<'_>) -> Result<(Pixels, Vec<String>), String> {
    let mut notes = Vec::new();
    let mut samples = match all {
        Plain::Eight(samples) => Samples::Eight(samples),
        Plain::Sixteen(samples) => Samples::Sixteen(samples),
        Plain::Float(samples) => {
            let white = white_of(&samples);
            notes.push(format!("floating-point samples; 0 to {white} was taken as black to white"));
            Samples::Sixteen(samples.into_iter().map(|value| (value / white * 65535.0).round() as u16).collect())
        }
    };
    if layout.format == SampleFormat::Signed {
        let taken = if layout.bits == 8 { "they were taken as unsigned" } else { "negative ones were taken as 0" };
        notes.push(format!("signed samples; {taken}"));
    }
    if let Some(slices) = directory.number(Tag::ImageDepth).filter(|slices| *slices > 1) {
        notes.push(format!("TIFF with {slices} slices; only the first was used"));
    }
    let alpha = layout.alpha.is_some();
    let (kept, colors) = (layout.kept(), layout.colors);
    let model = match layout.color {
        Photometric::WhiteIsZero => {
            match &mut samples {
                Samples::Eight(samples) => samples.iter_mut().step_by(kept).for_each(|value| *value = !*value),
                Samples::Sixteen(samples) => samples.iter_mut().step_by(kept).for_each(|value| *value = !*value),
            }
            Model::Gray
        }
        Photometric::BlackIsZero => Model::Gray,
        Photometric::Rgb => Model::Rgb,
        Photometric::Cmyk => Model::Cmyk,
        Photometric::Palette => {
            samples = through_palette(&samples, layout, directory)?;
            Model::Rgb
        }
        Photometric::YCbCr => {
            if let Samples::Eight(samples) = &mut samples
                && !matches!(layout.compression, Compression::Jpeg | Compression::WebP)
            {
                to_rgb(samples, kept, directory);
            }
            Model::Rgb
        }
        Photometric::Lab { signed } => {
            if signed {
                // Signed numbers become numbers with an offset.
                match &mut samples {
                    Samples::Eight(samples) => {
                        samples
                            .chunks_exact_mut(kept)
                            .for_each(|pixel| pixel[1..3].iter_mut().for_each(|v| *v ^= 0x80));
                    }
                    Samples::Sixteen(samples) => {
                        samples
                            .chunks_exact_mut(kept)
                            .for_each(|pixel| pixel[1..3].iter_mut().for_each(|v| *v ^= 0x8000));
                    }
                }
            } else if let Samples::Sixteen(samples) = &mut samples {
                // ICC's own form has 65280 for L = 100.
                let full = |value: u16| (u32::from(value) * 65535 / 65280).min(65535) as u16;
                samples.iter_mut().step_by(kept).for_each(|value| *value = full(*value));
            }
            Model::Lab
        }
    };
    if layout.alpha == Some(Alpha::Premultiplied) && layout.color != Photometric::Palette {
        match &mut samples {
            Samples::Eight(samples) => samples.chunks_exact_mut(kept).for_each(|pixel| straight(pixel, colors)),
            Samples::Sixteen(samples) => samples.chunks_exact_mut(kept).for_each(|pixel| straight(pixel, colors)),
        }
    }
    let pixels = Pixels { width: layout.width, height: layout.height, model, alpha, samples };
    Ok((pixels, notes))
}

/// White in a floating-point picture: 1 as a rule; the range of whole numbers if the values are far above it.
fn white_of(samples: &[f32]) -> f32 {
    let most = samples.iter().copied().filter(|value| value.is_finite()).fold(0.0, f32::max);
    // Light sources in a picture with white at 1 may be brighter than that.
    [(16.0, 1.0), (255.0, 255.0), (65535.0, 65535.0)]
        .into_iter()
        .find_map(|(limit, white)| (most <= limit).then_some(white))
        .unwrap_or(most)
}

fn through_palette(samples: &Samples, layout: &Layout, directory: &Directory<'_>) -> Result<Samples, String> {
    let map = directory.numbers(Tag::ColorMap).unwrap_or_default();
    let count = map.len() / 3;
    if count == 0 {
        return Err("the TIFF is damaged: it has no palette; save it again".to_owned());
    }
    // Some programs write 8 bits instead of 16.
    let shift = if map.iter().all(|value| *value < 256) { 0 } else { 8 };
    let kept = layout.kept();
    let mut out = Vec::with_capacity(layout.width as usize * layout.height as usize * (kept + 2));
    let mut add = |index: usize, alpha: Option<u8>| {
        let color = |channel: usize| map.get(channel * count + index).map_or(0, |value| (value >> shift) as u8);
        let index_is_known = index < count;
        out.extend((0..3).map(|channel| if index_is_known { color(channel) } else { 0 }));
        out.extend(alpha);
    };
    match samples {
        Samples::Eight(samples) => {
            samples.chunks_exact(kept).for_each(|pixel| add(pixel[0].into(), pixel.get(1).copied()));
        }
        Samples::Sixteen(samples) => {
            samples.chunks_exact(kept).for_each(|pixel| add(pixel[0].into(), pixel.get(1).map(|v| (v >> 8) as u8)));
        }
    }
    Ok(Samples::Eight(out))
}

/// TIFF 6.0, section 21: samples with headroom become the full range, then RGB.
fn to_rgb(samples: &mut [u8], kept: usize, directory: &Directory<'_>) {
    let luma = directory.fractions(Tag::YCbCrCoefficients).filter(|list| list.len() == 3 && list[1] > 0.0);
    let luma = luma.unwrap_or_else(|| vec![0.299, 0.587, 0.114]);
    let range = directory.fractions(Tag::ReferenceBlackWhite).filter(|list| list.len() == 6);
    let range = range.unwrap_or_else(|| vec![0.0, 255.0, 128.0, 255.0, 128.0, 255.0]);
    let full = |value: u8, black: f32, white: f32, most: f32| {
        let span = if white > black { white - black } else { most };
        (f32::from(value) - black) * most / span
    };
    for pixel in samples.chunks_exact_mut(kept) {
        let y = full(pixel[0], range[0], range[1], 255.0);
        let cb = full(pixel[1], range[2], range[3], 127.0);
        let cr = full(pixel[2], range[4], range[5], 127.0);
        let red = cr * (2.0 - 2.0 * luma[0]) + y;
        let blue = cb * (2.0 - 2.0 * luma[2]) + y;
        let green = (y - luma[2] * blue - luma[0] * red) / luma[1];
        for (to, value) in pixel.iter_mut().zip([red, green, blue]) {
            *to = value.round() as u8;
        }
    }
}

/// Units of `across` times `down` samples of luma and one of each chroma become three samples per pixel.
pub(super) fn full_chroma(raw: &[u8], layout: &Layout, columns: usize, rows: usize) -> Vec<u8> {
    let (across, down) = layout.subsampling;
    let unit = across * down + 2;
    let units = columns.div_ceil(across);
    let mut out = vec![0; columns * rows * 3];
    for (index, unit) in raw.chunks_exact(unit).enumerate() {
        let (left, top) = (index % units * across, index / units * down);
        for at in 0..across * down {
            let (x, y) = (left + at % across, top + at / across);
            if x < columns && y < rows {
                let to = (y * columns + x) * 3;
                out[to..to + 3].copy_from_slice(&[unit[at], unit[across * down], unit[across * down + 1]]);
            }
        }
    }
    out
}

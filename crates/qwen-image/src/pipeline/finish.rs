//! From the picture that the model made to the edited picture: at the source's place, size and alpha, and equal to the
//! source where it must not change.

use ::image::{RgbImage, RgbaImage};

use super::options::{DriftRecord, EditOptions, OutputSize};
use crate::image_processor::{
    Drift, Mask, at_model_size, back_to_source, changes, lanczos_rgb, put_back, usual_feather,
};

pub struct Finished {
    pub image: RgbaImage,
    pub drift: Option<DriftRecord>,
    /// The share of the pixels that may differ from the source's, if there was a mask or one was found.
    pub changed: Option<f64>,
}

/// `seen` is the source as the model saw it, and `mask` has the source's size. What a mask holds cannot drift, so drift is
/// undone only without one.
pub fn finish(
    mut edited: RgbImage,
    source: &RgbaImage,
    seen: &RgbImage,
    mask: Option<&Mask>,
    options: &EditOptions,
) -> Finished {
    let needs_source = options.output_size == OutputSize::Model && mask.is_some();
    let small = (options.drift_guard || options.keep_rest || needs_source)
        .then(|| lanczos_rgb(seen, edited.width(), edited.height()));
    let mut drift = None;
    if let Some(small) = small.as_ref().filter(|_| options.drift_guard && mask.is_none())
        && let Some(found) = Drift::of(small, &edited)
    {
        let undone = !found.is_unnoticed() && found.is_accident();
        if undone {
            edited = found.undo(&edited);
        }
        drift = Some(DriftRecord { shift: found.shift(source.dimensions()), zoom: found.zoom(), undone });
    }
    let found = small.as_ref().filter(|_| options.keep_rest && mask.is_none()).map(|small| changes(small, &edited));
    let (mut image, rest) = match (options.output_size, &small) {
        (OutputSize::Model, Some(small)) => (at_model_size(&edited, source), Some(at_model_size(small, source))),
        (OutputSize::Model, None) => (at_model_size(&edited, source), None),
        (OutputSize::Source, _) => (back_to_source(&edited, source), None),
    };
    let mask = mask.or(found.as_ref()).map(|mask| mask.resized(image.width(), image.height()));
    if let Some(mask) = &mask {
        let feather = options.feather.unwrap_or_else(|| usual_feather(image.dimensions()));
        put_back(&mut image, rest.as_ref().unwrap_or(source), &mask.weights(feather));
    }
    Finished { image, drift, changed: mask.map(|mask| mask.share()) }
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;
    use crate::image_processor::rgb_of;

    /// A picture with much to hold on to, moved by `shift` pixels.
    fn scene((width, height): (u32, u32), shift: f64) -> RgbaImage {
        RgbaImage::from_fn(width, height, |x, y| {
            let (x, y) = (f64::from(x) - shift, f64::from(y) + shift);
            let waves =
                (x * 0.17 + y * 0.06).sin() * 40.0 + (x * 0.05 - y * 0.31).sin() * 30.0 + (x * y / 900.0).cos() * 25.0;
            let value = (128.0 + waves) as u8;
            Rgba([value, value / 2 + 40, 255 - value, 255])
        })
    }

    fn distance(a: &RgbaImage, b: &RgbaImage) -> f64 {
        let sum: f64 = a.iter().zip(b.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        sum / a.len() as f64
    }

    #[test]
    fn drift_is_undone_and_told() {
        let (source, moved) = (scene((160, 128), 0.0), rgb_of(&scene((160, 128), 2.0)));
        let finished = |drift_guard| {
            let options = EditOptions { drift_guard, ..EditOptions::default() };
            finish(moved.clone(), &source, &rgb_of(&source), None, &options)
        };
        let (plain, guarded) = (finished(false), finished(true));
        assert_eq!((plain.drift, plain.changed, guarded.changed), (None, None, None));
        let DriftRecord { shift: [x, y], zoom, undone } = guarded.drift.unwrap();
        assert!(
            undone && (x - 2.0).abs() < 0.1 && (y + 2.0).abs() < 0.1 && (zoom - 1.0).abs() < 0.001,
            "{x} {y} {zoom}"
        );
        let (before, after) = (distance(&plain.image, &source), distance(&guarded.image, &source));
        assert!(before > 8.0 && after < 1.5, "{before} became {after}");
    }

    #[test]
    fn what_did_not_change_is_put_back_at_its_place() {
        let source = scene((320, 256), 0.0);
        let seen = rgb_of(&source);
        let small = lanczos_rgb(&seen, 160, 128);
        let mut edited = small.clone();
        for (x, y) in (40..70).flat_map(|x| (30..50).map(move |y| (x, y))) {
            edited.put_pixel(x, y, [250, 20, 20].into());
        }
        let options = EditOptions { drift_guard: true, keep_rest: true, ..EditOptions::default() };
        let Finished { image, drift, changed } = finish(edited.clone(), &source, &seen, None, &options);
        assert!(!drift.unwrap().undone);
        let share = changed.unwrap();
        assert!((0.03..0.06).contains(&share), "{share}");
        let outside = |x: u32, y: u32| !(70..150).contains(&x) || !(50..110).contains(&y);
        assert!(image.enumerate_pixels().all(|(x, y, pixel)| !outside(x, y) || pixel == source.get_pixel(x, y)));
        assert_eq!(image.get_pixel(110, 80).0, [250, 20, 20, 255]);
        // At the size of the model, the rest is the resized source.
        let options = EditOptions { output_size: OutputSize::Model, ..options };
        let image = finish(edited, &source, &seen, None, &options).image;
        assert_eq!(image.dimensions(), (160, 128));
        assert_eq!(rgb_of(&image).get_pixel(10, 100), small.get_pixel(10, 100));
    }
}

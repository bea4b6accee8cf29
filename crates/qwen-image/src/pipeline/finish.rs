//! From the picture that the model made to the edited picture: at the source's place, size and alpha, and equal to the
//! source where it must not change.

use ::image::{RgbImage, RgbaImage};

use super::options::{DriftRecord, EditOptions, OutputSize};
use crate::image_processor::{
    Drift, Mask, Outline, alpha_of, at_model_size, back_to_source, changes, from_two_grounds, lanczos_l, lanczos_rgb,
    outline, put_back, rgb_of, usual_feather,
};

pub struct Finished {
    pub image: RgbaImage,
    pub drift: Option<DriftRecord>,
    /// The share of the pixels that may differ from the source's, if there was a mask or one was found.
    pub changed: Option<f64>,
    /// The share of the pixels whose alpha may differ, if the picture was edited over two grounds.
    pub alpha_changed: Option<f64>,
}

/// `edited` is one picture, or one for each of the two grounds, and `seen` is the source as the model saw it each time;
/// `mask` has the source's size. What a mask holds cannot drift, so drift is undone only without one.
pub fn finish(
    mut edited: Vec<RgbImage>,
    source: &RgbaImage,
    seen: &[RgbImage],
    mask: Option<&Mask>,
    options: &EditOptions,
) -> Finished {
    let model = edited[0].dimensions();
    let needs_small = options.drift_guard || options.keep_rest;
    let small: Vec<_> = seen.iter().filter(|_| needs_small).map(|seen| lanczos_rgb(seen, model.0, model.1)).collect();
    let mut drift = None;
    if options.drift_guard && mask.is_none() {
        // Both grounds drift alike, as the noise is the same. The lighter one shows more of the outline.
        let found = small.iter().zip(&edited).rev().find_map(|(small, edited)| Drift::of(small, edited));
        if let Some(found) = found {
            let undone = !found.is_unnoticed() && found.is_accident();
            if undone {
                edited.iter_mut().for_each(|edited| *edited = found.undo(edited));
            }
            drift = Some(DriftRecord { shift: found.shift(source.dimensions()), zoom: found.zoom(), undone });
        }
    }
    let found = (options.keep_rest && mask.is_none())
        .then(|| small.iter().zip(&edited).map(|(small, edited)| changes(small, edited)))
        .and_then(|found| found.reduce(|one, other| one.or(&other)));
    let (mut image, alpha_changed) = match (edited.as_slice(), options.output_size) {
        ([dark, light], size) => {
            let size = if size == OutputSize::Model { model } else { source.dimensions() };
            let Outline { layer, changed } = outline(matte([dark, light], source), source, size);
            (layer, Some(changed))
        }
        ([edited, ..], OutputSize::Model) => (at_model_size(edited, source), None),
        ([edited, ..], OutputSize::Source) => (back_to_source(edited, source), None),
        ([], _) => (source.clone(), None),
    };
    let mask = mask.or(found.as_ref()).map(|mask| mask.resized(image.width(), image.height()));
    if let Some(mask) = &mask {
        let feather = options.feather.unwrap_or_else(|| usual_feather(image.dimensions()));
        let rest = (options.output_size == OutputSize::Model)
            .then(|| at_model_size(&lanczos_rgb(&rgb_of(source), model.0, model.1), source));
        put_back(&mut image, rest.as_ref().unwrap_or(source), &mask.weights(feather));
    }
    Finished { image, drift, changed: mask.map(|mask| mask.share()), alpha_changed }
}

/// The layer that the pictures over both grounds show.
fn matte(edited: [&RgbImage; 2], source: &RgbaImage) -> RgbaImage {
    let (width, height) = edited[0].dimensions();
    let before = lanczos_l(&alpha_of(source), width, height);
    from_two_grounds(edited, &before.iter().map(|alpha| *alpha == 0).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;
    use crate::image_processor::{GROUNDS, over_ground};

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
            finish(vec![moved.clone()], &source, &[rgb_of(&source)], None, &options)
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
        let Finished { image, drift, changed, .. } =
            finish(vec![edited.clone()], &source, std::slice::from_ref(&seen), None, &options);
        assert!(!drift.unwrap().undone);
        let share = changed.unwrap();
        assert!((0.03..0.06).contains(&share), "{share}");
        let outside = |x: u32, y: u32| !(70..150).contains(&x) || !(50..110).contains(&y);
        assert!(image.enumerate_pixels().all(|(x, y, pixel)| !outside(x, y) || pixel == source.get_pixel(x, y)));
        assert_eq!(image.get_pixel(110, 80).0, [250, 20, 20, 255]);
        // At the size of the model, the rest is the resized source.
        let options = EditOptions { output_size: OutputSize::Model, ..options };
        let image = finish(vec![edited], &source, &[seen], None, &options).image;
        assert_eq!(image.dimensions(), (160, 128));
        assert_eq!(rgb_of(&image).get_pixel(10, 100), small.get_pixel(10, 100));
    }
    /// A disk of a wavy color, with an edge of so many pixels.
    fn disk(radius: f64, shift: f64, edge: f64) -> RgbaImage {
        let mut layer = scene((192, 160), shift);
        for (x, y, pixel) in layer.enumerate_pixels_mut() {
            let far = (f64::from(x) - 96.0 - shift).hypot(f64::from(y) - 80.0 + shift);
            pixel[3] = (((radius - far) / edge + 0.5).clamp(0.0, 1.0) * 255.0) as u8;
        }
        layer
    }

    fn over_grounds(layer: &RgbaImage) -> Vec<RgbImage> {
        GROUNDS.map(|ground| over_ground(layer, ground)).to_vec()
    }

    #[test]
    fn a_new_outline_is_what_both_grounds_show() {
        let (source, wanted) = (disk(40.0, 0.0, 1.0), disk(60.0, 0.0, 1.0));
        let options = EditOptions::default();
        let finished = |made: &RgbaImage| finish(over_grounds(made), &source, &over_grounds(&source), None, &options);
        let Finished { image, alpha_changed, .. } = finished(&wanted);
        assert!(alpha_changed.is_some_and(|share| (0.15..0.4).contains(&share)), "{alpha_changed:?}");
        for (x, y, pixel) in image.enumerate_pixels() {
            let wanted = wanted.get_pixel(x, y);
            assert!(pixel[3].abs_diff(wanted[3]) <= 11, "{x} {y}: {pixel:?} instead of {wanted:?}");
            let off = (0..3).map(|channel| pixel[channel].abs_diff(wanted[channel])).max().unwrap_or(0);
            assert!(wanted[3] < 200 || off <= 3, "{x} {y}: {pixel:?} instead of {wanted:?}");
        }
        let Finished { image, alpha_changed, .. } = finished(&source);
        assert_eq!((alpha_changed, alpha_of(&image)), (Some(0.0), alpha_of(&source)));
    }

    #[test]
    fn both_grounds_are_moved_back_alike() {
        let (source, moved) = (disk(65.0, 0.0, 8.0), disk(65.0, 2.0, 8.0));
        let options = EditOptions { drift_guard: true, ..EditOptions::default() };
        let Finished { image, drift, alpha_changed, .. } =
            finish(over_grounds(&moved), &source, &over_grounds(&source), None, &options);
        let DriftRecord { shift: [x, y], undone, .. } = drift.unwrap();
        assert!(undone && (x - 2.0).abs() < 0.1 && (y + 2.0).abs() < 0.1, "{x} {y}");
        assert_eq!((alpha_changed, alpha_of(&image)), (Some(0.0), alpha_of(&source)));
    }
}

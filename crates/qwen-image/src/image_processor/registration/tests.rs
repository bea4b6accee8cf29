use ::image::{Rgb, RgbImage, imageops};

use super::*;
use crate::image_processor::lanczos_rgb;

/// A place's brightness: waves of several lengths and directions, and a few soft edges.
fn scene([x, y]: [f64; 2]) -> f64 {
    let waves =
        (x * 0.11 + y * 0.05).sin() * 30.0 + (x * 0.031 - y * 0.27).sin() * 25.0 + (x * 0.41 + y * 0.33).cos() * 12.0;
    let edge = |distance: f64| 1.0 / (1.0 + (-distance).exp());
    let disc = |cx: f64, cy: f64, radius: f64| edge(radius - (x - cx).hypot(y - cy));
    128.0 + waves + 40.0 * disc(20.0, -30.0, 25.0) - 50.0 * disc(-40.0, 10.0, 18.0) + 30.0 * edge(x - 0.3 * y - 60.0)
}

/// The scene as an edit that moved it by `map` shows it.
fn moved(width: u32, height: u32, map: &Affine) -> RgbImage {
    let back = map.inverse().unwrap();
    let center = [(f64::from(width) - 1.0) / 2.0, (f64::from(height) - 1.0) / 2.0];
    RgbImage::from_fn(width, height, |x, y| {
        let value = scene(back.apply([f64::from(x) - center[0], f64::from(y) - center[1]]));
        Rgb([value, value * 0.8 + 20.0, 255.0 - value].map(|value| value.round().clamp(0.0, 255.0) as u8))
    })
}

fn map(zoom: f64, shift: [f64; 2]) -> Affine {
    Affine { matrix: [[zoom, 0.0], [0.0, zoom]], shift }
}

/// The largest difference of two maps over a picture, in pixels.
fn error(found: &Affine, wanted: &Affine, (width, height): (u32, u32)) -> f64 {
    found.inverse().unwrap().after(wanted).largest_move(width as usize, height as usize)
}

#[test]
fn shifts_and_zooms_are_found_to_a_tenth_of_a_pixel() {
    let size = (256, 192);
    let source = moved(size.0, size.1, &Affine::IDENTITY);
    for wanted in [
        Affine::IDENTITY,
        map(1.0, [0.4, -0.25]),
        map(1.0, [-5.3, 3.6]),
        map(1.012, [0.0, 0.0]),
        map(0.985, [2.2, -1.7]),
        Affine { matrix: [[1.01, 0.004], [-0.003, 0.995]], shift: [1.5, 1.0] },
    ] {
        let edited = moved(size.0, size.1, &wanted);
        let drift = Drift::of(&source, &edited).unwrap();
        assert!(error(&drift.map, &wanted, size) < 0.1, "{drift:?} instead of {wanted:?}");
        assert!(drift.is_accident() && drift.is_unnoticed() == (wanted == Affine::IDENTITY), "{drift:?}");
        let again = Drift::of(&source, &drift.undo(&edited)).unwrap();
        assert!(again.is_unnoticed() && (again.zoom() - 1.0).abs() < 0.001, "{again:?} remains of {wanted:?}");
    }
}

#[test]
fn what_changed_has_no_say() {
    let size = (256, 192);
    let source = moved(size.0, size.1, &Affine::IDENTITY);
    let wanted = map(1.008, [1.4, -2.3]);
    let mut edited = moved(size.0, size.1, &wanted);
    // Another light everywhere, a third of the picture new, and noise.
    let mut state = 1_u32;
    for (x, y, pixel) in edited.enumerate_pixels_mut() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = f64::from(state >> 24) / 32.0 - 4.0;
        let new = x > 120 && y > 50 && y < 180;
        let paint = if new { (f64::from(x) * 0.3).sin() * 60.0 - (f64::from(y) * 0.2).cos() * 40.0 } else { 0.0 };
        pixel.0 = pixel.0.map(|value| {
            let value = if new { 120.0 + paint } else { f64::from(value) * 0.9 + 15.0 };
            (value + noise).clamp(0.0, 255.0) as u8
        });
    }
    let drift = Drift::of(&source, &edited).unwrap();
    assert!(error(&drift.map, &wanted, size) < 0.2, "{drift:?} instead of {wanted:?}");
    let [x, y] = drift.shift((512, 96));
    assert!((x - 2.8).abs() < 0.3 && (y + 1.15).abs() < 0.1, "{x} {y}");
}

#[test]
fn another_picture_and_an_empty_one_have_no_drift() {
    let source = moved(128, 128, &Affine::IDENTITY);
    let mut other = source.clone();
    imageops::flip_vertical_in_place(&mut other);
    for edited in [other, RgbImage::new(128, 128), RgbImage::new(64, 64)] {
        assert_eq!(Drift::of(&source, &edited), None);
    }
    assert_eq!(Drift::of(&RgbImage::new(128, 128), &source), None);
    assert_eq!(Drift::of(&RgbImage::new(1, 1), &RgbImage::new(1, 1)), None);
}

/// A layer with little on it, of which the edit moved every part elsewhere.
#[test]
fn a_few_shapes_that_moved_apart_tell_nothing() {
    let shapes = |moves: [[u32; 2]; 4]| {
        let mut picture = RgbImage::from_pixel(128, 128, Rgb([70, 70, 70]));
        for (index, [x, y]) in moves.into_iter().enumerate() {
            let (left, top) = (20 + 56 * (index as u32 % 2) + x, 20 + 56 * (index as u32 / 2) + y);
            for (x, y) in (left..left + 30).flat_map(|x| (top..top + 24).map(move |y| (x, y))) {
                picture.put_pixel(x, y, Rgb([200, 90, 160]));
            }
        }
        picture
    };
    let still = shapes([[3, 3]; 4]);
    assert!(Drift::of(&still, &still).unwrap().is_unnoticed());
    assert_eq!(Drift::of(&still, &shapes([[0, 3], [3, 6], [3, 0], [6, 3]])), None);
}

#[test]
fn what_was_asked_for_is_no_accident() {
    let size = (192, 160);
    let source = moved(size.0, size.1, &Affine::IDENTITY);
    for wanted in [map(1.06, [0.0, 0.0]), map(1.0, [9.0, 0.0])] {
        let drift = Drift::of(&source, &moved(size.0, size.1, &wanted)).unwrap();
        assert!(error(&drift.map, &wanted, size) < 0.3 && !drift.is_accident(), "{drift:?}");
    }
}

/// The sizes of the goal: a picture goes through the model's size, drifts there, and comes back.
#[test]
fn after_undoing_it_less_than_a_third_of_a_pixel_and_a_thousandth_remain() {
    for (size, model) in [((1000, 700), (256, 192)), ((641, 479), (224, 160)), ((384, 288), (224, 160))] {
        let source = moved(size.0, size.1, &Affine::IDENTITY);
        let small = lanczos_rgb(&source, model.0, model.1);
        let wanted = map(0.992, [1.3, -0.8]);
        let edited = warp::warped(&small, &wanted.inverse().unwrap());
        let drift = Drift::of(&small, &edited).unwrap();
        let back = lanczos_rgb(&drift.undo(&edited), size.0, size.1);
        let left = Drift::of(&source, &back).unwrap();
        let [x, y] = left.shift(size);
        assert!(x.hypot(y) < 0.3 && (left.zoom() - 1.0).abs() < 0.001, "{size:?}: {left:?}");
    }
}

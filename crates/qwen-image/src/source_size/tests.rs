//! Layers whose truth is known: drawn, brought to a model's size with its noise, and back.

use ::image::{Rgba, RgbaImage};

use super::{Coverage, at_source_size, differs, fidelity};
use crate::image_processor::{alpha_of, composite, lanczos, lanczos_l, with_alpha};

/// Uniform noise from -1 to 1, always the same.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1_u32 << 30) - 1.0
    }
}

/// A textured background, a soft disk and a slanted bar of glass, `side` pixels wide.
fn scene(side: u32) -> Vec<RgbaImage> {
    let mut noise = Noise(1);
    let unit = f64::from(side) / 100.0;
    let back = RgbaImage::from_fn(side, side, |x, y| {
        let grain = noise.next() * 10.0;
        let wave = (f64::from(x) / unit / 9.0).sin() * 40.0;
        Rgba([
            (120.0 + wave + grain) as u8,
            (140.0 + grain) as u8,
            (90.0 - wave + f64::from(y) / unit * 0.5) as u8,
            255,
        ])
    });
    let disk = RgbaImage::from_fn(side, side, |x, y| {
        let (dx, dy) = (f64::from(x) / unit - 40.0, f64::from(y) / unit - 45.0);
        let alpha = (28.0 - dx.hypot(dy)) * unit / 3.0;
        Rgba([220, (60.0 + dx) as u8, 40, (alpha.clamp(0.0, 1.0) * 255.0) as u8])
    });
    let bar = RgbaImage::from_fn(side, side, |x, y| {
        let across = (f64::from(x) - f64::from(y) * 0.3) / unit - 40.0;
        let alpha = (8.0 - across.abs()) * unit;
        Rgba([30, 70, 240, (alpha.clamp(0.0, 1.0) * 140.0) as u8])
    });
    vec![back, disk, bar]
}

/// Layers as a model would give them.
fn degraded(layers: &[RgbaImage], width: u32, height: u32) -> Vec<RgbaImage> {
    let mut noise = Noise(2);
    let mut degrade = |layer: &RgbaImage| {
        let mut small = lanczos(layer, width, height);
        small.iter_mut().for_each(|byte| *byte = (f64::from(*byte) + noise.next() * 5.0).clamp(0.0, 255.0) as u8);
        small
    };
    layers.iter().map(&mut degrade).collect()
}

/// The sum of absolute differences of alpha's gradients.
fn edge_error(truth: &RgbaImage, found: &RgbaImage) -> f64 {
    let gradient = |image: &RgbaImage, x: u32, y: u32| {
        let alpha = |x: u32, y: u32| f64::from(image.get_pixel(x, y)[3]);
        (alpha(x + 1, y) - alpha(x - 1, y)).hypot(alpha(x, y + 1) - alpha(x, y - 1))
    };
    let inside = (1..truth.height() - 1).flat_map(|y| (1..truth.width() - 1).map(move |x| (x, y)));
    inside.map(|(x, y)| (gradient(truth, x, y) - gradient(found, x, y)).abs()).sum()
}

#[test]
fn layers_composite_to_the_picture_and_have_its_edges() {
    let truth = scene(301);
    let source = composite(&truth).unwrap();
    for side in [256, 160, 96] {
        let small = degraded(&truth, side, side);
        let layers = at_source_size(&source, &small).unwrap();
        assert_eq!(composite(&layers).unwrap(), source, "at {side}");
        let told = fidelity(&source, &layers).unwrap();
        assert_eq!((told.psnr, told.max_error), (None, 0));
        let bicubic = |layer: &RgbaImage| {
            let alpha = lanczos_l(&alpha_of(layer), 301, 301);
            let rgba = RgbaImage::from_fn(301, 301, |x, y| Rgba([0, 0, 0, alpha.get_pixel(x, y)[0]]));
            with_alpha(&crate::image_processor::rgb_of(&rgba), &rgba).unwrap()
        };
        let sum = |found: &dyn Fn(usize) -> RgbaImage| (1..3).map(|i| edge_error(&truth[i], &found(i))).sum::<f64>();
        let ratio = sum(&|i| layers[i].clone()) / sum(&|i| bicubic(&small[i]));
        assert!(ratio < 0.6, "edges of alpha at {side}: {ratio}");
    }
}

#[test]
fn alpha_of_the_picture_is_the_alpha_of_its_layers() {
    let mut source = composite(&scene(120)).unwrap();
    for (x, y, pixel) in source.enumerate_pixels_mut() {
        pixel[3] = ((x * 5 + y) % 300).min(255) as u8;
    }
    let layers = at_source_size(&source, &degraded(&scene(120), 64, 64)).unwrap();
    let whole = composite(&layers).unwrap();
    for (made, wanted) in whole.pixels().zip(source.pixels()) {
        assert_eq!(made[3], wanted[3]);
        if wanted[3] > 0 {
            assert_eq!(made, wanted);
        } else {
            assert_eq!(made.0, [0; 4]);
        }
    }
}

#[test]
fn what_is_hidden_is_the_models() {
    let source = RgbaImage::from_pixel(90, 60, Rgba([10, 200, 30, 255]));
    let back = RgbaImage::from_pixel(32, 32, Rgba([240, 80, 160, 254]));
    let front = RgbaImage::from_fn(32, 32, |x, _| Rgba([15, 190, 40, if x < 16 { 252 } else { 2 }]));
    let [back, front] = at_source_size(&source, &[back, front]).unwrap().try_into().unwrap();
    assert_eq!((back.get_pixel(5, 30).0, front.get_pixel(5, 30).0), ([240, 80, 160, 255], [10, 200, 30, 255]));
    assert_eq!((back.get_pixel(84, 30).0, front.get_pixel(84, 30).0), ([10, 200, 30, 255], [0; 4]));
    assert_eq!(composite(&[back, front]).unwrap(), source);
}

#[test]
fn any_stack_composites_to_any_picture() {
    let mut noise = Noise(3);
    let mut random = |width: u32, height: u32, opaque: bool| {
        let mut image = RgbaImage::new(width, height);
        image.iter_mut().for_each(|byte| *byte = (noise.next().abs() * 256.0) as u8);
        image.pixels_mut().for_each(|pixel| pixel[3] = if opaque { 255 } else { pixel[3] });
        image
    };
    for (layers, opaque) in [(1, true), (2, true), (10, true), (1, false), (4, false), (10, false)] {
        let small: Vec<_> = (0..layers).map(|_| random(13, 9, false)).collect();
        let mut source = random(64, 50, opaque);
        let layers = at_source_size(&source, &small).unwrap();
        // What is below alpha 0 is not seen.
        source.pixels_mut().filter(|pixel| pixel[3] == 0).for_each(|pixel| *pixel = Rgba([0; 4]));
        assert_eq!(composite(&layers).unwrap(), source, "{} layers", small.len());
    }
}

#[test]
fn differences_and_coverage_are_told() {
    let source = RgbaImage::from_pixel(100, 100, Rgba([100, 100, 100, 255]));
    let mut other = source.clone();
    other.put_pixel(3, 4, Rgba([110, 100, 100, 255]));
    let told = fidelity(&source, &[other]).unwrap();
    assert_eq!(told.max_error, 10);
    // One of 30,000 values is off by 10.
    assert!((told.psnr.unwrap() - 10.0 * (255.0_f64.powi(2) * 300.0).log10()).abs() < 1e-6);

    let dots =
        |dots: u32| RgbaImage::from_fn(200, 100, |x, y| Rgba([0, 0, 0, if y == 0 && x < dots { 255 } else { 3 }]));
    assert!(Coverage::of(&dots(1)).is_empty && !Coverage::of(&dots(2)).is_empty);
    let area = Coverage::of(&dots(200)).area;
    assert!((area - (0.01 + 0.99 * 3.0 / 255.0)).abs() < 1e-9, "{area}");
}

#[test]
fn sizes_differ_by_length_or_shape() {
    assert!(!differs((128, 128), (128, 128)) && !differs((64, 64), (128, 128)));
    assert!(differs((640, 480), (736, 544)) && differs((4000, 4000), (640, 640)) && differs((64, 65), (640, 640)));
}

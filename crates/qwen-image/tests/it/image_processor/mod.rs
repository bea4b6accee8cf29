//! Pictures as the reference treats them: resizing and alpha as Pillow does it, and the composite.
//!
//! The files in `tests/image/` and their expected pixels come from Pillow, by `tests/image/make.py`.

mod composite;
mod resize;

use std::path::Path;

use ::image::{DynamicImage, Rgb, RgbImage, Rgba, RgbaImage};
use qwen_image::image_processor as image;
use sha2::{Digest, Sha256};

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/image").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Expected pixels, read by the `image` crate alone.
fn stored(name: &str) -> DynamicImage {
    ::image::load_from_memory(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Reproducible noise without a dependency.
fn noise(count: usize, mut state: u64) -> Vec<u8> {
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(step).collect()
}

fn noise_rgba(width: u32, height: u32, seed: u64) -> RgbaImage {
    RgbaImage::from_raw(width, height, noise((width * height * 4) as usize, seed)).expect("the right length")
}

fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, 90]))
}

mod alpha {
    use super::*;

    #[test]
    fn on_white_equals_pillow_for_every_value_and_alpha() {
        let table = RgbaImage::from_fn(256, 256, |x, y| Rgba([x as u8, x as u8, x as u8, y as u8]));
        let expected = stored("on-white.png").into_luma8();
        for (x, y, pixel) in image::on_white(&table).enumerate_pixels() {
            assert_eq!(pixel.0, [expected.get_pixel(x, y).0[0]; 3], "value {x} at alpha {y}");
        }
    }

    #[test]
    fn color_and_alpha_come_apart_and_together_bit_for_bit() {
        let layer = noise_rgba(13, 11, 2);
        let joined = image::with_alpha(&image::rgb_of(&layer), &layer).expect("one size");
        assert_eq!(joined, layer);
    }

    #[test]
    fn sizes_that_differ_are_named() {
        let error = image::with_alpha(&gradient(4, 4), &noise_rgba(5, 6, 1)).expect_err("another size");
        assert_eq!(
            error.to_string(),
            "edited picture: it is 4x4 pixels but the layer whose alpha it takes is 5x6; resize one of them first"
        );
    }

    #[test]
    fn an_edit_returns_to_the_layers_size_and_exact_alpha_without_bleeding() {
        // A soft-edged layer; the edit painted everything one color, and so the edges must have just that color.
        let layer = RgbaImage::from_fn(50, 40, |x, _| Rgba([200, 10, 10, (x * 5) as u8]));
        let edited = RgbImage::from_pixel(32, 32, Rgb([20, 40, 220]));
        let back = image::back_to_source(&edited, &layer);
        assert_eq!(image::alpha_of(&back), image::alpha_of(&layer));
        assert!(back.pixels().all(|pixel| pixel.0[..3] == [20, 40, 220]));

        let model = image::at_model_size(&edited, &layer);
        assert_eq!(image::rgb_of(&model), edited);
        assert_eq!(image::alpha_of(&model), image::lanczos_l(&image::alpha_of(&layer), 32, 32));
    }
}

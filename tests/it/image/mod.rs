//! Pictures: decoding under limits, resizing as Pillow does it, alpha, composite, PNG.
//!
//! The files in `tests/image/` and their expected pixels come from Pillow, by `tests/image/make.py`.

use std::io::Cursor;
use std::path::Path;

use acetate::image::{self, DecodeLimits, Decoded};
use acetate::job::JobError;
use image_crate::codecs::jpeg::JpegEncoder;
use image_crate::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage, imageops};

use ::image as image_crate;
use qwen_image::image_processor::{Compositor, composite};

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/image").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn decode(name: &str, bytes: &[u8]) -> Result<Decoded, JobError> {
    image::decode(name, bytes, &DecodeLimits::default())
}

fn decode_file(name: &str) -> Decoded {
    decode(name, &file(name)).unwrap_or_else(|error| panic!("{error}"))
}

/// Expected pixels, read by the `image` crate alone.
fn stored(name: &str) -> DynamicImage {
    image_crate::load_from_memory(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn message(result: Result<Decoded, JobError>) -> String {
    match result {
        Ok(_) => panic!("this was decoded without an error"),
        Err(error) => format!("{} {error}", error.code()),
    }
}

/// The largest difference of any byte, and the mean.
fn difference(one: &[u8], other: &[u8]) -> (u8, f64) {
    assert_eq!(one.len(), other.len());
    let differences = one.iter().zip(other).map(|(a, b)| a.abs_diff(*b));
    let total: u64 = differences.clone().map(u64::from).sum();
    (differences.max().unwrap_or(0), total as f64 / one.len() as f64)
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

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("encoding");
    bytes.into_inner()
}

fn jpeg(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 92).encode_image(image).expect("encoding");
    bytes
}

/// A PNG chunk with its checksum.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind.as_slice(), data].concat();
    let crc = body.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
    });
    [&(data.len() as u32).to_be_bytes(), body.as_slice(), &(!crc).to_be_bytes()].concat()
}

/// A PNG that is well formed but claims any size; its pixel data are a few bytes.
fn png_claiming(width: u32, height: u32) -> Vec<u8> {
    let header = [&width.to_be_bytes(), &height.to_be_bytes(), [8u8, 6, 0, 0, 0].as_slice()].concat();
    let empty_deflate = [0x78, 0x9c, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01];
    let parts = [chunk(b"IHDR", &header), chunk(b"IDAT", &empty_deflate), chunk(b"IEND", &[])];
    [b"\x89PNG\r\n\x1a\n".to_vec(), parts.concat()].concat()
}

mod output {
    use super::*;

    #[test]
    fn png_keeps_every_byte_also_under_transparent_pixels() {
        let mut layer = noise_rgba(33, 21, 6);
        layer.pixels_mut().step_by(2).for_each(|pixel| pixel.0[3] = 0);
        let decoded = decode("layer", &image::encode_png(&layer).expect("encoding")).expect("a picture");
        assert_eq!(decoded.pixels, layer);
        assert!(decoded.notes.is_empty(), "{:?}", decoded.notes);
        assert_eq!(image::encode_png(&RgbaImage::new(0, 3)).expect_err("no pixels").code(), "invalid_image");
    }

    #[test]
    fn a_stack_layer_by_layer_is_the_composite_rounded_once() {
        let layers: Vec<RgbaImage> = (0..5).map(|seed| noise_rgba(31, 17, seed)).collect();
        let mut stack = Compositor::new(31, 17);
        layers.iter().for_each(|layer| stack.add(layer, 1.0).expect("one size"));
        assert_eq!(stack.finish(), composite(&layers).expect("one size"));

        // Half of an alpha of 1 is not a byte: 100 such layers must not vanish, nor cover twice what they should.
        let faint = RgbaImage::from_pixel(2, 2, Rgba([255, 255, 255, 1]));
        let mut stack = Compositor::new(2, 2);
        stack.add(&RgbaImage::from_pixel(2, 2, Rgba([0, 0, 0, 255])), 1.0).expect("one size");
        (0..100).for_each(|_| stack.add(&faint, 0.5).expect("one size"));
        let white = (255.0 * (1.0 - (1.0 - 0.5 / 255.0_f64).powi(100))).round() as u8;
        assert!(stack.finish().pixels().all(|pixel| pixel.0[0].abs_diff(white) <= 1 && pixel.0[3] == 255));
        assert!(Compositor::new(2, 2).add(&layers[0], 1.0).is_err());
    }

    #[test]
    fn pngs_say_that_they_are_srgb() {
        let png = image::encode_png(&noise_rgba(3, 3, 1)).expect("encoding");
        assert!(png.windows(4).any(|kind| kind == b"sRGB"));
    }

    #[test]
    fn a_contact_sheet_shows_every_picture_and_the_board_behind_it() {
        let red = RgbaImage::from_pixel(300, 200, Rgba([200, 0, 0, 255]));
        let clear = RgbaImage::from_pixel(300, 200, Rgba([0, 0, 200, 0]));
        let sheet =
            image::contact_sheet(&[red.clone(), clear.clone(), red.clone(), red.clone()], &[], 6).expect("a sheet");
        assert_eq!(sheet.dimensions(), (4 * (256 + 12) + 12, 170 + 24));
        let count = |colour: [u8; 4]| sheet.pixels().filter(|pixel| pixel.0 == colour).count();
        assert_eq!(count([200, 0, 0, 255]), 3 * 256 * 170);
        // About half of the transparent picture shows dark squares, to within a row of squares.
        assert!(count([204, 204, 204, 255]).abs_diff(256 * 170 / 2) <= 256 * 8);
    }
}

mod decode;
mod headers;
mod heif;
mod kinds;
mod refused;

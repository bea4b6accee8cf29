//! Resizing: the bytes of Pillow and of torchvision.

use candle_core::Tensor;
use image::{Rgb, RgbImage, RgbaImage};
use qwen_image::image_processor::{bicubic_rgb, bicubic_rgb_torchvision, lanczos, lanczos_rgb};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::bars::{notes, tensors};

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_byte_is_the_references() {
    let tensors = tensors("resize");
    let mut checked = 0;
    for (name, expected) in &tensors {
        let Some(case) = name.strip_suffix("_out") else { continue };
        let (source, torchvision) = match case.strip_suffix("_torchvision") {
            Some(case) => (&tensors[&format!("{case}_in")], true),
            None => (&tensors[&format!("{case}_in")], false),
        };
        let (height, width, channels) = source.dims3().unwrap();
        let (wide, high) = (expected.dim(1).unwrap() as u32, expected.dim(0).unwrap() as u32);
        let rgb = || RgbImage::from_raw(width as u32, height as u32, bytes(source)).unwrap();
        let found = match (case.split('_').next().unwrap(), channels, torchvision) {
            ("lanczos", 4, false) => {
                let rgba = RgbaImage::from_raw(width as u32, height as u32, bytes(source)).unwrap();
                lanczos(&rgba, wide, high).into_raw()
            }
            ("lanczos", 3, false) => lanczos_rgb(&rgb(), wide, high).into_raw(),
            ("bicubic", 3, false) => bicubic_rgb(&rgb(), wide, high).into_raw(),
            ("bicubic", 3, true) => bicubic_rgb_torchvision(&rgb(), wide, high).into_raw(),
            other => panic!("{name}: {other:?}"),
        };
        assert!(found == bytes(expected), "{name}");
        checked += 1;
    }
    assert_eq!(checked, 12);
}

#[derive(Deserialize)]
struct Hashed {
    from: [u32; 2],
    to: [u32; 2],
    black_and_white: bool,
    sha256: String,
}

/// Pictures that are formulas (`components.py`), resized by torchvision: up, down, narrow and wide.
#[test]
fn every_byte_is_torchvisions_at_many_sizes() {
    let list: Vec<Hashed> = serde_json::from_value(notes("resize")["torchvision"].clone()).unwrap();
    assert!(list.len() >= 19, "{} sizes", list.len());
    for Hashed { from, to, black_and_white, sha256 } in list {
        let source = RgbImage::from_fn(from[0], from[1], |x, y| {
            let pixel = [x * x / 7 + y, x + y * y / 5, x * y / 11].map(|value| value as u8);
            Rgb(if black_and_white { pixel.map(|value| if value > 127 { 255 } else { 0 }) } else { pixel })
        });
        let found = Sha256::digest(bicubic_rgb_torchvision(&source, to[0], to[1]).into_raw());
        let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, sha256, "{from:?} to {to:?}");
    }
}

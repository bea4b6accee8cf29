//! Exports of the merged picture alone: WebP and JPEG.

use std::fs;

use acetate::image::{DecodeLimits, ExportFormat, Stack, encode_png};
use image::{ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use qwen_image::image_processor::{composite, on_white};
use serde_json::json;

use crate::export::{decomposed, disc, noise, sheet, stacks, write};

fn whole(stack: &Stack) -> RgbaImage {
    let layers: Vec<RgbaImage> =
        stack.sheets.iter().map(|sheet| image::load_from_memory(&sheet.png).unwrap().to_rgba8()).collect();
    composite(&layers).unwrap()
}

/// The mean difference of two pictures' values.
fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.iter().zip(b.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

fn has(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|part| part == needle)
}

#[test]
fn a_webp_is_the_composite_to_the_bit() {
    let faint = Stack { sheets: vec![sheet("Noise", 1, &noise(70, 50, 4))], beside: Vec::new() };
    for (stack, alpha) in [(&stacks()[0].1, false), (&faint, true)] {
        let bytes = write(stack, ExportFormat::Webp).unwrap();
        assert!(has(&bytes, b"ICCP") && has(&bytes, b"VP8L"), "lossless, with a profile");
        let picture = image::load_from_memory_with_format(&bytes, ImageFormat::WebP).unwrap();
        assert_eq!(picture.color().has_alpha(), alpha);
        assert!(picture.to_rgba8() == whole(stack));
    }
}

#[test]
fn a_jpeg_is_the_composite_on_white_and_says_so() {
    let sun = Stack { sheets: vec![sheet("Sun", 1, &disc(70, 50, (20.0, 15.0, 9.0), [250, 200, 20]))], beside: vec![] };
    for (stack, noted) in [(&stacks()[0].1, false), (&sun, true)] {
        let bytes = write(stack, ExportFormat::Jpeg).unwrap();
        assert!(has(&bytes, b"ICC_PROFILE\0"));
        let picture = image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg).unwrap().to_rgb8();
        let far = difference(&picture, &on_white(&whole(stack)));
        assert!(far < 3.0, "{far}");
        let out = std::io::Cursor::new(Vec::new());
        let note = stack.write(ExportFormat::Jpeg, &DecodeLimits::default(), out).unwrap().note;
        assert_eq!(note.is_some_and(|note| note.contains("on white")), noted);
    }
    // The color of single pixels survives, as it does not where color has a quarter of the pixels.
    let dots =
        RgbaImage::from_fn(
            64,
            64,
            |x, y| if (x + y) % 2 == 0 { Rgba([220, 40, 40, 255]) } else { Rgba([40, 40, 220, 255]) },
        );
    let stack = Stack { sheets: vec![sheet("Dots", 1, &dots)], beside: Vec::new() };
    let bytes = write(&stack, ExportFormat::Jpeg).unwrap();
    let picture = image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg).unwrap().to_rgb8();
    let far = difference(&picture, &on_white(&dots));
    assert!(far < 8.0, "{far}");
    let Rgb([r, _, b]) = *picture.get_pixel(30, 30);
    assert!(r > 180 && b < 80, "{r}, {b}");
}

#[test]
fn the_suffix_of_out_chooses_it() {
    let place = decomposed();
    for (name, kind) in
        [("scene.webp", ImageFormat::WebP), ("scene.jpg", ImageFormat::Jpeg), ("B.JPEG", ImageFormat::Jpeg)]
    {
        let ran = place.run(&["export", "out", "--out", name]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.starts_with(&format!("{name}  3 layers, ")), "{}", ran.stdout);
        assert_eq!(image::guess_format(&fs::read(place.path(name)).unwrap()).unwrap(), kind);
    }
    assert_eq!(fs::read(place.path("scene.jpg")).unwrap(), fs::read(place.path("B.JPEG")).unwrap());
    let told = place.json(&["export", "out", "--out", "a.jpeg", "--json"]);
    assert_eq!((&told["format"], &told["file"]), (&json!("jpg"), &json!("a.jpeg")));

    // Layers may be edited in the folder: now they leave a part of the picture empty.
    let size = image::image_dimensions(place.path("out/layer-01.png")).unwrap();
    for layer in 1..=3 {
        let disc = disc(size.0, size.1, (20.0, 15.0, 9.0), [250, 200, 20]);
        fs::write(place.path(&format!("out/layer-0{layer}.png")), encode_png(&disc).unwrap()).unwrap();
    }
    let note = "JPEG has no transparency: the transparent parts of the picture are on white";
    let ran = place.run(&["export", "out", "--out", "holes.jpg"]);
    assert!(ran.code == Some(0) && ran.stdout.contains(&format!("note      {note}\n")), "{ran:?}");
    assert_eq!(place.json(&["export", "out", "--out", "more.jpg", "--json"])["note"], json!(note));
    assert_eq!(place.json(&["export", "out", "--out", "more.webp", "--json"])["note"], json!(null));
    let piped = place.command(&["export", "out", "--format", "jpeg", "--out", "-"]).output().unwrap();
    assert_eq!(piped.stdout, fs::read(place.path("holes.jpg")).unwrap());
    assert!(String::from_utf8_lossy(&piped.stderr).contains(note), "{piped:?}");
}

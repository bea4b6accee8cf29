//! Pictures: decoding under limits, resizing as Pillow does it, alpha, composite, PNG.
//!
//! The files in `tests/image/` and their expected pixels come from Pillow, by `tests/image/make.py`.

use std::io::Cursor;
use std::path::Path;

use acetate::image::{self, Decoded, Limits};
use acetate::job::JobError;
use image_crate::codecs::jpeg::JpegEncoder;
use image_crate::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage, imageops};

use ::image as image_crate;
use sha2::{Digest, Sha256};

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/image").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn decode(name: &str, bytes: &[u8]) -> Result<Decoded, JobError> {
    image::decode(name, bytes, &Limits::default())
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

mod resize {
    use super::*;

    const SIZES: [(u32, u32); 7] = [(64, 48), (11, 9), (37, 10), (5, 29), (90, 7), (30, 9), (1, 1)];

    #[test]
    fn every_byte_equals_pillow() {
        let source = stored("source.png").into_rgba8();
        let (rgb, alpha) = (image::rgb_of(&source), image::alpha_of(&source));
        for (width, height) in SIZES {
            let expected = |filter: &str| stored(&format!("{filter}-{width}x{height}.png"));
            assert_eq!(image::lanczos(&source, width, height), expected("lanczos").into_rgba8(), "{width}x{height}");
            assert_eq!(image::lanczos_rgb(&rgb, width, height), expected("lanczos-rgb").into_rgb8());
            assert_eq!(image::lanczos_l(&alpha, width, height), expected("lanczos-l").into_luma8());
            assert_eq!(image::bicubic_rgb(&rgb, width, height), expected("bicubic-rgb").into_rgb8());
        }
    }

    /// The picture that `make.py` resized with Pillow, kept as hashes of the results.
    #[test]
    fn every_byte_equals_pillow_at_the_sizes_of_the_pipelines() {
        let list = String::from_utf8(file("large.txt")).expect("text");
        let mut checked = 0;
        for line in list.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let number = |index: usize| fields[index].parse::<u32>().expect("a number");
            let (width, height) = (number(3), number(4));
            let source = RgbaImage::from_fn(number(1), number(2), |x, y| {
                Rgba([x * x / 7 + y, x + y * y / 5, x * y / 11, (x + 2 * y) / 3].map(|value| value as u8))
            });
            let resized = match fields[0] {
                "lanczos" => image::lanczos(&source, width, height).into_raw(),
                "lanczos_rgb" => image::lanczos_rgb(&image::rgb_of(&source), width, height).into_raw(),
                _ => image::bicubic_rgb(&image::rgb_of(&source), width, height).into_raw(),
            };
            let hash: String = Sha256::digest(&resized).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hash, fields[5], "{line}");
            checked += 1;
        }
        assert_eq!(checked, 15);
    }

    #[test]
    fn own_size_changes_nothing_even_under_transparent_pixels() {
        let source = noise_rgba(9, 7, 1);
        assert_eq!(image::lanczos(&source, 9, 7), source);
        assert_eq!(image::lanczos_rgb(&image::rgb_of(&source), 9, 7), image::rgb_of(&source));
    }

    #[test]
    fn a_side_of_zero_is_no_panic() {
        assert_eq!(image::lanczos(&noise_rgba(3, 3, 1), 0, 5).dimensions(), (0, 5));
        assert_eq!(image::lanczos_rgb(&RgbImage::new(0, 4), 2, 2), RgbImage::new(2, 2));
    }
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
    fn colour_and_alpha_come_apart_and_together_bit_for_bit() {
        let layer = noise_rgba(13, 11, 2);
        let joined = image::with_alpha(&image::rgb_of(&layer), &layer).expect("one size");
        assert_eq!(joined, layer);
        assert!(image::has_transparency(&layer));
        assert!(!image::has_transparency(&DynamicImage::from(gradient(3, 3)).into_rgba8()));
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
        // A soft-edged layer; the edit painted everything one colour, and so the edges must have just that colour.
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

mod composite {
    use super::*;

    /// "Over" in float64, rounded once.
    fn over(stack: &[Rgba<u8>]) -> [f64; 4] {
        let (mut colour, mut alpha) = ([0.0; 3], 0.0);
        for Rgba([r, g, b, a]) in stack {
            let a = f64::from(*a) / 255.0;
            for (sum, value) in colour.iter_mut().zip([r, g, b]) {
                *sum = f64::from(*value) * a + *sum * (1.0 - a);
            }
            alpha = a + alpha * (1.0 - a);
        }
        let [r, g, b] = colour.map(|sum| if alpha > 0.0 { sum / alpha } else { 0.0 });
        [r, g, b, alpha * 255.0]
    }

    #[test]
    fn a_stack_equals_over_in_float64_rounded_once() {
        let layers: Vec<RgbaImage> = (0..5).map(|seed| noise_rgba(64, 48, seed + 10)).collect();
        let whole = image::composite(&layers).expect("one size");
        for (x, y, pixel) in whole.enumerate_pixels() {
            let stack: Vec<_> = layers.iter().map(|layer| *layer.get_pixel(x, y)).collect();
            for (got, exact) in pixel.0.iter().zip(over(&stack)) {
                let off = (f64::from(*got) - exact).abs();
                assert!(off <= 0.501, "({x}, {y}) is {got}, exact {exact}, from {stack:?}");
            }
        }
    }

    #[test]
    fn transparent_pixels_leave_and_opaque_pixels_replace_bit_for_bit() {
        let back = noise_rgba(32, 32, 3);
        let mut clear = noise_rgba(32, 32, 4);
        clear.pixels_mut().for_each(|pixel| pixel.0[3] = 0);
        let mut solid = noise_rgba(32, 32, 5);
        solid.pixels_mut().for_each(|pixel| pixel.0[3] = 255);
        let put = |layers: &[&RgbaImage]| {
            let layers: Vec<RgbaImage> = layers.iter().map(|layer| (*layer).clone()).collect();
            image::composite(&layers).expect("one size")
        };
        assert_eq!(put(&[&back, &clear, &clear]), back);
        assert_eq!(put(&[&back, &solid]), solid);
        assert_eq!(put(&[&back, &solid, &clear]), solid);
        assert_eq!(put(&[&clear, &back])[(0, 0)], if back[(0, 0)].0[3] == 0 { clear[(0, 0)] } else { back[(0, 0)] });
        assert_eq!(put(&[&back]), back);
    }

    #[test]
    fn over_an_opaque_back_the_result_is_opaque() {
        let mut layers: Vec<RgbaImage> = (0..10).map(|seed| noise_rgba(40, 40, seed + 30)).collect();
        layers[0].pixels_mut().for_each(|pixel| pixel.0[3] = 255);
        assert!(!image::has_transparency(&image::composite(&layers).expect("one size")));
    }

    #[test]
    fn errors_name_the_layer_and_both_sizes() {
        let layers = [noise_rgba(4, 4, 1), noise_rgba(4, 4, 1), noise_rgba(4, 5, 1)];
        let error = image::composite(&layers).expect_err("another size");
        assert_eq!(
            error.to_string(),
            "layers[2]: is 4x5 pixels but layers[0] is 4x4; all layers must have the same size"
        );
        assert_eq!(image::composite(&[]).expect_err("no layer").code(), "invalid_request");
    }
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
    fn a_contact_sheet_shows_every_picture_and_the_board_behind_it() {
        let red = RgbaImage::from_pixel(300, 200, Rgba([200, 0, 0, 255]));
        let clear = RgbaImage::from_pixel(300, 200, Rgba([0, 0, 200, 0]));
        let sheet = image::contact_sheet(&[red.clone(), clear.clone(), red.clone(), red.clone()]).expect("a sheet");
        assert_eq!(sheet.dimensions(), (4 * (256 + 12) + 12, 170 + 24));
        let count = |colour: [u8; 4]| sheet.pixels().filter(|pixel| pixel.0 == colour).count();
        assert_eq!(count([200, 0, 0, 255]), 3 * 256 * 170);
        // Half of the transparent picture, to within a row of squares, shows the dark squares.
        assert!(count([204, 204, 204, 255]).abs_diff(256 * 170 / 2) <= 256 * 8);
    }
}

mod decode {
    use super::*;

    #[test]
    fn every_kind_of_pixel_is_what_pillow_makes_of_it() {
        const KINDS: [&str; 11] = [
            "palette.png",
            "palette-2bit.png",
            "grey.png",
            "grey-trns.png",
            "grey-alpha.png",
            "one-bit.png",
            "rgb-trns.png",
            "rgba.webp",
            "rgba.tif",
            "rgb.bmp",
            "palette.gif",
        ];
        for kind in KINDS {
            let decoded = decode_file(&format!("kind-{kind}"));
            assert_eq!(decoded.pixels, stored(&format!("kind-{kind}.rgba.png")).into_rgba8(), "{kind}");
            assert!(decoded.notes.is_empty(), "{kind}: {:?}", decoded.notes);
        }
    }

    #[test]
    fn the_format_is_told_by_content_not_by_name() {
        let png = encode(&gradient(8, 8).into(), ImageFormat::Png);
        assert_eq!(decode("photo.jpg", &png).expect("a picture").pixels.dimensions(), (8, 8));
    }

    #[test]
    fn sixteen_bits_are_rounded_and_noted() {
        let deep: ImageBuffer<Rgb<u16>, Vec<u16>> = ImageBuffer::from_fn(256, 256, |x, y| {
            let value = (y * 256 + x) as u16;
            Rgb([value, u16::MAX - value, 0])
        });
        let decoded = decode("deep.png", &encode(&deep.clone().into(), ImageFormat::Png)).expect("a picture");
        assert_eq!(decoded.notes, ["deep.png: 16 bits a channel, rounded to 8"]);
        for (x, y, pixel) in decoded.pixels.enumerate_pixels() {
            let rounded = deep.get_pixel(x, y).0.map(|value| (f64::from(value) / 257.0).round() as u8);
            assert_eq!(pixel.0, [rounded[0], rounded[1], rounded[2], 255]);
        }
    }

    #[test]
    fn cmyk_becomes_rgb_as_in_pillow() {
        for name in ["cmyk", "ycck"] {
            let decoded = decode_file(&format!("{name}.jpg"));
            let expected = stored(&format!("{name}-rgb.png")).into_rgb8();
            // Two inverse cosine transforms that round differently.
            let (most, mean) = difference(&image::rgb_of(&decoded.pixels), &expected);
            assert!(most <= 6 && mean <= 0.7, "{name}: differs by up to {most}, {mean} on average");
            assert_eq!(decoded.notes, [format!("{name}.jpg: CMYK, converted to RGB without a colour profile")]);
        }
        let decoded = decode_file("cmyk.tif");
        let (most, _) = difference(&image::rgb_of(&decoded.pixels), &stored("cmyk-tif-rgb.png").into_rgb8());
        assert!(most <= 1, "differs by up to {most}");
        assert_eq!(decoded.notes, ["cmyk.tif: CMYK, converted to RGB without a colour profile"]);
    }

    #[test]
    fn animations_and_pages_give_their_first_picture_and_say_so() {
        for (name, note) in [
            ("animated.webp", "animated WebP with 3 frames, only the first was taken"),
            ("animated.png", "animated PNG with 3 frames, only the first was taken"),
            ("animated.gif", "animated GIF with 3 frames, only the first was taken"),
            ("pages.tif", "TIFF with 3 pages, only the first was taken"),
        ] {
            let decoded = decode_file(name);
            assert_eq!(decoded.notes, [format!("{name}: {note}")]);
            assert_eq!(decoded.pixels.dimensions(), (12, 8));
            assert!(decoded.pixels.pixels().all(|pixel| pixel.0 == [200, 30, 30, 255]), "{name}");
        }
    }

    /// A TIFF block that holds the orientation and nothing else, in an APP1 segment right after the start marker.
    fn with_orientation(jpeg: &[u8], value: u8) -> Vec<u8> {
        let exif =
            [b"Exif\0\0MM\0*\0\0\0\x08\0\x01".as_slice(), &[0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, value, 0, 0, 0, 0, 0, 0]]
                .concat();
        let length = (exif.len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
    }

    #[test]
    fn exif_orientation_is_applied_and_noted() {
        let jpeg = jpeg(&gradient(24, 16));
        let plain = decode("plain", &jpeg).expect("a picture").pixels;
        let (right, bottom) = (23, 15);
        for value in 1..=8u8 {
            let decoded = decode("p.jpg", &with_orientation(&jpeg, value)).expect("a picture");
            // Where a pixel of the upright picture lies in the stored one, from the EXIF standard's table of
            // what the first row and the first column are.
            let stored_at = |x: u32, y: u32| match value {
                1 => (x, y),
                2 => (right - x, y),
                3 => (right - x, bottom - y),
                4 => (x, bottom - y),
                5 => (y, x),
                6 => (y, bottom - x),
                7 => (right - y, bottom - x),
                _ => (right - y, x),
            };
            let size = if value < 5 { (24, 16) } else { (16, 24) };
            let upright = RgbaImage::from_fn(size.0, size.1, |x, y| {
                let (x, y) = stored_at(x, y);
                *plain.get_pixel(x, y)
            });
            assert_eq!(decoded.pixels, upright, "orientation {value}");
            let note = format!("p.jpg: turned upright, as its EXIF orientation {value} says");
            assert_eq!(decoded.notes, if value == 1 { vec![] } else { vec![note] });
        }
        let odd = decode("odd.jpg", &with_orientation(&jpeg, 77)).expect("a picture");
        assert_eq!((odd.pixels, odd.notes), (plain, vec![]));
    }

    #[test]
    fn exif_orientation_is_found_in_png_and_webp_too() {
        for name in ["orientation-6.png", "orientation-6.webp", "orientation-6.jpg"] {
            let decoded = decode_file(name);
            assert_eq!(decoded.pixels, imageops::rotate90(&stored(name).into_rgba8()), "{name}");
            assert_eq!(decoded.notes, [format!("{name}: turned upright, as its EXIF orientation 6 says")]);
        }
    }

    #[test]
    fn profiles_are_converted_to_srgb_as_littlecms_does() {
        for (name, expected, tolerance) in
            [("icc-wide.png", "icc-wide-srgb.png", 2), ("icc-wide.jpg", "icc-wide-jpg-srgb.png", 12)]
        {
            let decoded = decode_file(name);
            let (most, mean) = difference(&image::rgb_of(&decoded.pixels), &stored(expected).into_rgb8());
            assert!(most <= tolerance && mean < 1.0, "{name}: differs by up to {most}, {mean} on average");
            assert_eq!(decoded.notes, [format!("{name}: converted from the colour profile \"Wide test RGB\" to sRGB")]);
            let (unconverted, _) = difference(&image::rgb_of(&decoded.pixels), &stored(name).into_rgb8());
            assert!(unconverted > 20, "{name}: the conversion must be visible, but is only {unconverted}");
        }
        let grey = decode_file("icc-grey.png");
        let (most, _) = difference(&image::rgb_of(&grey.pixels), &stored("icc-grey-srgb.png").into_rgb8());
        assert!(most <= 2, "grey: differs by up to {most}");
        assert_eq!(grey.notes, ["icc-grey.png: converted from the colour profile \"Grey gamma 1.8\" to sRGB"]);
    }

    #[test]
    fn a_profile_leaves_alpha_alone() {
        let layer = decode_file("icc-wide-alpha.png").pixels;
        assert_eq!(image::alpha_of(&layer), image::alpha_of(&stored("icc-wide-alpha.png").into_rgba8()));
        assert_eq!(image::rgb_of(&layer), image::rgb_of(&decode_file("icc-wide.png").pixels));
    }

    #[test]
    fn srgb_is_left_bit_for_bit_and_broken_profiles_are_noted() {
        let decoded = decode_file("icc-srgb.png");
        assert_eq!(decoded.pixels, stored("icc-srgb.png").into_rgba8());
        assert!(decoded.notes.is_empty(), "{:?}", decoded.notes);

        for (name, why) in [
            ("icc-broken.png", "icc-broken.png: its colour profile cannot be read ("),
            ("icc-mismatch.png", "icc-mismatch.png: its colour profile is for Gray pixels, which these are not; "),
        ] {
            let decoded = decode_file(name);
            assert_eq!(decoded.pixels, stored(name).into_rgba8());
            assert_eq!(decoded.notes.len(), 1);
            assert!(decoded.notes[0].starts_with(why), "{:?}", decoded.notes);
            assert!(decoded.notes[0].ends_with("; the pixels were taken as sRGB"), "{:?}", decoded.notes);
        }
    }
}

mod refused {
    use super::*;

    #[test]
    fn what_is_no_picture_is_told_by_what_it_looks_like() {
        let accepted = "PNG, JPEG, WebP, GIF, BMP and TIFF are accepted";
        let cases: [(&[u8], &str); 12] = [
            (b"  <!DOCTYPE html><html><body>404", "the bytes look like HTML, perhaps an error page"),
            (b"%PDF-1.7 ...", "the bytes look like PDF"),
            (b"{\"error\": \"not found\"}", "the bytes look like JSON"),
            (
                b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>",
                "the bytes look like XML, perhaps an error message of a store",
            ),
            (
                b"<?xml version=\"1.0\"?><svg xmlns=\"http://www.w3.org/2000/svg\">",
                "the bytes look like SVG; render it to PNG first",
            ),
            (b"PK\x03\x04....", "the bytes look like a ZIP archive"),
            (b"\0\0\0\x20ftypheic", "the bytes look like HEIC"),
            (b"\0\0\0\x20ftypavif", "the bytes look like AVIF"),
            (b"\0\0\0\x20ftypisom", "the bytes look like a video"),
            ("Ein Bild, das es nicht gibt: schön.".as_bytes(), "the bytes look like plain text"),
            (
                b"\x89PNG\n\x1a\n",
                "the bytes look like a PNG whose first bytes were changed, as by a transfer in text mode",
            ),
            (b"\x01\x02\x03", "the bytes begin with 01 02 03, which is no format known here"),
        ];
        for (bytes, what) in cases {
            assert_eq!(
                message(decode("in.png", bytes)),
                format!("invalid_image in.png: not a picture that can be read: {what}; {accepted}")
            );
        }
        assert_eq!(message(decode("in.png", b"")), format!("invalid_image in.png: the file is empty; {accepted}"));
    }

    #[test]
    fn a_decompression_bomb_is_refused_by_its_header() {
        assert_eq!(
            message(decode("bomb.png", &png_claiming(100_000, 100_000))),
            "image_too_large bomb.png: the picture says it is 100000x100000 pixels; \
             the limits are 32768 wide, 32768 high and 100000000 pixels in all"
        );
        // Each side is allowed, the product is not.
        assert!(message(decode("b", &png_claiming(20_000, 20_000))).starts_with("image_too_large b: "));

        let mut gif = file("animated.gif");
        gif[6..10].copy_from_slice(&[0xff; 4]);
        assert!(
            message(decode("b.gif", &gif)).starts_with("image_too_large b.gif: the picture says it is 65535x65535")
        );

        let mut bmp = encode(&gradient(4, 4).into(), ImageFormat::Bmp);
        bmp[18..26].copy_from_slice(&[0, 0, 1, 0, 0, 0, 1, 0]);
        assert!(
            message(decode("b.bmp", &bmp)).starts_with("image_too_large b.bmp: the picture says it is 65536x65536")
        );

        let mut jpeg = jpeg(&gradient(8, 8));
        let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
        assert!(
            message(decode("b.jpg", &jpeg)).starts_with("image_too_large b.jpg: the picture says it is 65535x65535")
        );

        // The canvas of an extended WebP: 24 bits a side, less one.
        let mut webp = file("animated.webp");
        assert_eq!(&webp[12..16], b"VP8X");
        webp[24..30].copy_from_slice(&[0xff; 6]);
        assert!(
            message(decode("b.webp", &webp))
                .starts_with("image_too_large b.webp: the picture says it is 16777216x16777216")
        );
    }

    #[test]
    fn limits_are_the_callers() {
        let png = encode(&gradient(60, 40).into(), ImageFormat::Png);
        let limits = |change: fn(&mut Limits)| {
            let mut limits = Limits { max_width: 60, max_height: 40, max_pixels: 2400, max_bytes: 1 << 20 };
            change(&mut limits);
            image::decode("p", &png, &limits).map(|decoded| decoded.pixels.dimensions()).map_err(|error| error.code())
        };
        assert_eq!(limits(|_| {}), Ok((60, 40)));
        assert_eq!(limits(|limits| limits.max_width = 59), Err("image_too_large"));
        assert_eq!(limits(|limits| limits.max_height = 39), Err("image_too_large"));
        assert_eq!(limits(|limits| limits.max_pixels = 2399), Err("image_too_large"));
        assert_eq!(limits(|limits| limits.max_bytes = 50), Err("image_too_large"));
    }

    #[test]
    fn pictures_without_pixels_are_refused() {
        for (width, height) in [(0, 5), (5, 0), (0, 0)] {
            assert_eq!(
                message(decode("zero.png", &png_claiming(width, height))),
                format!(
                    "invalid_image zero.png: the picture is {width}x{height} pixels; both sides must be at least 1"
                )
            );
        }
        let mut jpeg = jpeg(&gradient(8, 8));
        let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
        jpeg[frame + 5..frame + 7].copy_from_slice(&[0, 0]);
        assert!(message(decode("zero.jpg", &jpeg)).contains("the picture is 8x0 pixels"));
    }

    #[test]
    fn floating_point_pixels_are_refused_by_name() {
        let text = message(decode("float.tif", &file("float.tif")));
        assert!(text.starts_with("invalid_image float.tif: "), "{text}");
        assert!(text.contains("save it"), "{text}");
    }

    #[test]
    fn truncated_png_and_jpeg_say_so() {
        let png = encode(&gradient(64, 64).into(), ImageFormat::Png);
        assert_eq!(
            message(decode("cut.png", &png[..png.len() / 2])),
            format!(
                "invalid_image cut.png: the PNG is cut short: it ends after {} bytes; fetch or save it again",
                png.len() / 2
            )
        );
        let jpeg = jpeg(&gradient(64, 64));
        assert_eq!(
            message(decode("cut.jpg", &jpeg[..jpeg.len() / 2])),
            format!(
                "invalid_image cut.jpg: the JPEG is cut short: it ends after {} bytes; fetch or save it again",
                jpeg.len() / 2
            )
        );
        // A download that was allocated in full and filled with zeros.
        let mut zeros = jpeg.clone();
        zeros[jpeg.len() / 2..].fill(0);
        assert!(message(decode("z.jpg", &zeros)).contains("cut short"));
        // A thumbnail in the EXIF block has an end marker of its own, which does not count.
        let thumbnail = [b"Exif\0\0".as_slice(), &jpeg].concat();
        let length = (thumbnail.len() as u16 + 2).to_be_bytes();
        let nested = [&jpeg[..2], &[0xff, 0xe1], &length, &thumbnail, &jpeg[2..]].concat();
        assert!(decode("nested.jpg", &nested).is_ok());
        assert!(message(decode("n.jpg", &nested[..nested.len() - 100])).contains("cut short"));
    }

    /// Whatever the format and wherever the cut: an error, or all of the picture.
    #[test]
    fn no_cut_gives_part_of_a_picture() {
        let busy = DynamicImage::from(noise_rgba(40, 30, 8));
        let mut files: Vec<(String, Vec<u8>)> = [
            "progressive.jpg",
            "cmyk.jpg",
            "animated.webp",
            "animated.gif",
            "animated.png",
            "kind-rgba.webp",
            "kind-rgba.tif",
            "kind-rgb.bmp",
            "kind-palette.gif",
            "icc-wide.jpg",
        ]
        .iter()
        .map(|name| ((*name).to_owned(), file(name)))
        .collect();
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff] {
            files.push((format!("noise {format:?}"), encode(&busy, format)));
        }
        files.push(("noise jpeg".to_owned(), jpeg(&busy.to_rgb8())));
        for (name, bytes) in files {
            let whole = decode(&name, &bytes).unwrap_or_else(|error| panic!("{error}")).pixels;
            let step = (bytes.len() / 60).max(1);
            for end in (0..bytes.len()).step_by(step).chain(bytes.len() - 12..bytes.len()) {
                if let Ok(decoded) = decode(&name, &bytes[..end]) {
                    assert_eq!(decoded.pixels, whole, "{name} cut to {end} of {} bytes", bytes.len());
                }
            }
        }
    }

    /// Damaged files may decode to anything or fail, but they must not panic.
    #[test]
    fn damage_does_not_panic() {
        let grey = DynamicImage::from(GrayImage::from_fn(20, 20, |x, y| Luma([(x * y) as u8])));
        let mut files: Vec<Vec<u8>> = [
            "icc-wide.png",
            "icc-wide.jpg",
            "orientation-6.jpg",
            "pages.tif",
            "cmyk.jpg",
            "animated.webp",
            "animated.png",
            "animated.gif",
            "kind-palette.gif",
            "kind-rgba.tif",
            "kind-rgb.bmp",
        ]
        .iter()
        .map(|name| file(name))
        .collect();
        files.push(encode(&grey, ImageFormat::Png));
        let small = Limits { max_width: 4096, max_height: 4096, max_pixels: 1 << 20, max_bytes: 1 << 20 };
        for (index, bytes) in files.iter().enumerate() {
            let random = noise(600, index as u64 + 50);
            for hit in random.chunks_exact(3) {
                let mut damaged = bytes.clone();
                let at = (usize::from(hit[0]) * 256 + usize::from(hit[1])) % bytes.len();
                damaged[at] = hit[2];
                let _ = image::decode("damaged", &damaged, &small);
            }
        }
    }
}

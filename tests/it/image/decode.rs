use qwen_image::image_processor::{alpha_of, rgb_of};

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
    assert_eq!(decoded.notes, ["more than 8 bits per channel, rounded to 8"]);
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
        // The two libraries' inverse cosine transforms round differently.
        let (most, mean) = difference(&rgb_of(&decoded.pixels), &expected);
        assert!(most <= 6 && mean <= 0.7, "{name}: differs by up to {most}, {mean} on average");
        assert_eq!(decoded.notes, ["CMYK, converted to RGB without a color profile"]);
    }
    let decoded = decode_file("cmyk.tif");
    let (most, _) = difference(&rgb_of(&decoded.pixels), &stored("cmyk-tif-rgb.png").into_rgb8());
    assert!(most <= 1, "differs by up to {most}");
    assert_eq!(decoded.notes, ["CMYK, converted to RGB without a color profile"]);
}

#[test]
fn animations_and_pages_give_their_first_picture_and_say_so() {
    for (name, note) in [
        ("animated.webp", "animated WebP with 3 frames; only the first was used"),
        ("animated.png", "animated PNG with 3 frames; only the first was used"),
        ("animated.gif", "animated GIF with 3 frames; only the first was used"),
        ("pages.tif", "TIFF with 3 pages; only the first was used"),
    ] {
        let decoded = decode_file(name);
        assert_eq!(decoded.notes, [note]);
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
        let note = format!("rotated according to its EXIF orientation, {value}");
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
        assert_eq!(decoded.notes, ["rotated according to its EXIF orientation, 6"]);
    }
}

#[test]
fn profiles_are_converted_to_srgb_as_littlecms_does() {
    for (name, expected, tolerance) in
        [("icc-wide.png", "icc-wide-srgb.png", 2), ("icc-wide.jpg", "icc-wide-jpg-srgb.png", 12)]
    {
        let decoded = decode_file(name);
        let (most, mean) = difference(&rgb_of(&decoded.pixels), &stored(expected).into_rgb8());
        assert!(most <= tolerance && mean < 1.0, "{name}: differs by up to {most}, {mean} on average");
        assert_eq!(decoded.notes, ["converted from the color profile \"Wide test RGB\" to sRGB"]);
        let (unconverted, _) = difference(&rgb_of(&decoded.pixels), &stored(name).into_rgb8());
        assert!(unconverted > 20, "{name}: the conversion must be visible, but is only {unconverted}");
    }
    let grey = decode_file("icc-grey.png");
    let (most, _) = difference(&rgb_of(&grey.pixels), &stored("icc-grey-srgb.png").into_rgb8());
    assert!(most <= 2, "grey: differs by up to {most}");
    assert_eq!(grey.notes, ["converted from the color profile \"Grey gamma 1.8\" to sRGB"]);
}

#[test]
fn a_profile_leaves_alpha_alone() {
    let layer = decode_file("icc-wide-alpha.png").pixels;
    assert_eq!(alpha_of(&layer), alpha_of(&stored("icc-wide-alpha.png").into_rgba8()));
    assert_eq!(rgb_of(&layer), rgb_of(&decode_file("icc-wide.png").pixels));
}

#[test]
fn srgb_is_left_bit_for_bit_and_broken_profiles_are_noted() {
    let decoded = decode_file("icc-srgb.png");
    assert_eq!(decoded.pixels, stored("icc-srgb.png").into_rgba8());
    assert!(decoded.notes.is_empty(), "{:?}", decoded.notes);

    for (name, why) in [
        ("icc-broken.png", "its color profile cannot be read ("),
        ("icc-mismatch.png", "its color profile is for Gray pixels, unlike this picture; "),
    ] {
        let decoded = decode_file(name);
        assert_eq!(decoded.pixels, stored(name).into_rgba8());
        assert_eq!(decoded.notes.len(), 1);
        assert!(decoded.notes[0].starts_with(why), "{:?}", decoded.notes);
        assert!(decoded.notes[0].ends_with("; the pixels were treated as sRGB"), "{:?}", decoded.notes);
    }
}

/// Display P3, by the formulas of H.273.
#[test]
fn a_cicp_chunk_is_applied() {
    let colors: [([u8; 3], [u8; 3]); 4] = [
        ([200, 100, 50], [215, 93, 31]),
        ([90, 160, 60], [61, 162, 39]),
        ([128, 128, 128], [128, 128, 128]),
        ([60, 90, 180], [50, 91, 186]),
    ];
    let drawn = RgbImage::from_raw(4, 1, colors.iter().flat_map(|(coded, _)| *coded).collect()).expect("four pixels");
    let png = encode(&drawn.into(), ImageFormat::Png);
    // Behind the signature and the header.
    let marked = [&png[..33], &chunk(b"cICP", &[12, 13, 0, 1]), &png[33..]].concat();
    let decoded = decode("p3.png", &marked).expect("a picture");
    assert_eq!(
        decoded.notes,
        ["converted from the color that its CICP numbers name (primaries 12, transfer 13) to sRGB"]
    );
    for (pixel, (_, wanted)) in decoded.pixels.pixels().zip(colors) {
        let (far, _) = difference(&pixel.0[..3], &wanted);
        assert!(far <= 1, "{pixel:?} instead of {wanted:?}");
    }
}

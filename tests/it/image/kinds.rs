//! Pictures of kinds that decoders get wrong. `tests/image/kinds.py` draws those of `kinds/` with the pixels that they
//! must give; those of `cases/` showed faults, and Pillow's pixels are beside them. All are CC0.

use super::*;

/// The largest difference to the stored pixels, without the color of transparent ones.
fn far_from_stored(name: &str, decoded: &RgbaImage) -> u8 {
    let expected = stored(&format!("{name}.rgba.png")).into_rgba8();
    assert_eq!(decoded.dimensions(), expected.dimensions(), "{name}");
    let far = decoded.pixels().zip(expected.pixels()).map(|(one, other)| {
        let colors = if other.0[3] == 0 { 3..4 } else { 0..4 };
        colors.map(|channel| one.0[channel].abs_diff(other.0[channel])).max().unwrap_or(0)
    });
    far.max().unwrap_or(0)
}

#[test]
fn every_kind_gives_its_pixels() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/image/kinds");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the kinds") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        if name.ends_with(".rgba.png") {
            continue;
        }
        let tolerance = if name.contains("jpeg") {
            12
        } else if name.contains("lossy") {
            2
        } else {
            1
        };
        let far = far_from_stored(&format!("kinds/{name}"), &decode_file(&format!("kinds/{name}")).pixels);
        assert!(far <= tolerance, "{name} differs by up to {far}");
        seen += 1;
    }
    assert!(seen >= 20, "{seen} kinds");
}

#[test]
fn what_was_garbage_or_refused_is_right() {
    for (name, tolerance, notes) in [
        ("baseline-three-scans-420.jpg", 4, vec![]),
        ("assoc-alpha.tif", 1, vec![]),
        ("grey-alpha.tif", 0, vec![]),
        ("tiled-planar.tif", 0, vec![]),
        ("ycbcr-jpeg.tif", 4, vec![]),
        ("cmyk-planar.tif", 1, vec!["CMYK, converted to RGB without a color profile"]),
        ("alpha-flag-only.webp", 2, vec![]),
        ("orientation6-prefixed.webp", 1, vec!["rotated according to its EXIF orientation, 6"]),
    ] {
        let decoded = decode_file(&format!("cases/{name}"));
        let far = far_from_stored(&format!("cases/{name}"), &decoded.pixels);
        assert!(far <= tolerance, "{name} differs by up to {far}");
        assert_eq!(decoded.notes, notes, "{name}");
    }
}

#[test]
fn what_is_not_read_is_named() {
    for (name, what) in [
        ("arithmetic.jpg", "it is a JPEG with arithmetic coding, which acetate does not read; save it as"),
        ("three-quarters-lost.jpg", "the JPEG is damaged: 75 % of its picture data is missing or unreadable; "),
        ("raw-like.dng", "it is a camera's raw file, Adobe (DNG), which holds only a thumbnail"),
        ("psd-profile.icc", "not a readable picture: "),
    ] {
        let text = message(decode(name, &file(&format!("cases/{name}"))));
        assert!(text.starts_with(&format!("invalid_image {name}: {what}")), "{text}");
    }
}

#[test]
fn camera_raws_are_named_and_not_taken_for_their_thumbnail() {
    // A folder with the maker and a link to an inner one, whose photometric interpretation is a color filter array.
    let nef = |maker: &[u8; 4]| {
        let entry = |tag: u16, kind: u16, count: u32, value: [u8; 4]| {
            [&tag.to_be_bytes()[..], &kind.to_be_bytes(), &count.to_be_bytes(), &value].concat()
        };
        [
            b"MM\0*\0\0\0\x08".to_vec(),
            [0, 2].to_vec(),
            entry(0x010f, 2, 4, *maker),
            entry(0x014a, 4, 1, [0, 0, 0, 38]),
            vec![0; 4],
            [0, 1].to_vec(),
            entry(0x0106, 3, 1, [0x80, 0x23, 0, 0]),
            vec![0; 4],
        ]
        .concat()
    };
    let cases: [(&[u8], &str); 8] = [
        (&nef(b"SONY"), "Sony (ARW)"),
        (&nef(b"ACME"), "an unknown maker"),
        (b"II*\0\x10\0\0\0CR\x02\0", "Canon (CR2)"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "Canon (CR3)"),
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm (RAF)"),
        (b"IIRO\x08\0\0\0", "Olympus (ORF)"),
        (b"IIU\0\x18\0\0\0", "Panasonic (RW2)"),
        (b"FOVb\0\0\0\0", "Sigma (X3F)"),
    ];
    for (bytes, what) in cases {
        let text = message(decode("raw", bytes));
        assert!(text.starts_with(&format!("invalid_image raw: it is a camera's raw file, {what}, ")), "{text}");
    }
}

#[test]
fn a_profile_that_inflates_without_end_is_left_out() {
    let decoded = decode_file("cases/iccp-bomb-90MB.png");
    assert_eq!(decoded.pixels.dimensions(), (4, 4));
    assert_eq!(decoded.notes, ["its color profile is larger than 16 MiB; the pixels were treated as sRGB"]);
}

/// A linear profile stretches the dark values: rounded to 8 bits before it, a ramp would have steps of 13.
#[test]
fn sixteen_bits_are_kept_until_after_the_profile() {
    let name = "cases/linear16.png";
    let decoded = decode_file(name);
    let deep = stored(name).into_rgb16();
    let mut most = 0;
    for (pixel, linear) in decoded.pixels.pixels().zip(deep.pixels()) {
        for (value, linear) in pixel.0.iter().zip(linear.0) {
            let linear = f64::from(linear) / 65535.0;
            let coded = if linear <= 0.003_130_8 { 12.92 * linear } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 };
            most = most.max(((coded * 255.0).round() as i32 - i32::from(*value)).abs());
        }
    }
    assert!(most <= 1, "differs by up to {most}");
}

/// A JPEG with its data cut after `part` of it, and an end marker after that.
fn cut(jpeg: &[u8], part: f64) -> Vec<u8> {
    let scan = jpeg.windows(2).rposition(|pair| pair == [0xff, 0xda]).expect("a scan");
    let mut end = scan + 14 + ((jpeg.len() - scan - 16) as f64 * part) as usize;
    if jpeg[end - 1] == 0xff {
        end -= 1;
    }
    [&jpeg[..end], &[0xff, 0xd9]].concat()
}

#[test]
fn damage_before_the_end_marker_is_noticed() {
    let noise = RgbImage::from_raw(64, 64, noise(64 * 64 * 3, 4)).expect("the right length");
    for bytes in [jpeg(&noise), file("progressive.jpg"), file("kinds/jpeg-restarts.jpg")] {
        assert!(decode("whole", &bytes).is_ok());
        for part in [0.1, 0.5, 0.9] {
            let text = message(decode("cut.jpg", &cut(&bytes, part)));
            assert!(text.contains("cut.jpg: the JPEG is damaged: "), "{text}");
        }
    }
    // A restart interval that is lost shifts everything behind it.
    let whole = file("kinds/jpeg-restarts.jpg");
    let restart = |number: u8| whole.windows(2).position(|pair| pair == [0xff, 0xd0 + number]).expect("a restart");
    let lost = [&whole[..restart(1)], &whole[restart(2)..]].concat();
    assert!(message(decode("lost.jpg", &lost)).contains("lost.jpg: the JPEG is damaged: "));
}

#[test]
fn the_memory_of_a_picture_is_bounded_by_its_setting() {
    let png = encode(&gradient(1000, 1000).into(), ImageFormat::Png);
    let limits = DecodeLimits { max_memory: 4 << 20, ..DecodeLimits::default() };
    let error = image::decode("p.png", &png, &limits).expect_err("too much");
    assert_eq!(error.to_string(), "p.png: decoding needs 8 MiB of memory; the limit, image.max_memory, is 4 MiB");
    assert_eq!(image::probe("p.png", &png, &limits).expect_err("too much").code(), "image_too_large");
    assert!(image::decode("p.png", &png, &DecodeLimits { max_memory: 8 << 20, ..limits }).is_ok());
}

#[test]
fn the_defaults_take_large_phones_and_panoramas() {
    for (width, height) in [(12_000, 9_000), (20_000, 5_000), (5_000, 20_000)] {
        DecodeLimits::default().check_size("p", (width, height)).expect("within the limits");
    }
}

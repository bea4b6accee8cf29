//! AVIF and HEIC. `tests/image/heif.py` draws the files of `heif/` with the pixels that Pillow reads: AVIF through
//! libavif and dav1d, HEIC through libheif and libde265.

use super::*;

/// A file of `heif/` with other bytes `offset` bytes behind the beginning of the first `letters`.
fn patched(name: &str, letters: &[u8], offset: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = file(&format!("heif/{name}"));
    let found = bytes.windows(letters.len()).position(|window| window == letters);
    let at = found.unwrap_or_else(|| panic!("no {}", letters.escape_ascii())) + offset;
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// The pixels, with the color in proportion to the alpha.
fn visible(image: &RgbaImage) -> Vec<u8> {
    let seen = |pixel: &Rgba<u8>| {
        let [r, g, b, alpha] = pixel.0;
        let part = |color: u8| (u32::from(color) * u32::from(alpha) / 255) as u8;
        [part(r), part(g), part(b), alpha]
    };
    image.pixels().flat_map(seen).collect()
}

#[test]
fn every_kind_gives_the_pixels_of_pillow() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/image/heif");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the files") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        if name.ends_with(".rgba.png") {
            continue;
        }
        let decoded = decode_file(&format!("heif/{name}"));
        let expected = stored(&format!("heif/{name}.rgba.png")).into_rgba8();
        assert_eq!(decoded.pixels.dimensions(), expected.dimensions(), "{name}");
        let (far, mean) = difference(&visible(&decoded.pixels), &visible(&expected));
        // libavif rounds to 8 bits between its steps, libheif repeats chroma samples instead of interpolating them, and
        // the change to sRGB makes both larger.
        let (most, most_mean) = match name.as_str() {
            _ if name.contains("lossless") || name.contains("gray") => (0, 0.0),
            _ if ["profile", "p3", "bt2020"].iter().any(|part| name.contains(part)) => (12, 0.5),
            _ if name.starts_with("heic") => (5, 1.1),
            _ => (3, 0.6),
        };
        assert!(far <= most && mean <= most_mean, "{name} differs by up to {far}, {mean:.3} on average");
        seen += 1;
    }
    assert!(seen >= 40, "{seen} files");
}

#[test]
fn what_is_converted_or_left_out_is_noted() {
    for (name, notes) in [
        ("avif-420.avif", vec![]),
        // The orientation in EXIF only tells of the file's own.
        ("heic-exif-turned.heic", vec![]),
        ("heic-thumbnail.heic", vec![]),
        ("avif-animated.avif", vec!["animated AVIF with 2 frames; only the first was used"]),
        ("avif-sequence.avif", vec!["animated AVIF with 2 frames; only the first was used"]),
        ("heic-second-is-main.heic", vec!["HEIC with 2 pictures; only the main one was used"]),
        ("heic-10.heic", vec!["more than 8 bits per channel, rounded to 8"]),
        ("avif-profile.avif", vec!["converted from the color profile \"Wide test RGB\" to sRGB"]),
        (
            "avif-p3.avif",
            vec!["converted from the color that its CICP numbers name (primaries 12, transfer 13) to sRGB"],
        ),
    ] {
        assert_eq!(decode_file(&format!("heif/{name}")).notes, notes, "{name}");
    }
    // The high dynamic range is noted as for PNG.
    let pq = patched("avif-p3.avif", b"colrnclx", 8, &[0, 9, 0, 16]);
    let notes = decode("pq.avif", &pq).expect("a picture").notes;
    assert_eq!(
        notes,
        ["the color that its CICP numbers name (primaries 9, transfer 16) has a high dynamic range; the pixels were \
          treated as sRGB, so it looks flat"]
    );
}

#[test]
fn sizes_and_memory_are_limited_before_anything_is_decoded() {
    let large = patched("avif-420.avif", b"ispe", 8, &70_000u32.to_be_bytes());
    let text = message(decode("large.avif", &large));
    assert_eq!(
        text,
        "image_too_large large.avif: the picture says it is 70000x37 pixels; the limit, image.max_width, is 32768"
    );
    // A crop does not hide the size of what is decoded.
    let cropped = patched("avif-crop.avif", b"ispe", 8, &70_000u32.to_be_bytes());
    assert!(message(decode("crop.avif", &cropped)).starts_with("image_too_large "));
    let limits = DecodeLimits { max_memory: 3 << 16, ..DecodeLimits::default() };
    let error = image::probe("tiles.heic", &file("heif/heic-tiles.heic"), &limits).expect_err("too much");
    assert!(error.code() == "image_too_large" && error.to_string().contains("image.max_memory"), "{error}");
    let info =
        image::probe("turned.avif", &file("heif/avif-turned-6.avif"), &DecodeLimits::default()).expect("a header");
    assert_eq!((info.ending, info.width, info.height), ("avif", 37, 49));
    // The data are larger than the header says.
    for name in ["avif-420.avif", "heic-420.heic"] {
        let lying = patched(name, b"ispe", 8, &[0, 0, 0, 16, 0, 0, 0, 16]);
        assert!(decode(name, &lying).is_err(), "{name}");
    }
}

#[test]
fn what_is_not_read_is_named() {
    for (bytes, said) in [
        (patched("heic-420.heic", b"hvc1", 0, b"vvc1"), "not supported (H.266 coding); save it as a plain PNG or JPEG"),
        (
            patched("avif-420.avif", b"av01", 0, b"jpeg"),
            "not supported (a JPEG inside); save it as a plain PNG or JPEG",
        ),
        (
            patched("avif-420.avif", b"av1C", 0, b"next"),
            "not supported (the property next); save it as a plain PNG or JPEG",
        ),
        (
            patched("avif-420.avif", b"colrnclx", 12, &[0, 14]),
            "not supported (the color matrix 14 of H.273); save it as a plain PNG or JPEG",
        ),
        (
            patched("avif-grid.avif", &[0, 0, 1, 1, 0, 100, 0, 90], 3, &[2]),
            "damaged or cut short (its grid has another number of tiles than it says); download or save it again",
        ),
        (
            patched("avif-grid.avif", &[0, 0, 1, 1, 0, 100, 0, 90], 5, &[200]),
            "damaged or cut short (the tiles of its grid do not fit its size); download or save it again",
        ),
        (
            patched("avif-derived.avif", b"dimg", 9, &[1]),
            "damaged or cut short (its pictures are derived from each other); download or save it again",
        ),
        (
            patched("avif-420.avif", b"pitm", 9, &[7]),
            "damaged or cut short (it does not say which of its pictures is the main one); download or save it again",
        ),
    ] {
        let text = message(decode("it", &bytes));
        assert!(text.starts_with("invalid_image it: ") && text.ends_with(said), "{text}");
    }
    let text = message(decode("it", &file("heif/heic-420.heic")[..700]));
    assert_eq!(text, "invalid_image it: the HEIC is cut short; download or save it again");
}

use super::*;

#[test]
fn what_is_no_picture_is_told_by_what_it_looks_like() {
    let accepted = "PNG, JPEG, WebP, GIF, BMP, TIFF, JPEG XL, AVIF and HEIC are accepted";
    let cases: [(&[u8], &str); 10] = [
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
        (b"\0\0\0\x20ftypisom", "the bytes look like a video"),
        ("Ein Bild, das es nicht gibt: schön.".as_bytes(), "the bytes look like plain text"),
        (
            b"\x89PNG\n\x1a\n",
            "the bytes look like a PNG whose first bytes were changed, for instance by a transfer in text mode",
        ),
        (b"\x01\x02\x03", "the bytes begin with 01 02 03, which is not a known format"),
    ];
    for (bytes, what) in cases {
        assert_eq!(
            message(decode("in.png", bytes)),
            format!("invalid_image in.png: not a readable picture: {what}; {accepted}")
        );
    }
    assert_eq!(message(decode("in.png", b"")), format!("invalid_image in.png: the file is empty; {accepted}"));
}

#[test]
fn a_decompression_bomb_is_refused_by_its_header() {
    assert_eq!(
        message(decode("bomb.png", &png_claiming(100_000, 100_000))),
        "image_too_large bomb.png: the picture says it is 100000x100000 pixels; \
         the limit, image.max_width, is 32768"
    );
    // Each side is allowed, but the number of pixels is not.
    assert!(
        message(decode("b", &png_claiming(16_000, 16_000)))
            .ends_with("the limit, image.max_pixels, is 134217728 pixels in all")
    );

    let mut gif = file("animated.gif");
    gif[6..10].copy_from_slice(&[0xff; 4]);
    assert!(message(decode("b.gif", &gif)).starts_with("image_too_large b.gif: the picture says it is 65535x65535"));

    let mut bmp = encode(&gradient(4, 4).into(), ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0, 0, 1, 0, 0, 0, 1, 0]);
    assert!(message(decode("b.bmp", &bmp)).starts_with("image_too_large b.bmp: the picture says it is 65536x65536"));

    let mut jpeg = jpeg(&gradient(8, 8));
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    assert!(message(decode("b.jpg", &jpeg)).starts_with("image_too_large b.jpg: the picture says it is 65535x65535"));

    // The canvas of an extended WebP: 24 bits per side, minus one.
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
    let limits = |change: fn(&mut DecodeLimits)| {
        let mut limits =
            DecodeLimits { max_width: 60, max_height: 40, max_pixels: 2400, max_bytes: 1 << 20, max_memory: 1 << 20 };
        change(&mut limits);
        image::decode("p", &png, &limits).map(|decoded| decoded.pixels.dimensions()).map_err(|error| error.code())
    };
    assert_eq!(limits(|_| {}), Ok((60, 40)));
    assert_eq!(limits(|limits| limits.max_width = 59), Err("image_too_large"));
    assert_eq!(limits(|limits| limits.max_height = 39), Err("image_too_large"));
    assert_eq!(limits(|limits| limits.max_pixels = 2399), Err("image_too_large"));
    assert_eq!(limits(|limits| limits.max_bytes = 50), Err("image_too_large"));
    assert_eq!(limits(|limits| limits.max_memory = 2400 * 7), Err("image_too_large"));
}

#[test]
fn pictures_without_pixels_are_refused() {
    for (width, height) in [(0, 5), (5, 0), (0, 0)] {
        assert_eq!(
            message(decode("zero.png", &png_claiming(width, height))),
            format!("invalid_image zero.png: the picture is {width}x{height} pixels; both sides must be at least 1")
        );
    }
    let mut jpeg = jpeg(&gradient(8, 8));
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    jpeg[frame + 5..frame + 7].copy_from_slice(&[0, 0]);
    assert!(message(decode("zero.jpg", &jpeg)).contains("the picture is 8x0 pixels"));
}

#[test]
fn floating_point_pixels_are_read_and_noted() {
    let decoded = decode_file("float.tif");
    assert_eq!(decoded.notes.len(), 2, "{:?}", decoded.notes);
    assert!(decoded.notes[0].starts_with("floating-point samples; 0 to "), "{:?}", decoded.notes);
}

#[test]
fn truncated_png_and_jpeg_say_so() {
    let png = encode(&gradient(64, 64).into(), ImageFormat::Png);
    assert_eq!(
        message(decode("cut.png", &png[..png.len() / 2])),
        format!(
            "invalid_image cut.png: the PNG is cut short: it ends after {} bytes; download or save it again",
            png.len() / 2
        )
    );
    let jpeg = jpeg(&gradient(64, 64));
    assert_eq!(
        message(decode("cut.jpg", &jpeg[..jpeg.len() / 2])),
        format!(
            "invalid_image cut.jpg: the JPEG is cut short: it ends after {} bytes; download or save it again",
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

/// A decoder's internal values must not appear in messages.
#[test]
fn a_wrong_checksum_is_told_in_words() {
    let mut png = encode(&gradient(64, 64).into(), ImageFormat::Png);
    let data = png.windows(4).position(|kind| kind == b"IDAT").expect("pixel data");
    let length = u32::from_be_bytes(png[data - 4..data].try_into().expect("four bytes")) as usize;
    png[data + 4 + length] ^= 1;
    assert_eq!(
        message(decode("crc.png", &png)),
        "invalid_image crc.png: the PNG is damaged or cut short (its checksum does not match its data); \
         download or save it again"
    );
}

/// In every format, a file that is cut anywhere gives an error or the whole picture.
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
        "kinds/jxl-lossy.jxl",
        "kinds/jxl-lossless-alpha.jxl",
        "heif/avif-alpha.avif",
        "heif/avif-animated.avif",
        "heif/heic-alpha.heic",
        "heif/heic-tiles.heic",
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
        "kinds/jxl-lossy.jxl",
        "kinds/jxl-float.jxl",
        "heif/avif-grid.avif",
        "heif/avif-sequence.avif",
        "heif/avif-12-444.avif",
        "heif/heic-alpha.heic",
        "heif/heic-tiles.heic",
    ]
    .iter()
    .map(|name| file(name))
    .collect();
    files.push(encode(&grey, ImageFormat::Png));
    let small = DecodeLimits {
        max_width: 4096,
        max_height: 4096,
        max_pixels: 1 << 20,
        max_bytes: 1 << 20,
        max_memory: 64 << 20,
    };
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

//! Files whose headers are wrong or unusual. Each is made here, from pixels that are known.

use flate2::{Compression, write::ZlibEncoder};
use std::io::Write;

use super::*;

const RAMP: [u8; 6] = [0, 50, 100, 150, 200, 250];

#[track_caller]
fn decoded(name: &str, bytes: &[u8]) -> Decoded {
    decode(name, bytes).unwrap_or_else(|error| panic!("{error}"))
}

/// A WebP with an extended header around the pixel data of a simple one.
fn extended_webp(picture: &RgbaImage, flags: u8) -> Vec<u8> {
    let simple = encode(&picture.clone().into(), ImageFormat::WebP);
    assert_eq!(&simple[12..16], b"VP8L");
    let side = |length: u32| (length - 1).to_le_bytes()[..3].to_vec();
    let header = [&[flags, 0, 0, 0][..], &side(picture.width()), &side(picture.height())].concat();
    let body = [b"WEBPVP8X".as_slice(), &10u32.to_le_bytes(), &header, &simple[12..]].concat();
    [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat()
}

#[test]
fn lossless_webp_keeps_its_alpha_whatever_its_header_says() {
    let picture = noise_rgba(9, 7, 19);
    for flags in [0x00, 0x10] {
        let decoded = decoded("alpha.webp", &extended_webp(&picture, flags));
        assert_eq!((decoded.pixels, decoded.notes), (picture.clone(), vec![]), "flags {flags:#x}");
    }
    let opaque: RgbaImage = DynamicImage::from(gradient(9, 7)).into_rgba8();
    assert_eq!(decoded("opaque.webp", &extended_webp(&opaque, 0)).pixels, opaque);
}

/// A GIF of few colors, whose frame is at a place on a screen.
fn placed_gif(picture: &RgbaImage, (x, y): (u16, u16), screen: (u16, u16)) -> Vec<u8> {
    let mut gif = encode(&picture.clone().into(), ImageFormat::Gif);
    let size = [picture.width(), picture.height()].map(|side| (side as u16).to_le_bytes());
    let start = [&[0x2c, 0, 0, 0, 0][..], &size.concat()].concat();
    let frame = gif.windows(start.len()).position(|window| window == start).expect("a frame");
    gif[frame + 1..frame + 5].copy_from_slice(&[x.to_le_bytes(), y.to_le_bytes()].concat());
    gif[6..10].copy_from_slice(&[screen.0.to_le_bytes(), screen.1.to_le_bytes()].concat());
    gif
}

#[test]
fn the_screen_of_a_gif_grows_to_its_first_frame() {
    let picture = RgbaImage::from_fn(6, 4, |x, y| Rgba([RAMP[x as usize], RAMP[y as usize], 10, 255]));
    for (at, screen, wanted) in [
        ((0, 0), (6, 4), (6, 4)),
        ((2, 1), (10, 9), (10, 9)),
        ((2, 1), (3, 3), (8, 5)),
        ((2, 1), (0, 0), (8, 5)),
        ((0, 0), (4, 9), (6, 9)),
    ] {
        let gif = placed_gif(&picture, at, screen);
        let decoded = decoded("frame.gif", &gif);
        let mut whole = RgbaImage::new(wanted.0, wanted.1);
        imageops::replace(&mut whole, &picture, at.0.into(), at.1.into());
        assert_eq!(decoded.pixels, whole, "{at:?} on {screen:?}");
        let info = image::probe("frame.gif", &gif, &DecodeLimits::default()).expect("a header");
        assert_eq!((info.width, info.height), wanted);
        let grown = (screen.0.into(), screen.1.into()) != wanted;
        let note = format!(
            "its first frame, 6x4 at {}, {}, reaches beyond its screen of {}x{}, which was made {}x{}",
            at.0, at.1, screen.0, screen.1, wanted.0, wanted.1
        );
        assert_eq!(decoded.notes, if grown { vec![note] } else { vec![] });
    }
}

/// Adds a chunk behind the header.
fn with_chunk(png: &[u8], kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [&png[..33], &chunk(kind, data), &png[33..]].concat()
}

#[test]
fn a_cicp_chunk_that_png_cannot_have_is_ignored_with_a_note() {
    let picture = noise_rgba(5, 4, 3);
    let png = encode(&picture.clone().into(), ImageFormat::Png);
    for (numbers, why) in [
        ([1, 13, 1, 1], "its cICP chunk (1, 13, 1, 1) was ignored: the matrix must be 0"),
        ([9, 16, 9, 0], "its cICP chunk (9, 16, 9, 0) was ignored: the matrix must be 0"),
        ([1, 13, 0, 7], "its cICP chunk (1, 13, 0, 7) was ignored: the range must be 0 or 1"),
    ] {
        let decoded = decoded("cicp.png", &with_chunk(&png, b"cICP", &numbers));
        assert_eq!((decoded.pixels, decoded.notes), (picture.clone(), vec![why.to_owned()]));
    }
}

#[test]
fn the_range_of_video_in_png_becomes_the_full_one() {
    const NOTE: &str = "its samples have the range of video (16 to 235 of 255), which was made full";
    let coded = RgbaImage::from_fn(256, 2, |x, y| Rgba([x as u8, 255 - x as u8, 16 + 219 * y as u8, x as u8]));
    let full = |value: u8| ((f64::from(value) - 16.0) * 255.0 / 219.0).round().clamp(0.0, 255.0) as u8;
    let wanted = RgbaImage::from_fn(256, 2, |x, y| {
        let [r, g, b, a] = coded.get_pixel(x, y).0;
        Rgba([full(r), full(g), full(b), a])
    });
    let png = encode(&coded.into(), ImageFormat::Png);
    let found = decoded("video.png", &with_chunk(&png, b"cICP", &[1, 13, 0, 0]));
    assert_eq!((found.pixels, found.notes), (wanted, vec![NOTE.to_owned()]));

    let deep: ImageBuffer<Luma<u16>, Vec<u16>> =
        ImageBuffer::from_raw(4, 1, vec![0, 16 * 256, 235 * 256, u16::MAX]).expect("four pixels");
    let png = encode(&deep.into(), ImageFormat::Png);
    let found = decoded("video16.png", &with_chunk(&png, b"cICP", &[1, 13, 0, 0]));
    assert_eq!(found.pixels.pixels().map(|pixel| pixel.0[0]).collect::<Vec<_>>(), [0, 0, 255, 255]);
    assert_eq!(found.notes, [NOTE, "more than 8 bits per channel, rounded to 8"]);
}

const XMP: [&str; 2] = [
    r#"<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>"#,
    "<x:xmpmeta><rdf:Description><tiff:Orientation>6</tiff:Orientation></rdf:Description></x:xmpmeta>",
];
const TURNED: &str = "rotated according to its EXIF orientation, 6";

#[test]
fn orientation_in_the_xmp_of_a_png_is_applied_also_if_compressed() {
    let picture = noise_rgba(5, 3, 8);
    let png = encode(&picture.clone().into(), ImageFormat::Png);
    let packed = |text: &str| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).expect("compressing");
        encoder.finish().expect("compressing")
    };
    for text in XMP {
        let plain = [b"XML:com.adobe.xmp\0\0\0\0\0".as_slice(), text.as_bytes()].concat();
        let compressed = [b"XML:com.adobe.xmp\0\x01\0en\0name\0".as_slice(), &packed(text)].concat();
        for data in [plain, compressed] {
            let decoded = decoded("xmp.png", &with_chunk(&png, b"iTXt", &data));
            assert_eq!(decoded.pixels, imageops::rotate90(&picture), "{text}");
            assert_eq!(decoded.notes, [TURNED]);
        }
    }
    // Far more than a packet has: it is not decompressed to its end.
    let bomb = [b"XML:com.adobe.xmp\0\x01\0\0\0".as_slice(), &packed(&" ".repeat(32 << 20))].concat();
    assert!(decoded("bomb.png", &with_chunk(&png, b"iTXt", &bomb)).notes.is_empty());
}

/// A page of gray pixels with 8 bits, and tags: number, type, values.
struct TiffPage<'a> {
    size: (u16, u16),
    pixels: &'a [u8],
    tags: Vec<(u16, u16, Vec<u8>)>,
}

fn tiff(pages: &[TiffPage<'_>]) -> Vec<u8> {
    const SHORT: u16 = 3;
    const LONG: u16 = 4;
    let mut out = b"II*\0\0\0\0\0".to_vec();
    let mut link = 4;
    for TiffPage { size, pixels, tags } in pages {
        let short = |tag: u16, value: u16| (tag, SHORT, value.to_le_bytes().to_vec());
        let long = |tag: u16, value: usize| (tag, LONG, (value as u32).to_le_bytes().to_vec());
        let mut entries = vec![
            short(256, size.0),
            short(257, size.1),
            short(258, 8),
            short(262, 1),
            long(273, out.len()),
            short(278, size.1),
            long(279, pixels.len()),
        ];
        out.extend_from_slice(pixels);
        entries.extend_from_slice(tags);
        entries.sort_by_key(|(tag, _, _)| *tag);
        let mut directory = (entries.len() as u16).to_le_bytes().to_vec();
        for (tag, kind, mut value) in entries {
            let count = value.len()
                / match kind {
                    SHORT => 2,
                    LONG => 4,
                    _ => 1,
                };
            if value.len() > 4 {
                let at = out.len() as u32;
                out.append(&mut value);
                value = at.to_le_bytes().to_vec();
            }
            value.resize(4, 0);
            directory.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
            directory.extend((count as u32).to_le_bytes());
            directory.extend(value);
        }
        let at = out.len() as u32;
        out[link..link + 4].copy_from_slice(&at.to_le_bytes());
        out.extend(directory);
        link = out.len();
        out.extend([0; 4]);
    }
    out
}

fn gray(decoded: &Decoded) -> Vec<u8> {
    decoded.pixels.pixels().map(|pixel| pixel.0[0]).collect()
}

#[test]
fn orientation_in_the_xmp_of_a_tiff_is_applied_if_no_tag_has_it() {
    for text in XMP {
        let page = |tags: &[(u16, u16, Vec<u8>)]| {
            let xmp = (700, 1, text.as_bytes().to_vec());
            TiffPage { size: (3, 2), pixels: &RAMP, tags: [&[xmp], tags].concat() }
        };
        let turned = decoded("xmp.tif", &tiff(&[page(&[])]));
        assert_eq!((gray(&turned), turned.pixels.dimensions()), (vec![150, 0, 200, 50, 250, 100], (2, 3)));
        assert_eq!(turned.notes, [TURNED]);
        // The tag has precedence.
        let upright = decoded("tag.tif", &tiff(&[page(&[(274, 3, vec![1, 0])])]));
        assert_eq!((gray(&upright), upright.notes), (RAMP.to_vec(), vec![]));
    }
}

#[test]
fn of_a_tiff_the_first_full_page_is_read() {
    let page = |pixels: &'static [u8], kind: Option<(u16, u8)>| {
        let tags = kind.map(|(tag, kind)| (tag, 4, vec![kind, 0, 0, 0])).into_iter().collect();
        TiffPage { size: ((pixels.len() / 2) as u16, 2), pixels, tags }
    };
    const SMALL: [u8; 2] = [7, 8];
    let (new, old) = (254, 255);
    let small = |kind| page(&SMALL, Some(kind));
    let full = |kind: u8| page(&RAMP, Some((new, kind)));
    let chosen = |number: u8, pages: u8| {
        format!("TIFF with {pages} pages; only page {number} was used, the first that is not a thumbnail or a mask")
    };
    for (pages, note) in [
        (vec![small((new, 1)), full(0)], chosen(2, 2)),
        (vec![small((new, 4)), page(&RAMP, None)], chosen(2, 2)),
        (vec![small((old, 2)), page(&RAMP, None)], chosen(2, 2)),
        (vec![small((new, 1)), small((new, 5)), full(2), full(0)], chosen(3, 4)),
        (vec![full(2), small((new, 1))], "TIFF with 2 pages; only the first was used".to_owned()),
        (vec![full(1), small((new, 1))], "TIFF with 2 pages; only the first was used".to_owned()),
    ] {
        let decoded = decoded("pages.tif", &tiff(&pages));
        assert_eq!((gray(&decoded), decoded.notes), (RAMP.to_vec(), vec![note]));
    }
}

#[test]
fn slices_of_a_tiff_are_noted() {
    let pixels = [&RAMP[..], &[9; 6]].concat();
    let slices = tiff(&[TiffPage { size: (3, 2), pixels: &pixels, tags: vec![(32997, 3, vec![2, 0])] }]);
    let decoded = decoded("slices.tif", &slices);
    assert_eq!(gray(&decoded), RAMP);
    assert_eq!(decoded.notes, ["TIFF with 2 slices; only the first was used"]);
}

#[test]
fn png_compression_in_tiff_is_refused_by_name() {
    let page = TiffPage { size: (3, 2), pixels: &RAMP, tags: vec![(259, 3, 34933u16.to_le_bytes().to_vec())] };
    let said = message(decode("png.tif", &tiff(&[page])));
    assert_eq!(
        said,
        "invalid_image png.tif: it is a TIFF with PNG compression, which acetate does not read; save it as PNG, or as \
         an ordinary TIFF"
    );
}

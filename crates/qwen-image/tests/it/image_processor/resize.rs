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
        let hash = hex::encode(Sha256::digest(&resized));
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

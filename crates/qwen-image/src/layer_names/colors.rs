//! Which named color a layer has.

use ::image::RgbaImage;

/// The names, and what they mean in sRGB. Several may mean the same.
const COLORS: [(&str, [u8; 3]); 18] = [
    ("red", [219, 36, 36]),
    ("orange", [245, 133, 20]),
    ("yellow", [247, 222, 41]),
    ("green", [46, 163, 61]),
    ("cyan", [31, 194, 204]),
    ("blue", [36, 82, 214]),
    ("purple", [138, 51, 184]),
    ("pink", [247, 128, 184]),
    ("brown", [122, 74, 36]),
    ("white", [245, 245, 245]),
    ("gray", [140, 140, 140]),
    ("black", [23, 23, 23]),
    ("grey", [140, 140, 140]),
    ("violet", [138, 51, 184]),
    ("turquoise", [31, 194, 204]),
    ("golden", [247, 222, 41]),
    ("crimson", [219, 36, 36]),
    ("magenta", [247, 128, 184]),
];
/// Light and shade change a thing's lightness more than its color.
const LIGHTNESS: f32 = 0.6;
/// About so many pixels of a layer are looked at.
const PIXELS: usize = 4096;
/// More transparent pixels are shadows and edges.
const SOLID: u8 = 128;

/// A named color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Color([u8; 3]);

impl Color {
    pub fn named(word: &str) -> Option<Self> {
        COLORS.iter().find(|(name, _)| *name == word).map(|(_, rgb)| Self(*rgb))
    }
}

/// The share of a layer's solid pixels that are nearer to this color than to any other.
pub fn color_share(layer: &RgbaImage, color: Color) -> f32 {
    let known = COLORS.map(|(_, rgb)| (rgb, oklab(rgb)));
    let solid: Vec<[u8; 3]> =
        layer.pixels().filter(|pixel| pixel[3] >= SOLID).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let step = solid.len().div_ceil(PIXELS).max(1);
    let (mut fitting, mut all) = (0_u32, 0_u32);
    for rgb in solid.into_iter().step_by(step) {
        let own = oklab(rgb);
        let far = |other: [f32; 3]| {
            (LIGHTNESS * (own[0] - other[0])).powi(2) + (own[1] - other[1]).powi(2) + (own[2] - other[2]).powi(2)
        };
        let nearest = known.iter().min_by(|one, other| far(one.1).total_cmp(&far(other.1)));
        fitting += u32::from(nearest.is_some_and(|(rgb, _)| *rgb == color.0));
        all += 1;
    }
    fitting as f32 / all.max(1) as f32
}

/// Lightness and two opponent colors, in which equal distances look alike (B. Ottosson, "A perceptual color space for
/// image processing", 2020).
fn oklab(rgb: [u8; 3]) -> [f32; 3] {
    let [r, g, b] = rgb.map(|value| {
        let value = f32::from(value) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    });
    let l = (0.412_221_46 * r + 0.536_332_55 * g + 0.051_445_995 * b).cbrt();
    let m = (0.211_903_5 * r + 0.680_699_5 * g + 0.107_396_96 * b).cbrt();
    let s = (0.088_302_46 * r + 0.281_718_85 * g + 0.629_978_7 * b).cbrt();
    [
        0.210_454_26 * l + 0.793_617_8 * m - 0.004_072_047 * s,
        1.977_998_5 * l - 2.428_592_2 * m + 0.450_593_7 * s,
        0.025_904_037 * l + 0.782_771_77 * m - 0.808_675_77 * s,
    ]
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;

    #[test]
    fn a_color_keeps_its_name_in_light_and_shade() {
        for (name, rgb) in &COLORS[..12] {
            for light in [85_u32, 100, 112] {
                let [r, g, b] = rgb.map(|value| (u32::from(value) * light / 100).min(255) as u8);
                let layer = RgbaImage::from_pixel(8, 8, Rgba([r, g, b, 255]));
                assert!(color_share(&layer, Color(*rgb)) > 0.5, "{name} at {light} %");
            }
        }
        assert_eq!(color_share(&RgbaImage::new(4, 4), Color([219, 36, 36])), 0.0);
        let [l, a, b] = oklab([255, 255, 255]);
        assert!((l - 1.0).abs() < 1e-4 && a.abs() < 1e-4 && b.abs() < 1e-4, "{l} {a} {b}");
    }
}

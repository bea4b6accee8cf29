//! Names for layers, from the words of a caption: "A red star above a blue house on a striped background" names the
//! layer that is red and a star.
//!
//! Only short captions are read, of things with a color each. A layer gets a name only if one thing clearly fits it
//! better than all others, and it clearly fits that thing best: no name is better than a wrong one.

mod colors;
mod shapes;
mod words;

use ::image::{RgbImage, RgbaImage, imageops};

pub use self::words::name_from_answer;
use self::{colors::color_share, shapes::likeness, words::DescribedObject};
use crate::image_processor::on_white;

/// Layers with less area than this show nothing.
const LEAST_AREA: f64 = 1e-3;
/// A background covers at least this share of the picture.
const BACKGROUND_AREA: f64 = 0.5;
/// The least share of a layer that has the thing's color.
const LEAST_SHARE: f32 = 0.3;
/// The least likeness to its shape. A disk and a square are alike by 0.8, a disk and a star by 0.5.
const LEAST_LIKENESS: f32 = 0.65;
/// How well a thing must fit, from 0 to 1: that share times the cube of the likeness, which tells a disk from a square.
const LEAST_FIT: f32 = 0.2;
/// More transparent pixels are traces that models leave everywhere.
const VISIBLE: u8 = 26;
/// How many times longer than wide a crop may be.
const MOST_ELONGATED: u32 = 20;
/// What a shape without a template counts as.
const UNKNOWN_SHAPE: f32 = 0.6;
/// The second best fits at most this share as well.
const SECOND: f32 = 0.7;

/// A name for each layer, back to front, or none where the caption does not clearly say it. Names are a few words that
/// begin with a capital: "Red star", "Background".
pub fn names_from_caption(caption: &str, layers: &[RgbaImage]) -> Vec<Option<String>> {
    let mut names = vec![None; layers.len()];
    let things = words::things(caption);
    let (backgrounds, things): (Vec<DescribedObject>, Vec<DescribedObject>) =
        things.into_iter().partition(|thing| thing.is_background);
    let has_background = layers.first().is_some_and(|layer| area(layer) >= BACKGROUND_AREA);
    if has_background && !backgrounds.is_empty() {
        names[0] = Some("Background".to_owned());
    }
    let first = usize::from(has_background);
    let fits: Vec<Vec<f32>> = layers
        .iter()
        .skip(first)
        .map(|layer| {
            things.iter().map(|thing| if area(layer) < LEAST_AREA { 0.0 } else { fit(layer, thing) }).collect()
        })
        .collect();
    for (index, of_layer) in fits.iter().enumerate() {
        for (thing, &fit) in of_layer.iter().enumerate().filter(|(_, fit)| **fit >= LEAST_FIT) {
            let others = of_layer.iter().enumerate().filter(|(other, _)| *other != thing).map(|(_, fit)| *fit);
            let elsewhere = fits.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, of)| of[thing]);
            if others.chain(elsewhere).all(|other| other <= SECOND * fit) {
                names[first + index] = Some(things[thing].name.clone());
            }
        }
    }
    names
}

/// The visible part of a layer on white, with a margin, to ask what it is; none if it shows nothing.
pub fn crop_to_ask_about(layer: &RgbaImage) -> Option<RgbImage> {
    if area(layer) < LEAST_AREA {
        return None;
    }
    let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
    for (x, y, _) in layer.enumerate_pixels().filter(|(_, _, pixel)| pixel[3] >= VISIBLE) {
        (left, top) = (left.min(x), top.min(y));
        (right, bottom) = (right.max(x + 1), bottom.max(y + 1));
    }
    if right == 0 {
        return None;
    }
    let margin = ((right - left).max(bottom - top) / 10).max(1);
    // A sliver would be more elongated than the text encoder reads.
    let least = (right - left).max(bottom - top) / MOST_ELONGATED;
    let widened = |start: u32, end: u32, whole: u32| {
        let by = margin.max(least.saturating_sub(end - start).div_ceil(2));
        (start.saturating_sub(by), (end + by).min(whole))
    };
    let ((left, right), (top, bottom)) = (widened(left, right, layer.width()), widened(top, bottom, layer.height()));
    Some(on_white(&imageops::crop_imm(layer, left, top, right - left, bottom - top).to_image()))
}

fn fit(layer: &RgbaImage, thing: &DescribedObject) -> f32 {
    let Some(color) = thing.color else { return 0.0 };
    let share = color_share(layer, color);
    if share < LEAST_SHARE {
        return 0.0;
    }
    share
        * thing.shape.map_or(UNKNOWN_SHAPE, |shape| match likeness(layer, shape) {
            likeness if likeness < LEAST_LIKENESS => 0.0,
            likeness => likeness.powi(3),
        })
}

/// The mean of the alpha, from 0 to 1.
fn area(layer: &RgbaImage) -> f64 {
    let sum: u64 = layer.pixels().map(|pixel| u64::from(pixel[3])).sum();
    sum as f64 / (255.0 * (layer.len() / 4).max(1) as f64)
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;

    fn disk((x, y): (f64, f64), radius: f64, [r, g, b]: [u8; 3]) -> RgbaImage {
        RgbaImage::from_fn(128, 128, |column, row| {
            let far = (f64::from(column) - x).hypot(f64::from(row) - y);
            Rgba([r, g, b, ((radius - far + 0.5).clamp(0.0, 1.0) * 255.0) as u8])
        })
    }

    fn square((x, y): (u32, u32), side: u32, [r, g, b]: [u8; 3]) -> RgbaImage {
        RgbaImage::from_fn(128, 128, |column, row| {
            let inside = (x..x + side).contains(&column) && (y..y + side).contains(&row);
            Rgba([r, g, b, if inside { 255 } else { 0 }])
        })
    }

    fn names(caption: &str, layers: &[RgbaImage]) -> Vec<String> {
        names_from_caption(caption, layers).into_iter().map(Option::unwrap_or_default).collect()
    }

    #[test]
    fn layers_get_the_words_that_fit_their_color_and_shape() {
        let ground = RgbaImage::from_pixel(128, 128, Rgba([40, 160, 60, 255]));
        let (red, blue) = (disk((40.0, 30.0), 20.0, [210, 40, 40]), square((60, 70), 40, [40, 80, 210]));
        let nothing = RgbaImage::new(128, 128);
        let caption = "A red circle above a blue square on a striped green background.";
        let layers = [ground, red, blue, nothing];
        assert_eq!(names(caption, &layers), ["Background", "Red circle", "Blue square", ""]);
        let [ground, red, blue, nothing] = layers;
        let order = [ground.clone(), blue, nothing, red];
        assert_eq!(names(caption, &order), ["Background", "Blue square", "", "Red circle"]);
        // Of one color, the shape decides.
        let twins = [ground, disk((40.0, 30.0), 20.0, [210, 40, 40]), square((60, 70), 40, [210, 40, 40])];
        let caption = "A red square and a red circle on a green background";
        assert_eq!(names(caption, &twins), ["Background", "Red circle", "Red square"]);
    }

    #[test]
    fn what_is_not_clear_gets_no_name() {
        let (red, blue) = (disk((40.0, 30.0), 20.0, [210, 40, 40]), disk((80.0, 90.0), 20.0, [40, 80, 210]));
        for caption in [
            "A yellow circle and a pink circle.",
            "A circle above a circle.",
            "A red star above a blue triangle.",
            "",
            "The photograph shows, in warm evening light, a woman in a red dress who leans on the railing of a blue boat \
             and looks over the harbor, where several fishermen are mending their nets.",
            "A red circle. There is also a blue circle behind it, which is partly hidden.",
        ] {
            assert_eq!(names(caption, &[red.clone(), blue.clone()]), ["", ""], "{caption}");
        }
        // Two layers of one thing.
        assert_eq!(names("A red circle and a blue circle", &[red.clone(), red.clone(), blue]), ["", "", "Blue circle"]);
        assert_eq!(names("A red circle", &[]), Vec::<String>::new());
        assert_eq!(names("A red boat and a green tree", &[red]), ["Red boat"]);
    }
}

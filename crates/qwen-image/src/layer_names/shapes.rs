//! How much a layer looks like a named shape.

use std::f32::consts::{FRAC_1_SQRT_2, PI, TAU};

use ::image::RgbaImage;

/// Shapes are compared on a grid of so many cells a side.
const GRID: usize = 32;
/// Templates are drawn on a canvas of so many dots a side, from -1.3 to 1.3.
const DOTS: usize = 104;
const REACH: f32 = 1.3;
/// How far templates are turned, in radians.
const TURNS: [f32; 5] = [0.0, -0.2, 0.2, -0.4, 0.4];
/// More transparent pixels are shadows.
const SOLID: u8 = 153;

/// A shape with a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Ring,
    Heart,
    House,
    Tree,
    Cloud,
    Sun,
}

type ShapeBitmap = [bool; GRID * GRID];

impl Shape {
    pub fn named(word: &str) -> Option<Self> {
        Some(match word {
            "circle" | "disk" | "disc" => Self::Circle,
            "square" => Self::Square,
            "triangle" => Self::Triangle,
            "star" => Self::Star,
            "ring" => Self::Ring,
            "heart" => Self::Heart,
            "house" => Self::House,
            "tree" => Self::Tree,
            "cloud" => Self::Cloud,
            "sun" => Self::Sun,
            _ => return None,
        })
    }

    /// Whether a point is inside; the shape is about 1 large in each direction, y points down.
    fn has(self, x: f32, y: f32) -> bool {
        let disk = |cx: f32, cy: f32, radius: f32| (x - cx).hypot(y - cy) <= radius;
        let mirrored = |cx: f32, cy: f32, radius: f32| (x.abs() - cx).hypot(y - cy) <= radius;
        let rectangle = |cy: f32, width: f32, height: f32| x.abs() <= width && (y - cy).abs() <= height;
        let far = x.hypot(y);
        match self {
            Self::Circle => far <= 0.92,
            Self::Square => rectangle(0.0, 0.78, 0.78),
            Self::Triangle => x.abs() * (PI / 6.0).cos() - y * 0.5 <= 0.52 && y <= 0.52,
            Self::Star => {
                let sector = TAU / 5.0;
                let turn = ((x.atan2(-y) + sector / 2.0).rem_euclid(sector) - sector / 2.0).abs();
                (far * turn.cos() - 1.05) * 0.384 + far * turn.sin() * 0.923 <= 0.0
            }
            Self::Ring => (far - 0.7).abs() <= 0.25,
            Self::Heart => {
                let half = 0.55;
                let y = y - 0.08;
                let (along, across) = ((x + y) * FRAC_1_SQRT_2, (y - x) * FRAC_1_SQRT_2);
                let lobe = half * FRAC_1_SQRT_2;
                (along.abs() <= half && across.abs() <= half) || (x.abs() - lobe).hypot(y + lobe) <= half
            }
            Self::House => {
                let roof = y <= -0.15 && x.abs() * 0.75 <= (y + 0.9) * 0.95;
                roof || rectangle(0.3, 0.68, 0.5)
            }
            Self::Tree => disk(0.0, -0.38, 0.55) || mirrored(0.38, 0.08, 0.42) || rectangle(0.65, 0.15, 0.32),
            Self::Cloud => disk(0.0, -0.12, 0.48) || mirrored(0.55, 0.16, 0.36) || rectangle(0.3, 0.55, 0.22),
            Self::Sun => {
                let sector = PI / 4.0;
                let turn = (y.atan2(x) + sector / 2.0).rem_euclid(sector) - sector / 2.0;
                far <= 0.58 || ((far * turn.cos() - 0.86).abs() <= 0.14 && (far * turn.sin()).abs() <= 0.09)
            }
        }
    }

    fn template(self, turn: f32) -> Option<ShapeBitmap> {
        let (sin, cos) = turn.sin_cos();
        let at = |dot: usize| (dot as f32 + 0.5) / DOTS as f32 * 2.0 * REACH - REACH;
        fitted(DOTS, DOTS, |column, row| {
            let (x, y) = (at(column), at(row));
            self.has(x * cos + y * sin, y * cos - x * sin)
        })
    }
}

/// The area that a layer and the shape share, as a part of that of both, from 0 to 1, at the best of a few turns. Both
/// are scaled to one box, so that size and place do not matter.
pub fn likeness(layer: &RgbaImage, shape: Shape) -> f32 {
    let (width, height) = layer.dimensions();
    let own = fitted(width as usize, height as usize, |x, y| layer.as_raw()[4 * (y * width as usize + x) + 3] >= SOLID);
    let Some(own) = own else { return 0.0 };
    let both = |template: ShapeBitmap| {
        let pairs = || own.iter().zip(&template);
        let shared = pairs().filter(|(own, template)| **own && **template).count();
        shared as f32 / pairs().filter(|(own, template)| **own || **template).count().max(1) as f32
    };
    TURNS.iter().filter_map(|turn| shape.template(*turn)).map(both).fold(0.0, f32::max)
}

/// What is inside, scaled to the grid; none if nothing is.
fn fitted(width: usize, height: usize, is_inside: impl Fn(usize, usize) -> bool) -> Option<ShapeBitmap> {
    let (mut left, mut top, mut right, mut bottom) = (usize::MAX, usize::MAX, 0, 0);
    for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).filter(|(x, y)| is_inside(*x, *y)) {
        (left, top) = (left.min(x), top.min(y));
        (right, bottom) = (right.max(x + 1), bottom.max(y + 1));
    }
    if right == 0 {
        return None;
    }
    let at = |cell: usize, start: usize, end: usize| start + (2 * cell + 1) * (end - start) / (2 * GRID);
    Some(std::array::from_fn(|index| is_inside(at(index % GRID, left, right), at(index / GRID, top, bottom))))
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;

    const ALL: [Shape; 10] = [
        Shape::Circle,
        Shape::Square,
        Shape::Triangle,
        Shape::Star,
        Shape::Ring,
        Shape::Heart,
        Shape::House,
        Shape::Tree,
        Shape::Cloud,
        Shape::Sun,
    ];

    #[test]
    fn a_shape_looks_most_like_itself() {
        for shape in ALL {
            let layer = RgbaImage::from_fn(90, 70, |column, row| {
                let (x, y) = ((column as f32 - 50.0) / 22.0, (row as f32 - 32.0) / 22.0);
                Rgba([0, 0, 0, if shape.has(x, y) { 255 } else { 60 }])
            });
            let own = likeness(&layer, shape);
            assert!(own > 0.75, "{shape:?}: {own}");
            let other = ALL.into_iter().filter(|other| *other != shape).map(|other| likeness(&layer, other));
            let best = other.fold(0.0, f32::max);
            assert!(best < own - 0.05, "{shape:?}: {own}, and {best} for another");
        }
        assert_eq!(likeness(&RgbaImage::new(9, 9), Shape::Star), 0.0);
    }
}

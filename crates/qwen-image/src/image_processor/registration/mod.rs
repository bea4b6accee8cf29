//! Finds out how an edited picture has moved against its source, and moves it back.
//!
//! Edit models zoom and shift what they were not asked to change by some pixels. [`Drift::of`] measures that by phase
//! correlation and an affine fit over several sizes, in which pixels that changed are ignored; [`Drift::undo`]
//! resamples the picture once.

mod affine;
mod fit;
mod phase;
mod plane;
mod warp;

use std::ops::Range;

use ::image::RgbImage;

use self::{affine::Affine, fit::Pair};
pub(super) use plane::Plane;

/// Details of about so many pixels and less are compared, so that another light or color does not matter.
const DETAIL: usize = 6;
/// Pictures are halved while their shorter side is at least this.
const HALVED: usize = 96;
/// The longer side of the pictures for phase correlation, at most.
const CORRELATED: usize = 256;
/// The picture is compared in so many by so many tiles.
const TILES: usize = 8;
/// A tile has texture from this standard deviation, in levels.
const TEXTURE: f64 = 2.0;
/// It agrees from this correlation.
const AGREES: f64 = 0.7;
/// The least share of the tiles with texture that must agree, and their least number.
const LEAST_SHARE: f64 = 0.25;
const LEAST_TILES: usize = 4;
/// The most by which the maps of one half of the tiles and of the other may differ, in pixels at the corners.
const MOST_DOUBT: f64 = 0.5;
/// Moves of all corners below this, in pixels, stay: moving the picture would only blur it.
const UNNOTICED: f64 = 0.2;
/// A shift beyond this share of the shorter side, or a zoom, rotation or shear beyond this, is not drift.
const MOST_SHIFT: f64 = 0.03;
const MOST_ZOOM: f64 = 0.03;

/// How an edited picture moved against its source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    map: Affine,
    size: (u32, u32),
}

impl Drift {
    /// Compares two pictures of one size. None if too little of them agrees to tell, or their sizes differ.
    pub fn of(source: &RgbImage, edited: &RgbImage) -> Option<Self> {
        if source.dimensions() != edited.dimensions() || source.width().min(source.height()) < 16 {
            return None;
        }
        let mut planes = vec![(Plane::luma(source), Plane::luma(edited))];
        while let Some((fixed, moved)) = planes.last()
            && fixed.width.min(fixed.height) >= HALVED
        {
            let next = (fixed.half(), moved.half());
            planes.push(next);
        }
        let details = |(fixed, moved): &(Plane, Plane)| Pair::new(fixed.details(DETAIL), moved.details(DETAIL));
        let mut pairs: Vec<_> = planes.iter().map(details).collect();
        let mut map = guess(&pairs);
        for (index, pair) in pairs.iter().enumerate().rev() {
            map = pair.improve(map).unwrap_or(map);
            map = map.scaled(if index == 0 { 1.0 } else { 2.0 });
        }
        let alike = MatchingTiles::under(&pairs[0], &map);
        if !alike.is_enough() {
            return None;
        }
        // Once more without what changed.
        for tile in alike.tiles_with_changes {
            let (columns, rows) = tile_of(tile, &pairs[0]);
            pairs[0].ignore(columns, rows);
        }
        let map = pairs[0].improve(map)?;
        (doubt(&pairs[0], &map)? <= MOST_DOUBT).then_some(Self { map, size: source.dimensions() })
    }

    /// How far the edited picture moved at its center, right and down, in pixels of the picture's other size.
    pub fn shift(&self, (width, height): (u32, u32)) -> [f64; 2] {
        let [x, y] = self.map.shift;
        [x * f64::from(width) / f64::from(self.size.0), y * f64::from(height) / f64::from(self.size.1)]
    }

    /// How many times larger the edited picture became.
    pub fn zoom(&self) -> f64 {
        self.map.zoom()
    }

    /// Whether it is too little to be seen.
    pub fn is_unnoticed(&self) -> bool {
        self.map.largest_move(self.size.0 as usize, self.size.1 as usize) < UNNOTICED
    }

    /// Whether it is small enough to be an accident: at most 3 % of the shorter side, and 3 % of zoom.
    pub fn is_accident(&self) -> bool {
        let most = MOST_SHIFT * f64::from(self.size.0.min(self.size.1));
        let [[a, b], [c, d]] = self.map.matrix;
        self.map.shift.iter().all(|shift| shift.abs() <= most)
            && [a - 1.0, b, c, d - 1.0].iter().all(|change| change.abs() <= MOST_ZOOM)
    }

    /// The edited picture at its source's place. What moved in from outside is the picture mirrored at its edge.
    pub fn undo(&self, edited: &RgbImage) -> RgbImage {
        warp::warped(edited, &self.map)
    }
}

/// A first map for the smallest pair: none, or the shift that phase correlation finds.
fn guess(pairs: &[Pair]) -> Affine {
    let last = pairs.len() - 1;
    let index = pairs.iter().position(|pair| pair.fixed.width.max(pair.fixed.height) <= CORRELATED).unwrap_or(last);
    let shift = phase::shift(&pairs[index].fixed, &pairs[index].moved);
    let shifted = Affine::of_shift(shift).scaled(0.5_f64.powi((last - index) as i32));
    let better = pairs[last].misfit(&shifted) < pairs[last].misfit(&Affine::IDENTITY);
    if better { shifted } else { Affine::IDENTITY }
}

/// How much the maps differ that fit the two halves of the tiles, as on a checkerboard, in pixels at the corners.
fn doubt(pair: &Pair, map: &Affine) -> Option<f64> {
    let of_half = |half: usize| {
        let mut pair = pair.clone();
        for tile in (0..TILES * TILES).filter(|tile| (tile % TILES + tile / TILES) % 2 == half) {
            let (columns, rows) = tile_of(tile, &pair);
            pair.ignore(columns, rows);
        }
        pair.improve(*map)
    };
    let (one, other) = (of_half(0)?, of_half(1)?);
    Some(one.inverse()?.after(&other).largest_move(pair.fixed.width, pair.fixed.height))
}

/// Which tiles look alike under a map.
struct MatchingTiles {
    with_texture: usize,
    tiles_with_changes: Vec<usize>,
}

impl MatchingTiles {
    fn under(pair: &Pair, map: &Affine) -> Self {
        let correlations = (0..TILES * TILES).map(|tile| (tile, correlation(pair, map, tile)));
        let with_texture: Vec<_> = correlations.filter_map(|(tile, found)| Some((tile, found?))).collect();
        let changed = with_texture.iter().filter(|(_, correlation)| *correlation < AGREES).map(|(tile, _)| *tile);
        Self { with_texture: with_texture.len(), tiles_with_changes: changed.collect() }
    }

    fn is_enough(&self) -> bool {
        let alike = self.with_texture - self.tiles_with_changes.len();
        alike >= LEAST_TILES && alike as f64 >= LEAST_SHARE * self.with_texture as f64
    }
}

/// The columns and rows of a tile.
fn tile_of(tile: usize, pair: &Pair) -> (Range<usize>, Range<usize>) {
    let span = |index: usize, length: usize| index * length / TILES..(index + 1) * length / TILES;
    (span(tile % TILES, pair.fixed.width), span(tile / TILES, pair.fixed.height))
}

/// The correlation of both pictures in a tile, if it has texture.
fn correlation(pair: &Pair, map: &Affine, tile: usize) -> Option<f64> {
    let (columns, rows) = tile_of(tile, pair);
    let mut sums = [0.0_f64; 6];
    for y in rows {
        for x in columns.clone() {
            let Some(moved) = pair.counterpart(map, x, y) else { continue };
            let (fixed, moved) = (f64::from(pair.fixed.at(x, y)), f64::from(moved));
            let terms = [1.0, fixed, moved, fixed * fixed, moved * moved, fixed * moved];
            sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        }
    }
    let [count, fixed, moved, fixed_2, moved_2, both] = sums;
    if count < 16.0 {
        return None;
    }
    let spread = |sum: f64, squares: f64| (squares / count - (sum / count).powi(2)).max(0.0).sqrt();
    let (of_fixed, of_moved) = (spread(fixed, fixed_2), spread(moved, moved_2));
    let together = both / count - fixed / count * (moved / count);
    (of_fixed >= TEXTURE).then(|| together / (of_fixed * of_moved.max(1e-9)))
}

#[cfg(test)]
mod tests;

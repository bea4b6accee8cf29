//! An affine map between two pictures, fitted to what did not change.

use std::ops::Range;

use rayon::prelude::*;

use super::{affine::Affine, plane::Plane};

/// The most iterations at one size, and the largest move of a corner, in pixels, that ends them before.
const ITERATIONS: usize = 20;
const CONVERGED: f64 = 0.003;
/// The smallest gradient that counts, in levels per pixel. Flat places say nothing about where they are.
const GRADIENT: f32 = 1.0;
/// So many pixels are looked at for the scale of the differences.
const SAMPLES: usize = 20_000;
/// The share of the pixels of which it is assumed that they did not change.
const UNCHANGED: f64 = 0.3;
/// The half-normal distribution's value at that share, in standard deviations.
const AT_UNCHANGED: f32 = 0.385;
/// Differences beyond so many standard deviations count less and less; in levels, it is at least `LEAST_SCALE`.
const OUTLIER: f32 = 2.5;
const LEAST_SCALE: f32 = 1.5;
const UNKNOWNS: usize = 6;

type Square = [[f64; UNKNOWNS]; UNKNOWNS];

/// Two pictures of one size, and the gradient of the first.
#[derive(Clone)]
pub struct Pair {
    pub fixed: Plane,
    pub moved: Plane,
    across: Plane,
    down: Plane,
}

impl Pair {
    pub fn new(fixed: Plane, moved: Plane) -> Self {
        let (width, height) = (fixed.width, fixed.height);
        let slope = |x: usize, y: usize, to_x: usize, to_y: usize| (fixed.at(to_x, to_y) - fixed.at(x, y)) / 2.0;
        let inside = |at: usize, length: usize| at > 0 && at + 1 < length;
        let across =
            Plane::from_fn(width, height, |x, y| if inside(x, width) { slope(x - 1, y, x + 1, y) } else { 0.0 });
        let down =
            Plane::from_fn(width, height, |x, y| if inside(y, height) { slope(x, y - 1, x, y + 1) } else { 0.0 });
        Self { fixed, moved, across, down }
    }

    fn center(&self) -> [f64; 2] {
        [(self.fixed.width as f64 - 1.0) / 2.0, (self.fixed.height as f64 - 1.0) / 2.0]
    }

    /// The pixel of the moved picture that belongs to a pixel of the fixed one.
    pub fn counterpart(&self, map: &Affine, x: usize, y: usize) -> Option<f32> {
        let center = self.center();
        let [to_x, to_y] = map.apply([x as f64 - center[0], y as f64 - center[1]]);
        self.moved.between(to_x + center[0], to_y + center[1])
    }

    /// Leaves the pixels of a rectangle out of the fit.
    pub fn ignore(&mut self, columns: Range<usize>, rows: Range<usize>) {
        for row in rows {
            for column in columns.clone() {
                let index = row * self.fixed.width + column;
                (self.across.values[index], self.down.values[index]) = (0.0, 0.0);
            }
        }
    }

    fn has_texture(&self, index: usize) -> bool {
        self.across.values[index].abs().max(self.down.values[index].abs()) >= GRADIENT
    }

    fn difference(&self, map: &Affine, index: usize) -> Option<f32> {
        let (x, y) = (index % self.fixed.width, index / self.fixed.width);
        Some(self.counterpart(map, x, y)? - self.fixed.values[index])
    }

    /// The absolute differences of some pixels with texture, evenly spread.
    fn sample(&self, map: &Affine) -> Vec<f32> {
        let stride = self.fixed.values.len().div_ceil(SAMPLES).max(1);
        let indices = (0..self.fixed.values.len()).step_by(stride).filter(|index| self.has_texture(*index));
        indices.filter_map(|index| self.difference(map, index)).map(f32::abs).collect()
    }

    /// How badly a map fits, from 0 to 1: large differences count alike, so that what changed does not decide.
    pub fn misfit(&self, map: &Affine) -> f64 {
        let sample = self.sample(map);
        let cost = |difference: &f32| f64::from(difference * difference / (difference * difference + 36.0));
        if sample.is_empty() { 1.0 } else { sample.iter().map(cost).sum::<f64>() / sample.len() as f64 }
    }

    /// Improves a map until it fits best. None if the pictures do not determine one.
    ///
    /// S. Baker and I. Matthews, "Lucas-Kanade 20 Years On" (2004): inverse compositional Gauss-Newton steps, the
    /// pixels weighted anew in each (Geman and McClure), so that those that changed are ignored.
    pub fn improve(&self, mut map: Affine) -> Option<Affine> {
        let (width, height) = (self.fixed.width, self.fixed.height);
        for _ in 0..ITERATIONS {
            let mut sample = self.sample(&map);
            if sample.len() < 4 * UNKNOWNS {
                return None;
            }
            let at = (sample.len() as f64 * UNCHANGED) as usize;
            let scale = *sample.select_nth_unstable_by(at, f32::total_cmp).1;
            let scale = (OUTLIER * scale / AT_UNCHANGED).max(LEAST_SCALE);
            let step = self.step(&map, scale)?.inverse()?;
            map = map.after(&step);
            if step.largest_move(width, height) < CONVERGED {
                break;
            }
        }
        Some(map)
    }

    /// One Gauss-Newton step, of the fixed picture's map.
    fn step(&self, map: &Affine, scale: f32) -> Option<Affine> {
        let (width, height) = (self.fixed.width, self.fixed.height);
        let ([center_x, center_y], radius) = (self.center(), width.max(height) as f64 / 2.0);
        let row = |y: usize| {
            let (mut normal, mut right) = (Square::default(), [0.0; UNKNOWNS]);
            for x in 0..width {
                let index = y * width + x;
                if !self.has_texture(index) {
                    continue;
                }
                let Some(difference) = self.difference(map, index) else { continue };
                let weight = f64::from((1.0 + (difference / scale).powi(2)).powi(-2));
                let (u, v) = ((x as f64 - center_x) / radius, (y as f64 - center_y) / radius);
                let (gx, gy) = (f64::from(self.across.values[index]), f64::from(self.down.values[index]));
                let slopes = [gx, gx * u, gx * v, gy, gy * u, gy * v];
                for i in 0..UNKNOWNS {
                    right[i] += weight * slopes[i] * f64::from(difference);
                    for j in i..UNKNOWNS {
                        normal[i][j] += weight * slopes[i] * slopes[j];
                    }
                }
            }
            (normal, right)
        };
        let add = |mut a: (Square, [f64; UNKNOWNS]), b: (Square, [f64; UNKNOWNS])| {
            for i in 0..UNKNOWNS {
                a.1[i] += b.1[i];
                (0..UNKNOWNS).for_each(|j| a.0[i][j] += b.0[i][j]);
            }
            a
        };
        let (upper, right) = (0..height).into_par_iter().map(row).reduce(Default::default, add);
        // The diagonal damps what the pictures say nothing about.
        let entry = |i: usize, j: usize| upper[i.min(j)][i.max(j)] * if i == j { 1.0 + 1e-4 } else { 1.0 };
        let normal = std::array::from_fn(|i| std::array::from_fn(|j| entry(i, j)));
        let [x, xu, xv, y, yu, yv] = solve(normal, right)?;
        Some(Affine { matrix: [[1.0 + xu / radius, xv / radius], [yu / radius, 1.0 + yv / radius]], shift: [x, y] })
    }
}

/// Gauss elimination; None if the equations do not determine all unknowns.
fn solve(mut matrix: Square, mut right: [f64; UNKNOWNS]) -> Option<[f64; UNKNOWNS]> {
    let largest = (0..UNKNOWNS).map(|i| matrix[i][i]).fold(0.0, f64::max);
    for column in 0..UNKNOWNS {
        let pivot = (column..UNKNOWNS).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))?;
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        if matrix[column][column].abs() <= 1e-9 * largest || largest == 0.0 {
            return None;
        }
        let (pivot, known) = (matrix[column], right[column]);
        for row in column + 1..UNKNOWNS {
            let factor = matrix[row][column] / pivot[column];
            matrix[row].iter_mut().zip(pivot).for_each(|(value, pivot)| *value -= factor * pivot);
            right[row] -= factor * known;
        }
    }
    let mut found = [0.0; UNKNOWNS];
    for row in (0..UNKNOWNS).rev() {
        let known: f64 = (row + 1..UNKNOWNS).map(|k| matrix[row][k] * found[k]).sum();
        found[row] = (right[row] - known) / matrix[row][row];
    }
    Some(found)
}

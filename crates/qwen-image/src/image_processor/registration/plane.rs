//! Pictures of one channel in float32.

use ::image::RgbImage;
use rayon::prelude::*;

/// Rows from top to bottom; values from 0 to 255, or around 0.
#[derive(Debug, Clone)]
pub struct Plane {
    pub width: usize,
    pub height: usize,
    pub values: Vec<f32>,
}

impl Plane {
    pub fn from_fn(width: usize, height: usize, value: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let values = (0..width * height).into_par_iter().map(|index| value(index % width, index / width)).collect();
        Self { width, height, values }
    }

    /// The brightness of a picture (Rec. 601).
    pub fn luma(picture: &RgbImage) -> Self {
        let luma = |pixel: &[u8]| {
            let [red, green, blue] = [0, 1, 2].map(|channel| f32::from(pixel[channel]));
            0.299 * red + 0.587 * green + 0.114 * blue
        };
        let values = picture.as_raw().par_chunks_exact(3).map(luma).collect();
        Self { width: picture.width() as usize, height: picture.height() as usize, values }
    }

    pub fn at(&self, x: usize, y: usize) -> f32 {
        self.values[y * self.width + x]
    }

    /// Half the size; an odd last row or column is left out.
    pub fn half(&self) -> Self {
        let sum = |x: usize, y: usize| self.at(x, y) + self.at(x + 1, y) + self.at(x, y + 1) + self.at(x + 1, y + 1);
        Self::from_fn(self.width / 2, self.height / 2, |x, y| sum(2 * x, 2 * y) / 4.0)
    }

    /// The mean over the square of `2 radius + 1` pixels around each pixel, twice; at the edges over what is inside.
    pub fn blurred(&self, radius: usize) -> Self {
        let twice = |plane: Self| plane.mean_of_rows(radius).mean_of_rows(radius).transposed();
        twice(twice(self.clone()))
    }

    /// What is finer than about `radius` pixels.
    pub fn details(&self, radius: usize) -> Self {
        let mut fine = self.clone();
        fine.values.iter_mut().zip(self.blurred(radius).values).for_each(|(value, coarse)| *value -= coarse);
        fine
    }

    fn mean_of_rows(mut self, radius: usize) -> Self {
        let width = self.width;
        self.values.par_chunks_exact_mut(width).for_each(|row| {
            let mut sums = vec![0.0_f64; width + 1];
            for (x, value) in row.iter().enumerate() {
                sums[x + 1] = sums[x] + f64::from(*value);
            }
            for (x, value) in row.iter_mut().enumerate() {
                let (from, to) = (x.saturating_sub(radius), (x + radius + 1).min(width));
                *value = ((sums[to] - sums[from]) / (to - from) as f64) as f32;
            }
        });
        self
    }

    fn transposed(&self) -> Self {
        Self::from_fn(self.height, self.width, |x, y| self.at(y, x))
    }

    /// The value between pixels by Keys' cubic convolution; None within two pixels of the edge and outside.
    pub fn between(&self, x: f64, y: f64) -> Option<f32> {
        let (left, top) = (x.floor(), y.floor());
        if !(left >= 1.0 && top >= 1.0 && left + 2.0 < self.width as f64 && top + 2.0 < self.height as f64) {
            return None;
        }
        let (across, down) = (cubic((x - left) as f32), cubic((y - top) as f32));
        let start = (top as usize - 1) * self.width + left as usize - 1;
        let row = |index: usize| {
            let values = &self.values[start + index * self.width..][..4];
            values.iter().zip(across).map(|(value, weight)| value * weight).sum::<f32>()
        };
        Some((0..4).map(|index| row(index) * down[index]).sum())
    }
}

/// The weights of the four pixels around a place, `at` from the second one (a = -1/2).
fn cubic(at: f32) -> [f32; 4] {
    let (square, cube) = (at * at, at * at * at);
    [
        -0.5 * cube + square - 0.5 * at,
        1.5 * cube - 2.5 * square + 1.0,
        -1.5 * cube + 2.0 * square + 0.5 * at,
        0.5 * cube - 0.5 * square,
    ]
}

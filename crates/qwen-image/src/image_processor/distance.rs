//! Distances to a set of pixels.

use rayon::prelude::*;

/// For each pixel of a picture, the distance in pixels to the nearest one in the set; infinite if the set is empty.
///
/// Exact, by P. Felzenszwalb and D. Huttenlocher, "Distance Transforms of Sampled Functions" (2012): along the rows
/// first, then down the columns as the lower envelope of parabolas.
pub fn distances(width: usize, height: usize, is_in_set: impl Fn(usize) -> bool + Sync) -> Vec<f32> {
    if width == 0 || height == 0 {
        return Vec::new();
    }
    let mut along = vec![f32::INFINITY; width * height];
    along.par_chunks_exact_mut(width).enumerate().for_each(|(row, values)| {
        let mut pass = |columns: &mut dyn Iterator<Item = usize>| {
            let mut last = f32::INFINITY;
            for column in columns {
                last = if is_in_set(row * width + column) { 0.0 } else { last + 1.0 };
                values[column] = values[column].min(last);
            }
        };
        pass(&mut (0..width));
        pass(&mut (0..width).rev());
    });
    let columns: Vec<Vec<f32>> = (0..width).into_par_iter().map(|column| down(&along, width, height, column)).collect();
    along.par_chunks_exact_mut(width).enumerate().for_each(|(row, values)| {
        values.iter_mut().zip(&columns).for_each(|(value, column)| *value = column[row]);
    });
    along
}

/// The distances of one column.
fn down(along: &[f32], width: usize, height: usize, column: usize) -> Vec<f32> {
    // The parabolas of the envelope, by the row of their vertex, and where each begins.
    let mut vertices: Vec<(usize, f32)> = Vec::new();
    let mut starts: Vec<f64> = Vec::new();
    for row in 0..height {
        let level = along[row * width + column];
        if level.is_infinite() {
            continue;
        }
        let lift = |row: usize, level: f32| f64::from(level).powi(2) + (row * row) as f64;
        let mut start = f64::NEG_INFINITY;
        while let Some(&(vertex, height)) = vertices.last() {
            start = (lift(row, level) - lift(vertex, height)) / (2.0 * (row - vertex) as f64);
            if starts.last().is_none_or(|last| start > *last) {
                break;
            }
            vertices.pop();
            starts.pop();
            start = f64::NEG_INFINITY;
        }
        vertices.push((row, level));
        starts.push(start);
    }
    let mut at = 0;
    let distance = |row: usize| {
        while at + 1 < starts.len() && starts[at + 1] <= row as f64 {
            at += 1;
        }
        let Some(&(vertex, level)) = vertices.get(at) else { return f32::INFINITY };
        (row as f32 - vertex as f32).hypot(level)
    };
    (0..height).map(distance).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_a_search() {
        let (width, height) = (23, 17);
        let set = [(3, 4), (20, 1), (11, 16), (12, 16)];
        let found = distances(width, height, |index| set.contains(&(index % width, index / width)));
        for (index, found) in found.iter().enumerate() {
            let (x, y) = ((index % width) as f32, (index / width) as f32);
            let nearest =
                set.iter().map(|&(sx, sy)| (x - sx as f32).hypot(y - sy as f32)).fold(f32::INFINITY, f32::min);
            assert!((found - nearest).abs() < 1e-3, "{x} {y}: {found} instead of {nearest}");
        }
        assert!(distances(5, 5, |_| false).iter().all(|distance| distance.is_infinite()));
    }
}

//! Phase correlation: the shift between two pictures from their spectra.

use std::f64::consts::PI;

use super::plane::Plane;

/// How far `moved` is shifted against `fixed`, in pixels; both have one size. Only a first guess: it knows no zoom, and
/// finds whatever moves most.
///
/// C. D. Kuglin and D. C. Hines, "The phase correlation image alignment method" (1975), with Hann windows, and a
/// parabola through the peak.
pub fn shift(fixed: &Plane, moved: &Plane) -> [f64; 2] {
    let (width, height) = (fixed.width.next_power_of_two(), fixed.height.next_power_of_two());
    let spectrum = |plane: &Plane| {
        let mut values = vec![Complex::default(); width * height];
        let window = |at: usize, length: usize| 0.5 - 0.5 * (2.0 * PI * (at as f64 + 0.5) / length as f64).cos();
        let mean = plane.values.iter().map(|value| f64::from(*value)).sum::<f64>() / plane.values.len() as f64;
        for y in 0..plane.height {
            for x in 0..plane.width {
                let value = f64::from(plane.at(x, y)) - mean;
                values[y * width + x].re = value * window(x, plane.width) * window(y, plane.height);
            }
        }
        transform(&mut values, width, height, false);
        values
    };
    let mut cross = spectrum(moved);
    for (value, fixed) in cross.iter_mut().zip(spectrum(fixed)) {
        let product = value.times(Complex { im: -fixed.im, ..fixed });
        let length = product.re.hypot(product.im).max(1e-12);
        *value = Complex { re: product.re / length, im: product.im / length };
    }
    transform(&mut cross, width, height, true);
    let peak = (0..cross.len()).max_by(|a, b| cross[*a].re.total_cmp(&cross[*b].re)).unwrap_or(0);
    let (x, y) = (peak % width, peak / width);
    let value = |dx: usize, dy: usize| cross[(y + dy) % height * width + (x + dx) % width].re;
    [
        signed(x, width) + vertex(value(width - 1, 0), value(0, 0), value(1, 0)),
        signed(y, height) + vertex(value(0, height - 1), value(0, 0), value(0, 1)),
    ]
}

fn signed(at: usize, length: usize) -> f64 {
    if 2 * at > length { at as f64 - length as f64 } else { at as f64 }
}

/// Where the parabola through three values has its vertex, from the middle one.
fn vertex(before: f64, at: f64, after: f64) -> f64 {
    let curve = before - 2.0 * at + after;
    if curve.abs() < 1e-12 { 0.0 } else { (0.5 * (before - after) / curve).clamp(-0.5, 0.5) }
}

#[derive(Debug, Clone, Copy, Default)]
struct Complex {
    re: f64,
    im: f64,
}

impl Complex {
    fn times(self, other: Self) -> Self {
        Self { re: self.re * other.re - self.im * other.im, im: self.re * other.im + self.im * other.re }
    }
}

/// The Fourier transform in two dimensions, whose sizes are powers of two. The inverse one is not divided by the number
/// of values.
fn transform(values: &mut [Complex], width: usize, height: usize, inverse: bool) {
    values.chunks_exact_mut(width).for_each(|row| fft(row, inverse));
    let mut column = vec![Complex::default(); height];
    for x in 0..width {
        (0..height).for_each(|y| column[y] = values[y * width + x]);
        fft(&mut column, inverse);
        (0..height).for_each(|y| values[y * width + x] = column[y]);
    }
}

/// Cooley and Tukey's transform of a power of two, in place.
fn fft(values: &mut [Complex], inverse: bool) {
    let length = values.len();
    let bits = length.trailing_zeros();
    for index in 0..length {
        let other = if bits == 0 { 0 } else { index.reverse_bits() >> (usize::BITS - bits) };
        if other > index {
            values.swap(index, other);
        }
    }
    let mut half = 1;
    while half < length {
        let angle = if inverse { PI } else { -PI } / half as f64;
        for start in (0..length).step_by(2 * half) {
            for index in 0..half {
                let turn = angle * index as f64;
                let odd = values[start + half + index].times(Complex { re: turn.cos(), im: turn.sin() });
                let even = values[start + index];
                values[start + index] = Complex { re: even.re + odd.re, im: even.im + odd.im };
                values[start + half + index] = Complex { re: even.re - odd.re, im: even.im - odd.im };
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transform_and_its_inverse_are_nothing() {
        let original: Vec<_> = (0..32).map(|n| Complex { re: f64::from(n * n % 7), im: f64::from(n % 3) }).collect();
        let mut values = original.clone();
        transform(&mut values, 8, 4, false);
        assert!((values[0].re - original.iter().map(|value| value.re).sum::<f64>()).abs() < 1e-9);
        transform(&mut values, 8, 4, true);
        for (value, original) in values.iter().zip(&original) {
            assert!((value.re / 32.0 - original.re).abs() < 1e-9 && (value.im / 32.0 - original.im).abs() < 1e-9);
        }
    }

    #[test]
    fn large_shifts_are_found() {
        // Random values on a grid of three pixels, and straight lines between them.
        let value = |x: f64, y: f64| ((x * 127.1 + y * 311.7).sin() * 43_758.545).fract() * 50.0;
        let noise = |x: f64, y: f64| {
            let (left, top) = ((x / 3.0).floor(), (y / 3.0).floor());
            let (u, v) = (x / 3.0 - left, y / 3.0 - top);
            let row = |y: f64| value(left, y) * (1.0 - u) + value(left + 1.0, y) * u;
            (row(top) * (1.0 - v) + row(top + 1.0) * v) as f32
        };
        let plane = |[dx, dy]: [f64; 2]| Plane::from_fn(96, 72, |x, y| noise(x as f64 - dx, y as f64 - dy));
        for wanted in [[0.0, 0.0], [5.0, -3.0], [-9.5, 4.25]] {
            let [x, y] = shift(&plane([0.0, 0.0]), &plane(wanted));
            assert!((x - wanted[0]).abs() < 1.0 && (y - wanted[1]).abs() < 1.0, "{x} {y} instead of {wanted:?}");
        }
    }
}

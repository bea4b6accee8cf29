//! Affine maps of the plane.

/// `x -> matrix x + shift`, in pixels from a picture's center.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    pub matrix: [[f64; 2]; 2],
    pub shift: [f64; 2],
}

impl Affine {
    pub const IDENTITY: Self = Self { matrix: [[1.0, 0.0], [0.0, 1.0]], shift: [0.0, 0.0] };

    pub fn of_shift(shift: [f64; 2]) -> Self {
        Self { shift, ..Self::IDENTITY }
    }

    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|row| self.matrix[row][0] * x + self.matrix[row][1] * y + self.shift[row])
    }

    /// The same map for a picture of another size.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        Self { shift: self.shift.map(|shift| shift * factor), ..*self }
    }

    /// First `first`, then this.
    #[must_use]
    pub fn after(&self, first: &Self) -> Self {
        let matrix = [0, 1]
            .map(|row| [0, 1].map(|column| (0..2).map(|k| self.matrix[row][k] * first.matrix[k][column]).sum::<f64>()));
        Self { matrix, shift: self.apply(first.shift) }
    }

    /// None if it is singular.
    pub fn inverse(&self) -> Option<Self> {
        let [[a, b], [c, d]] = self.matrix;
        let determinant = a * d - b * c;
        if determinant.abs() < 1e-9 {
            return None;
        }
        let linear = Self {
            matrix: [[d / determinant, -b / determinant], [-c / determinant, a / determinant]],
            shift: [0.0, 0.0],
        };
        Some(Self { shift: linear.apply(self.shift).map(|shift| -shift), ..linear })
    }

    /// How many times larger an area becomes, as a factor of lengths.
    pub fn zoom(&self) -> f64 {
        let [[a, b], [c, d]] = self.matrix;
        (a * d - b * c).max(0.0).sqrt()
    }

    /// How far the corner of a picture of this size moves that moves most, in pixels.
    pub fn largest_move(&self, width: usize, height: usize) -> f64 {
        let (x, y) = (width as f64 / 2.0, height as f64 / 2.0);
        let length = |corner: [f64; 2]| {
            let [to_x, to_y] = self.apply(corner);
            (to_x - corner[0]).hypot(to_y - corner[1])
        };
        [[x, y], [-x, y], [x, -y], [-x, -y]].into_iter().map(length).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverse_undoes_its_map() {
        let map = Affine { matrix: [[1.02, 0.01], [-0.02, 0.98]], shift: [3.0, -4.5] };
        let same = map.inverse().unwrap().after(&map);
        assert!(same.largest_move(100, 80) < 1e-9, "{same:?}");
        assert_eq!(Affine { matrix: [[1.0, 2.0], [2.0, 4.0]], shift: [0.0, 0.0] }.inverse(), None);
        assert!((Affine { matrix: [[2.0, 0.0], [0.0, 2.0]], ..map }.zoom() - 2.0).abs() < 1e-12);
    }
}

//! Matrix products on slices: a checked interface to the `gemm` crate. Each uses one thread; callers split their work
//! into tasks.

/// A matrix inside a slice: element `(r, c)` is at `r * row_stride + c * col_stride`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Matrix<'a> {
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    fn span(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            return 0;
        }
        (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1
    }
}

/// `dst = scale * a b`, or `dst += scale * a b` with `accumulate`; `dst` is row-major with `dst_stride` between rows.
///
/// # Panics
/// If shapes do not match or a matrix exceeds its slice.
pub fn gemm(dst: &mut [f32], dst_stride: usize, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool, scale: f32) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(a.cols, b.rows, "inner dimensions differ");
    if m == 0 || n == 0 {
        return;
    }
    assert!(dst_stride >= n && dst.len() >= (m - 1) * dst_stride + n, "the destination is too short");
    assert!(a.data.len() >= a.span() && b.data.len() >= b.span(), "an operand reaches beyond its slice");
    // SAFETY: the assertions above keep every element that is read or written inside its slice, strides are the
    // slices' own, and `dst` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

//! Tensors as kernels see them: an address, and rows at an even distance.

use candle_core::{
    DType, Layout, Result, Shape, Storage, Tensor, bail,
    cuda::{
        CudaStorageSlice as Slice,
        cudarc::driver::{CudaSlice, DevicePtr},
    },
};

/// The address of a tensor's first element. It is good for as long as the tensor lives, and work that was queued
/// before the tensor is dropped still finds it: memory is freed in the order of the stream.
pub fn address(x: &Tensor) -> Result<u64> {
    fn start<T>(slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(slice.stream()).0
    }
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a tensor of {:?} where the GPU's is needed", x.device()) };
    let base = match &storage.slice {
        Slice::BF16(slice) => start(slice),
        Slice::F32(slice) => start(slice),
        Slice::U8(slice) => start(slice),
        Slice::U32(slice) => start(slice),
        Slice::F8E4M3(slice) => start(slice),
        _ => bail!("no kernel takes {:?}", x.dtype()),
    };
    Ok(base + (layout.start_offset() * x.dtype().size_in_bytes()) as u64)
}

/// A new tensor that a kernel is about to fill.
pub fn fresh(shape: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    // SAFETY: every caller passes it to a kernel that writes all of it before anything is queued that reads it.
    unsafe { Tensor::empty(shape, like.dtype(), like.device()) }
}

/// A tensor as rows of its last dimension.
#[derive(Clone, Copy)]
pub struct Rows {
    pub address: u64,
    pub count: usize,
    pub width: usize,
    /// Elements from a row to the next.
    pub stride: usize,
}

impl Rows {
    /// None when the rows do not lie evenly, or their elements not side by side.
    pub fn view(x: &Tensor) -> Result<Option<Self>> {
        let Some((count, width, stride)) = even_rows(x.layout()) else { return Ok(None) };
        Ok(Some(Self { address: address(x)?, count, width, stride }))
    }

    /// The distance for a factor that has a row of its own for each of `rows`, or one for all.
    pub fn stride_over(&self, rows: usize) -> Result<usize> {
        match self.count {
            1 => Ok(0),
            count if count == rows => Ok(self.stride),
            count => bail!("{count} rows beside {rows}"),
        }
    }
}

/// Calls `run` with the rows of tensors, each copied first if it does not lie evenly.
pub fn with_rows<const N: usize, R>(tensors: [&Tensor; N], run: impl FnOnce([Rows; N]) -> Result<R>) -> Result<R> {
    let mut held = Vec::new();
    let mut rows = [Rows { address: 0, count: 0, width: 0, stride: 0 }; N];
    for (rows, tensor) in rows.iter_mut().zip(tensors) {
        *rows = match Rows::view(tensor)? {
            Some(rows) => rows,
            None => {
                let copy = tensor.contiguous()?;
                let Some(rows) = Rows::view(&copy)? else { bail!("{:?} has no rows", copy.shape()) };
                held.push(copy);
                rows
            }
        };
    }
    run(rows)
}

/// Count, width and distance of the rows of a layout.
fn even_rows(layout: &Layout) -> Option<(usize, usize, usize)> {
    let (dims, strides) = (layout.dims(), layout.stride());
    let (&width, leading) = dims.split_last()?;
    if width > 1 && strides[dims.len() - 1] != 1 {
        return None;
    }
    let mut stride = width;
    let mut expected = None;
    for axis in (0..leading.len()).rev().filter(|&axis| leading[axis] != 1) {
        match expected {
            None => stride = strides[axis],
            Some(next) if strides[axis] == next => {}
            Some(_) => return None,
        }
        expected = Some(strides[axis] * leading[axis]);
    }
    Some((leading.iter().product(), width, stride))
}

/// Elements of 16 bytes.
pub fn lanes(dtype: DType) -> usize {
    16 / dtype.size_in_bytes()
}

/// Whether accesses of 16 bytes reach all of these rows.
pub fn aligned(dtype: DType, rows: &[Rows]) -> bool {
    let lanes = lanes(dtype);
    rows.iter().all(|rows| {
        rows.address.is_multiple_of(16) && rows.width.is_multiple_of(lanes) && rows.stride.is_multiple_of(lanes)
    })
}

//! Views of tensors for kernels: regions of memory, and rows at equal distances.

use std::marker::PhantomData;

use candle_core::{
    DType, Layout, Result, Shape, Storage, Tensor, bail,
    cuda::{
        CudaStorageSlice as Slice, DeviceId,
        cudarc::driver::{CudaSlice, DevicePtr},
    },
};

/// The GPU memory of a tensor. It borrows the tensor, so work that is queued with it is safe: memory is freed in the
/// order of the stream, after that work.
#[derive(Clone, Copy)]
pub struct Region<'a> {
    address: u64,
    /// The number of elements from the address to the tensor's last one.
    len: usize,
    dtype: DType,
    device: DeviceId,
    tensor: PhantomData<&'a Tensor>,
}

impl<'a> Region<'a> {
    pub fn of(x: &'a Tensor) -> Result<Self> {
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
        let dtype = x.dtype();
        let address = base + (layout.start_offset() * dtype.size_in_bytes()) as u64;
        Ok(Self { address, len: extent(layout), dtype, device: storage.device.id(), tensor: PhantomData })
    }

    /// The region after the first `count` elements.
    pub fn skip(self, count: usize) -> Result<Self> {
        if count > self.len {
            bail!("element {count} of {}", self.len);
        }
        let address = self.address + (count * self.dtype.size_in_bytes()) as u64;
        Ok(Self { address, len: self.len - count, ..self })
    }

    /// The same region, if it has at least this many elements of this number format.
    pub fn holding(self, dtype: DType, len: usize) -> Result<Self> {
        if self.dtype != dtype || self.len < len {
            bail!("{} elements of {:?} where a kernel takes {len} of {dtype:?}", self.len, self.dtype);
        }
        Ok(self)
    }

    pub fn address(&self) -> &u64 {
        &self.address
    }

    pub fn dtype(self) -> DType {
        self.dtype
    }

    pub fn bytes(self) -> usize {
        self.len * self.dtype.size_in_bytes()
    }

    pub fn device(self) -> DeviceId {
        self.device
    }

    /// Whether the address is a multiple of 16 bytes.
    pub fn aligned(self) -> bool {
        self.address.is_multiple_of(16)
    }
}

/// The number of elements from a layout's first to its last one.
fn extent(layout: &Layout) -> usize {
    if layout.dims().contains(&0) {
        return 0;
    }
    layout.dims().iter().zip(layout.stride()).map(|(dim, stride)| (dim - 1) * stride).sum::<usize>() + 1
}

/// A new tensor for a kernel to fill.
///
/// # Safety
/// The caller must queue work that writes all of it before any work that reads it, or drop it unread.
pub unsafe fn fresh(shape: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    // SAFETY: the caller guarantees that the memory's previous contents are not read.
    unsafe { Tensor::empty(shape, like.dtype(), like.device()) }
}

/// A tensor as rows of its last dimension, each inside the region. Only this module creates them.
#[derive(Clone, Copy)]
pub struct DeviceRows<'a> {
    region: Region<'a>,
    count: usize,
    width: usize,
    stride: usize,
}

impl<'a> DeviceRows<'a> {
    /// None if the rows are not at equal distances, or not contiguous.
    pub fn view(x: &'a Tensor) -> Result<Option<Self>> {
        let Some((count, width, stride)) = even_rows(x.layout()) else { return Ok(None) };
        Ok(Some(Self { region: Region::of(x)?, count, width, stride }))
    }

    pub fn region(&self) -> Region<'a> {
        self.region
    }

    /// The number of rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The distance between rows, in elements.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The stride of a factor that has a row for each of `rows`, or one row for all (stride 0).
    pub fn stride_over(&self, rows: usize) -> Result<usize> {
        match self.count {
            1 => Ok(0),
            count if count == rows => Ok(self.stride),
            count => bail!("{count} rows beside {rows}"),
        }
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.count * self.width
    }
}

/// Calls `run` with the rows of tensors of the same number format. A tensor without evenly spaced rows is copied first.
pub fn with_rows<const N: usize, R>(
    tensors: [&Tensor; N],
    run: impl FnOnce([DeviceRows<'_>; N]) -> Result<R>,
) -> Result<R> {
    let mut copies = [const { None }; N];
    for (copy, tensor) in copies.iter_mut().zip(tensors) {
        if even_rows(tensor.layout()).is_none() {
            *copy = Some(tensor.contiguous()?);
        }
    }
    let even: [&Tensor; N] = std::array::from_fn(|index| copies[index].as_ref().unwrap_or(tensors[index]));
    let rows_of = |tensor| match DeviceRows::view(tensor)? {
        Some(rows) => Ok(rows),
        None => bail!("{:?} has no rows", tensor.shape()),
    };
    let Some(first) = even.first() else { bail!("no tensors") };
    let mut rows = [rows_of(first)?; N];
    for (rows, tensor) in rows.iter_mut().zip(even).skip(1) {
        *rows = rows_of(tensor)?;
        if tensor.dtype() != first.dtype() {
            bail!("{:?} beside {:?}", tensor.dtype(), first.dtype());
        }
    }
    run(rows)
}

/// The count, width and stride of a layout's rows.
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

/// The number of elements in 16 bytes.
pub fn lanes(dtype: DType) -> usize {
    16 / dtype.size_in_bytes()
}

/// Whether all of these rows can be read with accesses of 16 bytes.
pub fn aligned(dtype: DType, rows: &[DeviceRows<'_>]) -> bool {
    let lanes = lanes(dtype);
    rows.iter()
        .all(|rows| rows.region.aligned() && rows.width.is_multiple_of(lanes) && rows.stride.is_multiple_of(lanes))
}

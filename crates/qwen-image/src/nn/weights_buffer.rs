//! The tensors of a part of a model as one block of memory, on the host or on the device.
//!
//! A part visits its tensors in a fixed order ([`Tensors`]). A [`HostWeights`] has their contents one after the other;
//! a [`DeviceBuffer`] is memory on the device for such a copy, and the part's tensors become views into it. So one
//! transfer moves a part, and parts with the same layout can take turns in one buffer.

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Result, Shape, Tensor, bail};

use super::CopyStream;

/// A part of a model whose tensors can be moved.
pub trait Tensors {
    /// Visits every tensor, always in the same order.
    fn tensors(&mut self, visit: &mut dyn FnMut(&mut Tensor) -> Result<()>) -> Result<()>;
}

impl Tensors for Tensor {
    fn tensors(&mut self, visit: &mut dyn FnMut(&mut Tensor) -> Result<()>) -> Result<()> {
        visit(self)
    }
}

impl<T: Tensors> Tensors for Option<T> {
    fn tensors(&mut self, visit: &mut dyn FnMut(&mut Tensor) -> Result<()>) -> Result<()> {
        self.iter_mut().try_for_each(|part| part.tensors(visit))
    }
}

impl<T: Tensors> Tensors for Vec<T> {
    fn tensors(&mut self, visit: &mut dyn FnMut(&mut Tensor) -> Result<()>) -> Result<()> {
        self.iter_mut().try_for_each(|part| part.tensors(visit))
    }
}

/// Implements [`Tensors`] for a struct, with the tensors of these fields in this order.
macro_rules! tensors_of {
    ($type:ty: $($field:ident),+) => {
        impl $crate::nn::Tensors for $type {
            fn tensors(
                &mut self,
                visit: &mut dyn FnMut(&mut candle_core::Tensor) -> candle_core::Result<()>,
            ) -> candle_core::Result<()> {
                $($crate::nn::Tensors::tensors(&mut self.$field, visit)?;)+
                Ok(())
            }
        }
    };
}
pub(crate) use tensors_of;

/// The alignment of tensors in memory, because matrix products are fastest from addresses aligned like an allocation.
const ALIGNMENT: usize = 256;

/// The position of each tensor.
#[derive(Debug, Clone, Default)]
struct BufferLayout {
    places: Vec<TensorPlace>,
    /// One segment per number format.
    segments: Vec<BufferSegment>,
}

#[derive(Debug, Clone)]
struct TensorPlace {
    segment: usize,
    /// In elements.
    offset: usize,
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BufferSegment {
    dtype: DType,
    elements: usize,
}

impl BufferSegment {
    fn bytes(self) -> usize {
        self.elements * self.dtype.size_in_bytes()
    }
}

impl BufferLayout {
    fn add(&mut self, tensor: &Tensor) {
        let dtype = tensor.dtype();
        let segment = self.segments.iter().position(|segment| segment.dtype == dtype).unwrap_or_else(|| {
            self.segments.push(BufferSegment { dtype, elements: 0 });
            self.segments.len() - 1
        });
        let end = &mut self.segments[segment].elements;
        self.places.push(TensorPlace { segment, offset: *end, shape: tensor.shape().clone() });
        *end += tensor.elem_count().next_multiple_of(ALIGNMENT / dtype.size_in_bytes());
    }
}

/// Memory on the device for one copy at a time.
#[derive(Debug)]
pub struct DeviceBuffer(Vec<Tensor>);

impl DeviceBuffer {
    /// Large enough for each of these copies.
    pub fn for_any<'a>(copies: impl IntoIterator<Item = &'a HostWeights>, device: &Device) -> Result<Self> {
        let mut segments: Vec<BufferSegment> = Vec::new();
        for &segment in copies.into_iter().flat_map(|copy| &copy.layout.segments) {
            match segments.iter_mut().find(|known| known.dtype == segment.dtype) {
                Some(known) => known.elements = known.elements.max(segment.elements),
                None => segments.push(segment),
            }
        }
        let allocate = |segment: &BufferSegment| {
            // SAFETY: it is filled from a copy before any tensor points into it.
            unsafe { Tensor::empty(segment.elements, segment.dtype, device) }
        };
        Ok(Self(segments.iter().map(allocate).collect::<Result<_>>()?))
    }

    fn segment(&self, dtype: DType) -> Result<&Tensor> {
        match self.0.iter().find(|segment| segment.dtype() == dtype) {
            Some(segment) => Ok(segment),
            None => bail!("no room for {dtype:?}"),
        }
    }
}

/// The contents of a part's tensors in host memory.
#[derive(Debug)]
pub struct HostWeights {
    id: u64,
    layout: BufferLayout,
    data: Data,
}

#[derive(Debug)]
enum Data {
    /// One tensor per segment.
    Tensors(Vec<Tensor>),
    /// All segments, concatenated.
    #[cfg(feature = "cuda")]
    Bytes(super::cuda::HostBytes),
}

impl HostWeights {
    /// Copies the part's tensors, which are not moved.
    pub fn of(part: &mut (impl Tensors + ?Sized), device: &Device) -> Result<Self> {
        let mut layout = BufferLayout::default();
        let mut tensors = Vec::new();
        part.tensors(&mut |tensor| {
            layout.add(tensor);
            tensors.push(tensor.contiguous()?);
            Ok(())
        })?;
        let data = Self::read(&layout, &tensors, device)?;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), layout, data })
    }

    fn read(layout: &BufferLayout, tensors: &[Tensor], device: &Device) -> Result<Data> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            let bytes = layout.segments.iter().map(|segment| segment.bytes()).sum();
            let mut host = super::cuda::HostBytes::new(device, bytes)?;
            let starts = starts(&layout.segments);
            host.read(layout.places.iter().zip(tensors).map(|(place, tensor)| {
                (starts[place.segment] + place.offset * tensor.dtype().size_in_bytes(), tensor)
            }))?;
            return Ok(Data::Bytes(host));
        }
        let segments = layout
            .segments
            .iter()
            .map(|segment| Tensor::zeros(segment.elements, segment.dtype, device))
            .collect::<Result<Vec<_>>>()?;
        for (place, tensor) in layout.places.iter().zip(tensors) {
            segments[place.segment].slice_set(&tensor.flatten_all()?, 0, place.offset)?;
        }
        Ok(Data::Tensors(segments))
    }

    /// Identifies the copy.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The size of the copy in bytes.
    pub fn bytes(&self) -> usize {
        self.layout.segments.iter().map(|segment| segment.bytes()).sum()
    }

    /// Queues the transfer into a buffer; `stream` orders it with the computation.
    ///
    /// # Safety
    /// The caller frees the room only in the order of a computation that waits for the transfer.
    pub(super) unsafe fn fill(&self, room: &DeviceBuffer, stream: &CopyStream) -> Result<()> {
        let _ = stream;
        match &self.data {
            Data::Tensors(segments) => {
                segments.iter().try_for_each(|segment| room.segment(segment.dtype())?.slice_set(segment, 0, 0))
            }
            #[cfg(feature = "cuda")]
            Data::Bytes(host) => {
                for (segment, start) in self.layout.segments.iter().zip(starts(&self.layout.segments)) {
                    let to = room.segment(segment.dtype)?;
                    // SAFETY: nothing changes `host` once it was read; for the room, the caller promises it.
                    unsafe { stream.cuda()?.write(host, start, segment.bytes(), to)? };
                }
                Ok(())
            }
        }
    }

    /// Makes the part's tensors views into a buffer that has this copy.
    pub fn point(&self, part: &mut (impl Tensors + ?Sized), room: &DeviceBuffer) -> Result<()> {
        let mut places = self.layout.places.iter();
        part.tensors(&mut |tensor| {
            let Some(place) = places.next() else { bail!("a part with more tensors than its copy") };
            let segment = room.segment(self.layout.segments[place.segment].dtype)?;
            *tensor = segment.narrow(0, place.offset, place.shape.elem_count())?.reshape(&place.shape)?;
            Ok(())
        })
    }
}

/// Detaches the part's tensors, so that their memory is freed.
pub fn release(part: &mut (impl Tensors + ?Sized)) -> Result<()> {
    part.tensors(&mut |tensor| {
        *tensor = Tensor::zeros(0, tensor.dtype(), &Device::Cpu)?;
        Ok(())
    })
}

/// The size of a part's tensors in bytes.
pub fn bytes_of(part: &mut (impl Tensors + ?Sized)) -> Result<usize> {
    let mut bytes = 0;
    part.tensors(&mut |tensor| {
        bytes += tensor.elem_count() * tensor.dtype().size_in_bytes();
        Ok(())
    })?;
    Ok(bytes)
}

/// The byte offsets of the segments.
#[cfg(feature = "cuda")]
fn starts(segments: &[BufferSegment]) -> Vec<usize> {
    let ends = segments.iter().scan(0, |end, segment| {
        let start = *end;
        *end += segment.bytes();
        Some(start)
    });
    ends.collect()
}

//! Loads and launches the kernels in `kernels/*.cu`.

use candle_core::{
    DType, Result, bail,
    cuda::{
        WrapErr,
        cudarc::driver::{LaunchConfig, PushKernelArg},
    },
};

use super::{
    Gpu,
    view::{DeviceRows, Region},
};

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Arg<'a> {
    Region(Region<'a>),
    /// A null pointer, for an optional region.
    Null,
    Int(i32),
    Long(i64),
    Float(f32),
}

impl<'a> Arg<'a> {
    /// A kernel's arguments for rows: the memory, and the distance between rows in elements.
    pub fn rows(rows: DeviceRows<'a>) -> [Self; 2] {
        [Self::Region(rows.region()), Self::Long(rows.stride() as i64)]
    }
}

/// The number of blocks, the threads per block, and the dynamic shared memory in bytes.
#[derive(Clone, Copy)]
pub struct Grid {
    pub blocks: (usize, usize),
    pub threads: usize,
    pub shared: usize,
}

impl Grid {
    pub fn rows(count: usize, threads: usize) -> Self {
        Self { blocks: (count, 1), threads, shared: 0 }
    }
}

const MODULES: [(&str, &str); 7] = [
    ("attention", include_str!(concat!(env!("OUT_DIR"), "/attention.ptx"))),
    ("attention_tail", include_str!(concat!(env!("OUT_DIR"), "/attention_tail.ptx"))),
    ("dequantize", include_str!(concat!(env!("OUT_DIR"), "/dequantize.ptx"))),
    ("fp8", include_str!(concat!(env!("OUT_DIR"), "/fp8.ptx"))),
    ("norm", include_str!(concat!(env!("OUT_DIR"), "/norm.ptx"))),
    ("pointwise", include_str!(concat!(env!("OUT_DIR"), "/pointwise.ptx"))),
    ("rope", include_str!(concat!(env!("OUT_DIR"), "/rope.ptx"))),
];

/// A kernel's names for each number format: the variant with accesses of 16 bytes, and the one with single elements.
#[derive(Clone, Copy)]
pub struct KernelNames {
    pub module: &'static str,
    pub bf16: [&'static str; 2],
    pub f32: [&'static str; 2],
}

/// The names of a kernel's variants in `kernels/`.
macro_rules! names {
    ($module:literal, $name:literal) => {
        $crate::nn::cuda::kernels::KernelNames {
            module: $module,
            bf16: [concat!($name, "_bf16_v"), concat!($name, "_bf16")],
            f32: [concat!($name, "_f32_v"), concat!($name, "_f32")],
        }
    };
}
pub(super) use names;

impl KernelNames {
    /// The name for a number format; `wide` selects accesses of 16 bytes.
    ///
    /// # Errors
    /// For other number formats.
    pub fn pick(&self, dtype: DType, wide: bool) -> Result<&'static str> {
        let pair = match dtype {
            DType::BF16 => self.bf16,
            DType::F32 => self.f32,
            _ => bail!("no kernel takes {dtype:?}"),
        };
        Ok(pair[usize::from(!wide)])
    }
}

impl Gpu {
    /// Queues a kernel of `kernels/`, and checks that the regions are on this device. They stay allocated until the
    /// kernel has run, because memory is freed in the order of the same stream.
    ///
    /// # Safety
    /// The caller guarantees that
    /// - `args` match the kernel's parameters in number, order and type, with [`Arg::Null`] only for parameters that
    ///   may be null, and each region has the number format that the kernel reads or writes there;
    /// - with these sizes, strides, threads and shared memory, the kernel reads and writes only inside the regions,
    ///   with accesses for which their addresses are aligned.
    pub unsafe fn launch(&self, module: &'static str, name: &'static str, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
        if grid.blocks.0 == 0 || grid.blocks.1 == 0 {
            return Ok(());
        }
        let mut functions = self.functions.borrow_mut();
        let function = match functions.get(name) {
            Some(function) => function,
            None => {
                let Some((_, ptx)) = MODULES.iter().find(|(known, _)| *known == module) else {
                    bail!("no kernels called {module}")
                };
                let loaded = self.device.get_or_load_custom_func(name, module, ptx)?.into_cuda_function();
                functions.entry(name).or_insert(loaded)
            }
        };
        let mut call = self.stream.launch_builder(function);
        for arg in args {
            match arg {
                Arg::Region(region) => {
                    self.owns(region)?;
                    call.arg(region.address())
                }
                Arg::Null => call.arg(&NULL),
                Arg::Int(value) => call.arg(value),
                Arg::Long(value) => call.arg(value),
                Arg::Float(value) => call.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: (grid.blocks.0 as u32, grid.blocks.1 as u32, 1),
            block_dim: (grid.threads as u32, 1, 1),
            shared_mem_bytes: grid.shared as u32,
        };
        // SAFETY: the caller guarantees that the arguments are the kernel's and that it stays inside their memory. The
        // memory is on this device and outlives the kernel, see above.
        unsafe { call.launch(config) }.w()?;
        Ok(())
    }

    /// Fails if a region is on another device.
    pub fn owns(&self, region: &Region<'_>) -> Result<()> {
        if region.device() != self.device.id() {
            bail!("tensors of two GPUs in one operation");
        }
        Ok(())
    }
}

const NULL: u64 = 0;

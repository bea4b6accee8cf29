//! Loading and launching of `kernels/*.cu`.

use candle_core::{
    DType, Result, bail,
    cuda::{
        WrapErr,
        cudarc::driver::{LaunchConfig, PushKernelArg},
    },
};

use super::{
    Gpu,
    view::{Region, Rows},
};

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Arg<'a> {
    Region(Region<'a>),
    /// Where a kernel takes a region or none.
    Null,
    Int(i32),
    Long(i64),
    Float(f32),
}

impl<'a> Arg<'a> {
    /// Rows as kernels take them: where they are, and elements from one to the next.
    pub fn rows(rows: Rows<'a>) -> [Self; 2] {
        [Self::Region(rows.region), Self::Long(rows.stride as i64)]
    }
}

/// Blocks, threads of a block, and bytes of shared memory that the kernel does not declare itself.
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

const MODULES: [(&str, &str); 6] = [
    ("attention", include_str!(concat!(env!("OUT_DIR"), "/attention.ptx"))),
    ("attention_tail", include_str!(concat!(env!("OUT_DIR"), "/attention_tail.ptx"))),
    ("fp8", include_str!(concat!(env!("OUT_DIR"), "/fp8.ptx"))),
    ("norm", include_str!(concat!(env!("OUT_DIR"), "/norm.ptx"))),
    ("pointwise", include_str!(concat!(env!("OUT_DIR"), "/pointwise.ptx"))),
    ("rope", include_str!(concat!(env!("OUT_DIR"), "/rope.ptx"))),
];

/// A kernel's name for each number format, with accesses of 16 bytes and of one element.
#[derive(Clone, Copy)]
pub struct Names {
    pub module: &'static str,
    pub bf16: [&'static str; 2],
    pub f32: [&'static str; 2],
}

/// The names that `kernels/` gives to the variants of a kernel.
macro_rules! names {
    ($module:literal, $name:literal) => {
        $crate::nn::cuda::kernels::Names {
            module: $module,
            bf16: [concat!($name, "_bf16_v"), concat!($name, "_bf16")],
            f32: [concat!($name, "_f32_v"), concat!($name, "_f32")],
        }
    };
}
pub(super) use names;

impl Names {
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
    /// Queues a kernel of `kernels/`. The regions are of this device, which is checked; they stay allocated until the
    /// kernel has run, because memory is freed in the order of the same stream.
    ///
    /// # Safety
    /// The caller promises that
    /// - `args` are the kernel's parameters in number, order and type, [`Arg::Null`] only where it takes a null pointer,
    ///   and each region has the number format that the kernel reads or writes there;
    /// - with these sizes and strides, threads and shared memory, the kernel reads and writes inside the regions, in
    ///   accesses for which their addresses are aligned.
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
        // SAFETY: the arguments are the kernel's, and it stays inside their memory, by the caller's promise; the memory
        // is this device's and outlives the kernel, as said above.
        unsafe { call.launch(config) }.w()?;
        Ok(())
    }

    /// Bails when a region is another device's.
    pub fn owns(&self, region: &Region<'_>) -> Result<()> {
        if region.device() != self.device.id() {
            bail!("tensors of two GPUs in one operation");
        }
        Ok(())
    }
}

const NULL: u64 = 0;

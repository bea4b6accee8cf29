//! Loading and launching of `kernels/*.cu`.

use candle_core::{
    DType, Result, bail,
    cuda::{
        WrapErr,
        cudarc::driver::{LaunchConfig, PushKernelArg},
    },
};

use super::Gpu;

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Arg {
    Address(u64),
    Int(i32),
    Long(i64),
    Float(f32),
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
    pub fn pick(&self, dtype: DType, wide: bool) -> &'static str {
        let pair = if dtype == DType::BF16 { self.bf16 } else { self.f32 };
        pair[usize::from(!wide)]
    }
}

impl Gpu {
    /// Queues a kernel.
    ///
    /// The caller vouches for the arguments: they are those of the kernel, in its order, and every address is that of
    /// a tensor which is large enough for what the kernel does with it.
    pub fn launch(&self, module: &'static str, name: &'static str, grid: Grid, args: &[Arg]) -> Result<()> {
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
                Arg::Address(value) => call.arg(value),
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
        // SAFETY: see the method's contract; memory is freed in the order of the same stream.
        unsafe { call.launch(config) }.w()?;
        Ok(())
    }
}

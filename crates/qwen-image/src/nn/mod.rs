//! Building blocks of the models: each picks its kernel by device and number format, in one place.
//!
//! For the CPU in float32, the performance-critical ones are written here (one pass over memory, vector instructions
//! chosen at run time, matrix products by the `gemm` crate), and so are those for NVIDIA GPUs with the `cuda` feature;
//! elsewhere they are plain candle expressions.

mod activation;
mod attention;
mod conv;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod double_buffer;
pub mod float8;
mod gemm;
mod joint_attention_qkv;
mod linear;
mod norm;
mod rope;
#[cfg(test)]
mod tests;
mod upload;
mod weight;
mod weights_buffer;

pub use activation::{gelu_tanh, silu, swiglu};
pub use attention::{AttentionMask, attention, attention_kernel};
pub use conv::{Conv2d, Padding, upsample_nearest_2x};
pub use device::{
    CardMemory, card_memory, count_cuda, describe_cuda, device_name, free_unused, open_cuda, peak_memory,
    reset_peak_memory,
};
pub use double_buffer::{BufferCursor, CopyStream, DoubleBuffer};
pub use joint_attention_qkv::{QkvPart, joint_attention_qkv};
pub use linear::Linear;
pub use norm::{RmsNorm, gated_add, gated_norm, layer_norm_modulate, rms_normalize_silu};
pub use rope::{Rotation, qk_norm_rope, rotate_half};
pub use upload::{Source, Uploader};
pub use weight::{LowRank, QuantizedWeight, Weight, quantize_blocks};
pub(crate) use weights_buffer::tensors_of;
pub use weights_buffer::{DeviceBuffer, HostWeights, Tensors, bytes_of, release};

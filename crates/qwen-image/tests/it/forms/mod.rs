//! Weights in the forms that people have: GGUF, ComfyUI's fp8 files, and acetate's own conversions.

mod comfy;
mod convert;
mod files;
mod gguf;
mod hostile;

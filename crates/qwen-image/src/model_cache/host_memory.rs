//! Checks whether a checkpoint fits into host memory, before anything is loaded.

use std::path::Path;

use candle_core::DType;

use crate::{
    Error,
    models::{WeightOptions, checkpoint_bytes},
};

/// Working memory as a fraction of the weights: activations, the text encoder's cache, and the stacked copies made
/// while loading.
const OVERHEAD: f64 = 0.15;
const LEAST_OVERHEAD: u64 = 128 << 20;

/// The size of a checkpoint's weights in bytes, and of `copies` of some of them; refuses one that needs more than
/// `budget` or the free memory.
pub fn check(
    name: &str,
    folder: &Path,
    files: &WeightOptions,
    dtype: DType,
    copies: u64,
    budget: Option<u64>,
) -> Result<u64, Error> {
    let weights = copies
        + checkpoint_bytes(folder, files, dtype).map_err(|source| Error::Model { model: name.to_owned(), source })?;
    let needed = weights + LEAST_OVERHEAD.max((weights as f64 * OVERHEAD) as u64);
    let available = budget.unwrap_or_else(available_memory);
    if needed <= available {
        return Ok(weights);
    }
    let reason = format!(
        "it needs about {} as {}, {} for its weights and the rest as working memory, but {} {}; use a smaller \
         checkpoint, a smaller number format or a larger machine",
        human_memory(needed),
        dtype.as_str(),
        human_memory(weights),
        human_memory(available),
        if budget.is_some() { "are left of memory_budget" } else { "are free" },
    );
    Err(Error::TooLarge { model: name.to_owned(), reason })
}

/// The free memory of the machine, or of the control group if that is less.
pub fn available_memory() -> u64 {
    // If the system does not report it, loading is the test.
    let Ok(mut system) = sysinfo::System::new() else { return u64::MAX };
    system.refresh_memory();
    match system.cgroup_limits() {
        Some(limits) => limits.free_memory.min(system.available_memory()),
        None => system.available_memory(),
    }
}

/// An amount of memory as people read it: `812.0 MiB`, `23.2 GiB`.
pub fn human_memory(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1024.0 { format!("{mebibytes:.1} MiB") } else { format!("{:.1} GiB", mebibytes / 1024.0) }
}

//! The async runtime of commands.

use super::Failure;

/// Runs a command's async part. Two threads are enough, because the work is on the engine's and on blocking threads.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(qwen_image::yield_to_compute)
        .enable_all()
        .build()
        .map_err(|error| Failure::Usage(format!("the async runtime could not start: {error}")))?;
    let result = runtime.block_on(work);
    // A second Ctrl-C or a failed job must not wait for a thread that is still computing.
    runtime.shutdown_background();
    result
}

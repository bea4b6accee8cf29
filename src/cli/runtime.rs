//! The runtime of a command's async part.

use super::Failure;

/// Runs a command's async part. Two threads are enough: the work is on the engine's and on blocking ones.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(wait_for_computing)
        .enable_all()
        .build()
        .map_err(|error| Failure::Usage(format!("the async runtime does not start: {error}")))?;
    let result = runtime.block_on(work);
    // A second Ctrl-C or a failed job must not wait for a thread that still computes.
    runtime.shutdown_background();
    result
}

/// Has this thread, and those that it starts, wait for a processor instead of taking it from a thread that computes: a
/// model on the CPU keeps all of them busy in step, so one that is taken away for a moment stops the others too. Answers
/// may come some milliseconds later. The engine's threads are started from the main one and stay as they are.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn wait_for_computing() {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads `priority`, which outlives it, and changes nothing but this thread's policy. Where it is
    // forbidden, the thread keeps the policy it had.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn wait_for_computing() {}

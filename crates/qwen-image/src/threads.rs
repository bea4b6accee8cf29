//! Threads that compute, and threads that must not disturb them.

/// Creates a rayon pool that includes the calling thread, for everything that this thread computes in parallel from
/// then on. With a pool that has a thread for every processor in addition to the caller, there would be one thread too
/// many, and they would wait for each other in every short product.
///
/// None if a pool exists already or threads cannot be created; rayon's global pool then computes. rayon keeps the
/// pool's memory after its end, so create it only once per process.
pub fn compute_pool() -> Option<rayon::ThreadPool> {
    let builder = rayon::ThreadPoolBuilder::new().use_current_thread().thread_name(|_| "compute".to_owned());
    builder.build().inspect_err(|error| tracing::warn!(%error, "using the global thread pool to compute")).ok()
}

/// Makes the calling thread, and those that it starts, wait for a processor instead of preempting a thread that
/// computes. A model on the CPU keeps all processors busy in step, so if one is taken away for a moment, the others
/// wait for it, too. Use it for threads that serve requests; their responses may take a few milliseconds longer.
///
/// It uses Linux's `SCHED_BATCH`, and does nothing on other systems.
pub fn yield_to_compute() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let priority = libc::sched_param { sched_priority: 0 };
        // SAFETY: the call reads `priority`, which outlives it, and changes only this thread's policy. If it is not
        // permitted, the thread keeps its policy.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority) };
    }
}

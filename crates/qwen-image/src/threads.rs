//! The threads that compute, and those that must not disturb them.

/// A rayon pool of which the calling thread is a member, for all that it computes in parallel from then on. Beside a
/// pool that has a thread for every processor the caller would be one too many, and they would wait for each other at
/// every short product.
///
/// None when a pool exists already, or threads cannot be had; then rayon's global pool computes. rayon keeps the
/// pool's memory after its end, so make one for the life of the process.
pub fn compute_pool() -> Option<rayon::ThreadPool> {
    let builder = rayon::ThreadPoolBuilder::new().use_current_thread().thread_name(|_| "compute".to_owned());
    builder.build().inspect_err(|error| tracing::warn!(%error, "computing without a thread pool of its own")).ok()
}

/// Has the calling thread, and those that it starts, wait for a processor instead of taking it from a thread that
/// computes. A model on the CPU keeps all processors busy in step, so one that is taken away for a moment stops the
/// others too. For threads that serve requests; answers may come some milliseconds later.
///
/// It is Linux's `SCHED_BATCH`, and does nothing elsewhere.
pub fn yield_to_compute() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let priority = libc::sched_param { sched_priority: 0 };
        // SAFETY: the call reads `priority`, which outlives it, and changes nothing but this thread's policy. Where it
        // is forbidden, the thread keeps the policy it had.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority) };
    }
}

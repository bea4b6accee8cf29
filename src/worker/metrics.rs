//! The worker's metrics. Names and units follow Prometheus' conventions.

use std::time::Instant;

use jiff::Timestamp;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::claim::Stale;
use crate::{
    database::{Depth, JobRow, Pause, Scope},
    engine::{DeviceStatus, Engine},
    job::{ErrorRecord, JobKind, StageTiming},
    queue::Queue,
};

/// Describes the metrics; called once at startup.
pub fn describe() {
    describe_counter!("acetate_jobs_total", "Jobs that ended on this worker, by kind and result.");
    describe_counter!("acetate_jobs_reused_total", "Jobs that took the result of an equal job, by kind.");
    describe_counter!("acetate_job_attempts_total", "Attempts that ended on this worker, by kind and outcome.");
    describe_counter!("acetate_retries_total", "Retries, by the code of the error that caused them.");
    describe_counter!("acetate_dead_letters_total", "Refused messages, by the code of the reason.");
    describe_counter!("acetate_dropped_messages_total", "Messages of jobs that had ended and were deleted, by reason.");
    describe_counter!(
        "acetate_refused_events_total",
        "Events that a listener's queue refused, by outcome: later (sent again) or given_up."
    );
    describe_histogram!(
        "acetate_queue_wait_seconds",
        Unit::Seconds,
        "Time from when a job was due until it was claimed."
    );
    describe_histogram!("acetate_stage_seconds", Unit::Seconds, "Time of each stage of successful jobs.");
    describe_counter!(
        "acetate_device_busy_seconds_total",
        Unit::Seconds,
        "Time that the device's thread has spent computing, by device."
    );
    describe_counter!("acetate_worker_wall_seconds_total", Unit::Seconds, "Time since this worker started.");
    describe_gauge!("acetate_jobs_queued", "Queued jobs, by kind.");
    describe_gauge!("acetate_oldest_queued_seconds", Unit::Seconds, "How long the oldest due job has waited.");
    describe_gauge!("acetate_queue_paused", "1 while the jobs of a kind are paused.");
    describe_gauge!("acetate_batches_paused", "Paused batches.");
    describe_gauge!("acetate_model_resident", "1 for each model that is loaded, by device.");
    describe_gauge!("acetate_device_usable", "0 after the device has failed; the worker goes on with its others.");
    describe_gauge!("acetate_queue_connected", "1 while the worker is connected to the queue.");
    describe_gauge!("acetate_queue_blocked", "1 while RabbitMQ accepts no messages (connection.blocked).");
    describe_gauge!(
        "acetate_queue_refused",
        "1 while RabbitMQ refuses what this process sends: a missing right, exchange or binding."
    );
    describe_gauge!("acetate_queue_full", "1 while a queue of acetate takes no more messages, by queue.");
    describe_gauge!("acetate_deliveries_unacked", "Messages that this worker holds.");
    let _ = started();
}

pub(super) fn refused_events(events: usize, are_sent_again: bool) {
    let outcome = if are_sent_again { "later" } else { "given_up" };
    counter!("acetate_refused_events_total", "outcome" => outcome).increment(events as u64);
}

pub(super) fn claimed(row: &JobRow) {
    let waited = Timestamp::now().duration_since(row.available_at).as_secs_f64().max(0.0);
    histogram!("acetate_queue_wait_seconds", "kind" => kind(row)).record(waited);
}

/// Records an attempt from its final row.
pub(super) fn settled(row: &JobRow) {
    counter!("acetate_job_attempts_total", "kind" => kind(row), "outcome" => row.state.as_str()).increment(1);
    if row.state.is_terminal() {
        counter!("acetate_jobs_total", "kind" => kind(row), "result" => row.state.as_str()).increment(1);
    }
    if row.published.as_ref().is_some_and(|result| result.reused_from.is_some()) {
        counter!("acetate_jobs_reused_total", "kind" => kind(row)).increment(1);
    }
}

pub(super) fn stages(kind: JobKind, timings: &[StageTiming]) {
    for timing in timings {
        histogram!("acetate_stage_seconds", "stage" => timing.stage.as_str(), "kind" => kind.as_str())
            .record(timing.seconds);
    }
}

pub(super) fn retry(error: &ErrorRecord) {
    counter!("acetate_retries_total", "code" => error.code.clone()).increment(1);
}

pub(super) fn dead_letter(error: &ErrorRecord) {
    counter!("acetate_dead_letters_total", "code" => error.code.clone()).increment(1);
}

pub(super) fn dropped(stale: Stale) {
    let reason = match stale {
        Stale::Deleted(_) => "deleted",
        Stale::Replaced => "replaced",
    };
    counter!("acetate_dropped_messages_total", "reason" => reason).increment(1);
}

pub(super) fn in_hand(jobs: usize) {
    gauge!("acetate_deliveries_unacked").set(jobs as f64);
}

pub(super) fn depth(depths: &[Depth]) {
    for kind in JobKind::ALL {
        let queued = depths.iter().find(|depth| depth.kind == kind).map_or(0, |depth| depth.queued);
        gauge!("acetate_jobs_queued", "kind" => kind.as_str()).set(queued as f64);
    }
    let oldest = depths.iter().map(|depth| depth.oldest).min();
    let age = oldest.map_or(0.0, |oldest| Timestamp::now().duration_since(oldest).as_secs_f64());
    gauge!("acetate_oldest_queued_seconds").set(age.max(0.0));
}

pub(super) fn paused(pauses: &[Pause]) {
    for kind in JobKind::ALL {
        let paused = pauses.iter().any(|pause| pause.scope == Scope::All || pause.scope == Scope::Kind(kind));
        gauge!("acetate_queue_paused", "kind" => kind.as_str()).set(if paused { 1.0 } else { 0.0 });
    }
    let batches = pauses.iter().filter(|pause| matches!(pause.scope, Scope::Batch(_))).count();
    gauge!("acetate_batches_paused").set(batches as f64);
}

pub(super) fn engine(engine: &Engine, queue: &Queue) {
    counter!("acetate_worker_wall_seconds_total").absolute(started().elapsed().as_secs());
    let health = queue.health();
    gauge!("acetate_queue_connected").set(if health.connected { 1.0 } else { 0.0 });
    gauge!("acetate_queue_blocked").set(if health.blocked.is_some() { 1.0 } else { 0.0 });
    for DeviceStatus { name, busy, resident, usable } in engine.devices() {
        counter!("acetate_device_busy_seconds_total", "device" => name.clone()).absolute(busy.as_secs());
        gauge!("acetate_device_usable", "device" => name.clone()).set(if usable { 1.0 } else { 0.0 });
        for (model, there) in [("decompose", resident.decompose.is_some()), ("edit", resident.edit.is_some())] {
            let there = if there { 1.0 } else { 0.0 };
            gauge!("acetate_model_resident", "model" => model, "device" => name.clone()).set(there);
        }
    }
}

fn kind(row: &JobRow) -> &'static str {
    row.request.task.kind().as_str()
}

fn started() -> Instant {
    static STARTED: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *STARTED.get_or_init(Instant::now)
}

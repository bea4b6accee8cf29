//! The task that sends webhooks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::Uri;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::WebhookSecret;
use crate::{
    database::{JobStore, WebhookLimits, WebhookRow},
    egress::{WebhookAnswer, WebhookPolicy},
    http::metrics,
    job::JobError,
    trace::{self, Span},
};

/// How many calls run at a time.
const AT_A_TIME: u32 = 32;
/// How many of them call the same origin, so that a receiver that hangs does not delay the others.
const OF_ORIGIN: u32 = 4;
/// How many origins are remembered as silent.
const MOST_SILENT: usize = 1000;
/// After this time, which is longer than a call takes, another server may take the call.
const LEASE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(500);
/// How often batches are looked at, whether they have ended.
const BATCHES_EVERY: Duration = Duration::from_secs(1);
/// The maximum number of attempts of one call.
const MOST_TRIES: u32 = 8;
const LONGEST_PAUSE: Duration = Duration::from_secs(36_000);

/// Sends due webhooks until it is stopped; running calls may finish.
pub async fn send(
    jobs: JobStore,
    policy: WebhookPolicy,
    secret: WebhookSecret,
    first_pause: Duration,
    stop: CancellationToken,
) {
    let sender = Arc::new(Sender { jobs, policy, secret, first_pause, origins: Mutex::default() });
    let mut calls = JoinSet::new();
    let mut looked = None::<Instant>;
    while !stop.is_cancelled() {
        if looked.is_none_or(|at| at.elapsed() >= BATCHES_EVERY) {
            looked = Some(Instant::now());
            if let Err(error) = sender.jobs.end_batches().await {
                warn!(%error, "could not look for batches that have ended");
            }
        }
        while calls.try_join_next().is_some() {}
        let room = AT_A_TIME.saturating_sub(u32::try_from(calls.len()).unwrap_or(AT_A_TIME));
        let limits = sender.limits(room);
        let due = if room == 0 { Ok(Vec::new()) } else { sender.jobs.webhooks_take(&limits, LEASE).await };
        match due {
            Ok(due) if !due.is_empty() => {
                for call in due {
                    let sender = sender.clone();
                    let trace = call.trace.clone();
                    sender.origins().begin(&call.origin);
                    calls.spawn(async move { trace::within(trace.as_ref(), sender.call(call)).await });
                }
                continue;
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "could not look for due webhooks"),
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = stop.cancelled() => {}
        }
    }
    while calls.join_next().await.is_some() {}
}

struct Sender {
    jobs: JobStore,
    policy: WebhookPolicy,
    secret: WebhookSecret,
    first_pause: Duration,
    origins: Mutex<Origins>,
}

/// The receivers, by scheme, host and port.
#[derive(Default)]
struct Origins {
    /// How many calls of each are under way.
    calls: BTreeMap<String, u32>,
    /// Those that did not answer the last call. Until they do, they get one call at a time.
    silent: BTreeSet<String>,
}

impl Origins {
    fn begin(&mut self, origin: &str) {
        *self.calls.entry(origin.to_owned()).or_default() += 1;
    }

    fn end(&mut self, origin: &str, answered: bool) {
        if let Some(calls) = self.calls.get_mut(origin) {
            *calls -= 1;
            if *calls == 0 {
                self.calls.remove(origin);
            }
        }
        if answered {
            self.silent.remove(origin);
        } else if self.silent.len() < MOST_SILENT {
            self.silent.insert(origin.to_owned());
        }
    }

    /// How many of [`OF_ORIGIN`] calls each has in use, those included that a silent one does not get.
    fn in_use(&self) -> BTreeMap<String, u32> {
        let mut in_use = self.calls.clone();
        for origin in &self.silent {
            *in_use.entry(origin.clone()).or_default() += OF_ORIGIN - 1;
        }
        in_use
    }
}

/// The outcome of a call.
enum CallOutcome {
    Arrived,
    /// Failed; retry later, and not before the receiver wants it.
    Failed {
        reason: String,
        not_before: Option<Duration>,
    },
    /// The receiver does not want it, or the address is not allowed.
    Refused(String),
}

impl Sender {
    fn origins(&self) -> MutexGuard<'_, Origins> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self, calls: u32) -> WebhookLimits {
        WebhookLimits { calls, of_origin: OF_ORIGIN, in_use: self.origins().in_use() }
    }

    async fn call(self: Arc<Self>, call: WebhookRow) {
        let (id, job, attempts, origin) = (call.id, call.job, call.attempts, call.origin.clone());
        let sender = self.clone();
        let (outcome, answered) = match tokio::task::spawn_blocking(move || sender.post(&call)).await {
            Ok(posted) => posted,
            Err(error) => (CallOutcome::Failed { reason: error.to_string(), not_before: None }, false),
        };
        self.origins().end(&origin, answered);
        let written = match outcome {
            CallOutcome::Arrived => {
                metrics::called("arrived");
                self.jobs.webhook_done(id).await
            }
            CallOutcome::Failed { reason, not_before } if attempts + 1 < MOST_TRIES => {
                let pause = pause(self.first_pause, attempts, not_before);
                metrics::called("failed");
                info!(%job, reason, again_s = pause.as_secs_f64(), "a webhook call failed");
                self.jobs.webhook_failed(id, &reason, Some(pause)).await
            }
            CallOutcome::Failed { reason, .. } | CallOutcome::Refused(reason) => {
                metrics::called("given_up");
                warn!(%job, reason, tries = attempts + 1, "a webhook is given up");
                self.jobs.webhook_failed(id, &reason, None).await
            }
        };
        if let Err(error) = written {
            warn!(%job, %error, "could not save the outcome of a webhook call; it is sent again");
        }
    }

    /// Also whether the receiver answered.
    fn post(&self, call: &WebhookRow) -> (CallOutcome, bool) {
        let id = format!("msg_{}_{}", call.job.to_string().replace('-', ""), call.id);
        let timestamp = Timestamp::now().as_second();
        let span = span_of(call);
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("webhook-signature", self.secret.sign(&id, timestamp, &call.payload)),
            ("webhook-id", id),
            ("webhook-timestamp", timestamp.to_string()),
        ];
        if let Some(trace) = span.context() {
            headers.push(("traceparent", trace.traceparent().to_owned()));
            headers.extend(trace.tracestate().map(|state| ("tracestate", state.to_owned())));
        }
        let answer = self.policy.post(&call.url, &headers, &call.payload);
        match &answer {
            Ok(answer) => span.answered(answer.status, !(200..=299).contains(&answer.status)),
            Err(_) => span.note(&answer),
        }
        let answered = answer.is_ok();
        let outcome = match answer {
            Ok(WebhookAnswer { status: 200..=299, .. }) => CallOutcome::Arrived,
            Ok(WebhookAnswer { status: 410, .. }) => {
                CallOutcome::Refused("its server responds with 410: it does not want more calls".to_owned())
            }
            Ok(WebhookAnswer { status, retry_after }) => {
                let reason = format!("its server responds with {status}");
                CallOutcome::Failed { reason, not_before: retry_after }
            }
            Err(error @ (JobError::InputForbidden { .. } | JobError::InvalidRequest { .. })) => {
                CallOutcome::Refused(error.to_string())
            }
            Err(error) => CallOutcome::Failed { reason: error.to_string(), not_before: None },
        };
        (outcome, answered)
    }
}

fn span_of(call: &WebhookRow) -> Span {
    let address: Option<Uri> = call.url.parse().ok();
    let host = address.as_ref().and_then(Uri::host).unwrap_or_default();
    let port = address.as_ref().and_then(|address| match address.scheme_str() {
        Some("http") => address.port_u16().or(Some(80)),
        _ => address.port_u16().or(Some(443)),
    });
    trace::call((host, port.unwrap_or_default()), call.job, call.attempts, call.trace.as_ref(), call.attempt.as_ref())
}

/// The pause after `attempts` failed calls: five times as long each time, and at least as long as the receiver asks for
/// (`Retry-After`). Nobody is waited for longer than the longest pause.
fn pause(first: Duration, attempts: u32, not_before: Option<Duration>) -> Duration {
    let own = first.saturating_mul(5u32.saturating_pow(attempts));
    own.max(not_before.unwrap_or_default()).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_ten_hours() {
        let seconds: Vec<_> = (0..8).map(|attempts| pause(Duration::from_secs(5), attempts, None).as_secs()).collect();
        assert_eq!(seconds, [5, 25, 125, 625, 3125, 15_625, 36_000, 36_000]);
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_but_not_for_less() {
        let asked = |seconds| pause(Duration::from_secs(5), 1, Some(Duration::from_secs(seconds))).as_secs();
        assert_eq!([asked(0), asked(24), asked(120), asked(u64::MAX)], [25, 25, 120, 36_000]);
    }
}

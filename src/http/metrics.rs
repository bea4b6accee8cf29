//! The metrics of requests.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{
    database::JobStore,
    job::JobKind,
    queue::{DEAD_LETTERS, Health, queue_of},
};

/// Describes the metrics; call it once, after the recorder has started.
pub fn describe() {
    describe_counter!("acetate_http_requests_total", "Requests, by route, method and status.");
    describe_histogram!("acetate_http_seconds", Unit::Seconds, "Time from the request to the response headers.");
    describe_gauge!("acetate_http_watchers", "Open event streams.");
    describe_counter!("acetate_webhooks_total", "Webhook calls, by outcome.");
}

/// Describes [`database`].
pub fn describe_database() {
    describe_counter!(
        "acetate_database_connections_replaced_total",
        "Connections replaced because the database went away or changed its role."
    );
    describe_counter!(
        "acetate_database_listener_lost_total",
        "Losses of the connection that listens for notifications."
    );
}

/// How often connections to the database were lost.
pub fn database(jobs: &JobStore) {
    let counts = jobs.connection_counts();
    counter!("acetate_database_connections_replaced_total").absolute(counts.replaced);
    counter!("acetate_database_listener_lost_total").absolute(counts.listener_lost);
}

/// Also for a process without a worker, which does not report the queue otherwise.
pub fn queue(health: &Health) {
    gauge!("acetate_queue_blocked").set(if health.blocked.is_some() { 1.0 } else { 0.0 });
    gauge!("acetate_queue_refused").set(if health.refused.is_some() { 1.0 } else { 0.0 });
    for queue in JobKind::ALL.map(queue_of).into_iter().chain([DEAD_LETTERS]) {
        gauge!("acetate_queue_full", "queue" => queue).set(if health.full.contains_key(queue) { 1.0 } else { 0.0 });
    }
}

/// Counts by route, not by path, because paths contain ids.
pub async fn requests(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none".to_owned(), |path| path.as_str().to_owned());
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "DELETE" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let start = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    counter!("acetate_http_requests_total", "route" => route.clone(), "method" => method, "status" => status)
        .increment(1);
    histogram!("acetate_http_seconds", "route" => route).record(start.elapsed());
    response
}

pub fn called(outcome: &'static str) {
    counter!("acetate_webhooks_total", "outcome" => outcome).increment(1);
}

/// Counts as an open event stream until it is dropped.
pub struct Watcher(());

impl Default for Watcher {
    fn default() -> Self {
        gauge!("acetate_http_watchers").increment(1);
        Self(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        gauge!("acetate_http_watchers").decrement(1);
    }
}

//! The calls that this server makes.

use utoipa::{IntoParams, OpenApi, openapi};

use crate::job::{BatchEvent, JobEvent};

#[derive(OpenApi)]
#[openapi(paths(job_ended, batch_ended))]
struct Calls;

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes headers to readers of the OpenAPI document")]
struct SignatureHeaders {
    /// The same for every attempt to deliver one message
    #[param(rename = "webhook-id")]
    id: String,
    /// The time of this attempt, in seconds since 1970
    #[param(rename = "webhook-timestamp")]
    timestamp: i64,
    /// `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`
    #[param(rename = "webhook-signature")]
    signature: String,
}

/// A job has ended
///
/// Sent to the job's `webhook`. Any 2xx response is success, and 410 stops the delivery; after everything else, it is
/// sent again later.
#[utoipa::path(post, path = "job_ended", tag = "webhooks", operation_id = "job_ended",
    params(SignatureHeaders),
    request_body = JobEvent,
    responses((status = "2XX", description = "Received"), (status = 410, description = "Do not send this again")))]
#[allow(dead_code, reason = "describes a call to readers of the OpenAPI document")]
fn job_ended() {}

/// A batch has ended
///
/// Sent to the address of `acetate submit --batch-webhook`, or to `http.batch_webhook`, when all jobs of the batch have
/// ended. Any 2xx response is success, and 410 stops the delivery; after everything else, it is sent again later.
#[utoipa::path(post, path = "batch_ended", tag = "webhooks", operation_id = "batch_ended",
    params(SignatureHeaders),
    request_body = BatchEvent,
    responses((status = "2XX", description = "Received"), (status = 410, description = "Do not send this again")))]
#[allow(dead_code, reason = "describes a call to readers of the OpenAPI document")]
fn batch_ended() {}

pub fn describe(mut document: openapi::OpenApi) -> openapi::OpenApi {
    let calls = Calls::openapi();
    document.webhooks = Some(calls.paths);
    let known = document.components.get_or_insert_default();
    known.schemas.extend(calls.components.into_iter().flat_map(|components| components.schemas));
    document
}

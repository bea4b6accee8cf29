//! `POST /v1/jobs`.

use axum::{
    Json,
    extract::{FromRequest, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use utoipa::ToSchema;

use super::{
    request::{SubmitBody, compose, key, reused},
    upload,
};
use crate::{
    database::Submitted,
    http::{
        api::Api,
        caller::Caller,
        extract,
        problem::{Answer, Problem},
        view::JobView,
    },
    job::MAX_REQUEST_BYTES,
};

/// The fields of a form, only for the schema; the handler reads the fields as they arrive.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a form to readers of the OpenAPI document")]
pub struct UploadForm {
    /// The picture; several for an edit or a composite, in order.
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    image: String,
    /// Default: `decompose`.
    kind: Option<String>,
    prompt: Option<String>,
    instruction: Option<String>,
    layers: Option<u32>,
    steps: Option<u32>,
    cfg_scale: Option<f64>,
    /// `exact`, `balanced`, `fast` or `lightning`.
    preset: Option<String>,
    /// `euler`, `abm2` or `unipc`.
    sampler: Option<String>,
    step_cache: Option<u32>,
    cfg_until: Option<f64>,
    /// A JSON array.
    sigmas: Option<String>,
    /// A JSON array of LoRAs, such as `[{"name": "flat-colors", "strength": 0.8}]`.
    loras: Option<String>,
    seed: Option<u64>,
    resolution: Option<u32>,
    negative_prompt: Option<String>,
    /// `key=value`; may be repeated.
    label: Option<String>,
    priority: Option<u8>,
    batch: Option<String>,
    /// Start not before this time, RFC 3339.
    not_before: Option<String>,
    webhook: Option<String>,
    id: Option<String>,
    /// The whole request as JSON, instead of the other fields and without `input`.
    request: Option<String>,
}

/// Submit a job
///
/// Send JSON, or a form with the pictures. The same `Idempotency-Key`, or the same `id`, with the same body is the same
/// job.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 characters of your choice"),
        ("traceparent" = Option<String>, Header, description = "The W3C trace that the job becomes part of"),
        ("tracestate" = Option<String>, Header, description = "Vendors' data about that trace, passed on unchanged")),
    request_body(content((SubmitBody = "application/json"), (UploadForm = "multipart/form-data"))),
    responses(
        (status = 202, description = "Accepted", body = JobView, headers(("Location" = String))),
        (status = 200, description = "Already accepted", body = JobView, headers(("Location" = String))),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn submit(State(api): State<Api>, caller: Caller, request: Request) -> Answer<Response> {
    let api = api.by(&caller);
    let key = key(request.headers())?;
    let body = match extract::media_type(request.headers()).as_str() {
        "multipart/form-data" => upload::form(&api, request).await?,
        _ if extract::is_json(request.headers()) => {
            extract::Json::<SubmitBody, MAX_REQUEST_BYTES>::from_request(request, &()).await?.0
        }
        _ => return Err(extract::unsupported("application/json or multipart/form-data")),
    };
    let by_key = key.is_some() && body.id.is_none();
    let (request, options) = compose(&api, body, key.as_deref()).await?;
    let submitted =
        api.accept(&request, &options).await.map_err(|failure| if by_key { reused(failure) } else { failure })?;
    let (status, row) = match submitted {
        Submitted::New(row) => (StatusCode::ACCEPTED, row),
        Submitted::Known(row) => (StatusCode::OK, row),
    };
    let view = JobView::new(&row, &api);
    Ok((status, [(header::LOCATION, view.links.this.clone())], Json(view)).into_response())
}

//! `POST /v1/jobs`.

use axum::{
    Json,
    extract::{FromRequest, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use utoipa::ToSchema;

use super::{
    request::{IdempotencyKey, SubmitBody, job_request, key, reused},
    upload,
};
use crate::{
    database::Submitted,
    http::{
        api::Api,
        caller::Caller,
        extract,
        openapi::Binary,
        problem::{Answer, Problem},
        view::JobView,
    },
    job::{
        AlphaMode, BatchId, JobId, JobKind, KeepRest, LayerCount, MAX_REQUEST_BYTES, OutputSize, PresetName,
        SamplerName,
    },
};

/// The fields of a form, only for the schema; the handler reads the fields as they arrive.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a form to readers of the OpenAPI document")]
pub struct UploadForm {
    /// The picture; several for an edit or a composite, in order.
    #[schema(inline)]
    image: Option<Vec<Binary>>,
    /// A picture that is on the server already: an address, or JSON such as `{"job": ID, "layer": 2}`. Its place among
    /// the pictures is its place in the form.
    reference: Option<Vec<String>>,
    /// Where an edit may change its picture, white: a picture, or like `reference`.
    #[schema(inline)]
    mask: Option<Binary>,
    /// Default: `decompose`.
    kind: Option<JobKind>,
    /// The whole request as JSON, instead of the fields below and without `input`.
    #[schema(content_media_type = "application/json")]
    request: Option<String>,
    prompt: Option<String>,
    layers: Option<LayerCount>,
    #[schema(minimum = 32, maximum = 4096, multiple_of = 32)]
    resolution: Option<u32>,
    cfg_normalize: Option<bool>,
    #[schema(minimum = 0, maximum = 100)]
    min_psnr: Option<f64>,
    trim: Option<bool>,
    #[schema(minimum = 1, maximum = 64)]
    count: Option<u32>,
    /// A JSON array: the seed of each variant.
    #[schema(content_media_type = "application/json")]
    seeds: Option<String>,
    instruction: Option<String>,
    output_size: Option<OutputSize>,
    /// A JSON array: `[x, y, width, height]`.
    #[schema(content_media_type = "application/json")]
    region: Option<String>,
    #[schema(minimum = 0, maximum = 512)]
    feather: Option<u32>,
    keep_rest: Option<KeepRest>,
    drift_guard: Option<bool>,
    alpha: Option<AlphaMode>,
    /// For a workflow: the parameters of its decompose, as JSON.
    #[schema(content_media_type = "application/json")]
    decompose: Option<String>,
    /// For a workflow: its edits, as JSON: `[{"layer": 2, "instruction": "Make it green"}]`.
    #[schema(content_media_type = "application/json")]
    edits: Option<String>,
    /// What the parameters below are if the form does not say.
    preset: Option<PresetName>,
    #[schema(minimum = 1, maximum = 1000)]
    steps: Option<u32>,
    #[schema(minimum = 0, maximum = 100)]
    cfg_scale: Option<f64>,
    seed: Option<u64>,
    negative_prompt: Option<String>,
    sampler: Option<SamplerName>,
    /// A JSON array.
    #[schema(content_media_type = "application/json")]
    sigmas: Option<String>,
    #[schema(minimum = 0, maximum = 10)]
    step_cache: Option<u32>,
    #[schema(minimum = 0, maximum = 1)]
    cfg_until: Option<f64>,
    /// LoRAs, as a JSON array such as `[{"name": "flat-colors", "strength": 0.8}]`.
    #[schema(content_media_type = "application/json")]
    loras: Option<String>,
    /// Any of the parameters, as a JSON object.
    #[schema(content_media_type = "application/json")]
    params: Option<String>,
    /// `key=value`; may be repeated.
    label: Option<Vec<String>>,
    #[schema(maximum = 9)]
    priority: Option<u8>,
    batch: Option<BatchId>,
    /// Start not before this time, RFC 3339.
    #[schema(value_type = Option<String>, format = DateTime)]
    not_before: Option<String>,
    /// Take the result of an equal job that has succeeded, if there is one; needs a seed.
    reuse: Option<bool>,
    webhook: Option<String>,
    id: Option<JobId>,
}

/// Submit a job
///
/// Send JSON, or a form with the pictures. The same `Idempotency-Key`, or the same `id`, with the same body is the same
/// job.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", operation_id = "submit_job",
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
    let key = key(request.headers(), &caller)?;
    let body = match extract::media_type(request.headers()).as_str() {
        "multipart/form-data" => upload::form(&api, request).await?,
        _ if extract::is_json(request.headers()) => {
            extract::Json::<SubmitBody, MAX_REQUEST_BYTES>::from_request(request, &()).await?.0
        }
        _ => return Err(extract::unsupported("application/json or multipart/form-data")),
    };
    let by_key = key.is_some() && body.id.is_none();
    let (request, options) = job_request(&api, body, key.as_ref().map(IdempotencyKey::id)).await?;
    let submitted =
        api.accept(&request, &options).await.map_err(|failure| if by_key { reused(failure) } else { failure })?;
    let (status, row) = match submitted {
        Submitted::New(row) => (StatusCode::ACCEPTED, row),
        Submitted::Known(row) => (StatusCode::OK, row),
    };
    let view = JobView::new(&row, &api);
    Ok((status, [(header::LOCATION, view.links.this.clone())], Json(view)).into_response())
}

//! The Qwen-Image web server's endpoints: they wait for their job, and closing the connection cancels it.

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    api::Api,
    caller::Caller,
    export, extract, files,
    jobs::{keep, receive},
    openapi::Binary,
    problem::{Answer, ApiError, Problem},
    view::InputView,
    wait::{Wait, done, files_of, submission},
};
use crate::{
    database::JobRow,
    job::{JobError, JobId, JobKind},
};

#[derive(Debug, Deserialize, ToSchema)]
pub struct Decompose {
    /// `data:image/png;base64,...`
    image: String,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default, alias = "num_layers", alias = "layers")]
    layer_num: Option<u32>,
    #[serde(default, alias = "num_inference_steps")]
    steps: Option<u32>,
    #[serde(default)]
    cfg_scale: Option<f64>,
    #[serde(default)]
    resolution: Option<u32>,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default)]
    negative_prompt: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct EditLayer {
    /// `data:image/png;base64,...`; also as `layer_image`.
    #[serde(alias = "layer_image")]
    image: String,
    instruction: String,
    #[serde(default, alias = "num_inference_steps")]
    steps: Option<u32>,
    #[serde(default)]
    cfg_scale: Option<f64>,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default)]
    negative_prompt: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DecomposedLayers)]
pub struct Layers {
    job: JobId,
    layers: Vec<Layer>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Layer {
    /// 0 is the whole picture as the model regenerates it.
    layer: u32,
    /// `data:image/png;base64,...`
    image: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Edited {
    job: JobId,
    /// `data:image/png;base64,...`
    image: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct QwenImageConfig {
    layer_num: u32,
    num_inference_steps: u32,
    steps: u32,
    cfg_scale: f64,
    /// Null: the checkpoint's own resolution.
    resolution: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelStatus {
    available: bool,
    /// Null if this process does not run jobs.
    loaded: Option<bool>,
    model: String,
    /// The same as `loaded`, for the edit model.
    #[serde(skip_serializing_if = "Option::is_none")]
    edit_model_loaded: Option<bool>,
}

/// Split a picture into layers, and wait for the result
///
/// Returns the layers as data URLs, or with `Accept: application/zip` as a ZIP. Closing the connection cancels the job.
#[utoipa::path(post, path = "/api/qwen-image/decompose", tag = "qwen-image", operation_id = "qwen_image_decompose", request_body = Decompose,
    responses(
        (status = 200, description = "The layers, as JSON or ZIP", content((Layers = "application/json"), (inline(Binary) = "application/zip"))),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn decompose(State(api): State<Api>, caller: Caller, request: Request) -> Answer<Response> {
    let api = api.by(&caller);
    let (headers, asked) = body::<Decompose>(&api, request).await?;
    let params = json!({
        "prompt": asked.prompt, "layers": asked.layer_num, "steps": asked.steps, "cfg_scale": asked.cfg_scale,
        "resolution": asked.resolution, "seed": asked.seed, "negative_prompt": asked.negative_prompt,
    });
    let row = finished(&api, JobKind::Decompose, &asked.image, params).await?;
    if accepts(&headers, "application/zip") && !accepts(&headers, "application/json") {
        return export::zip(State(api), extract::Id(row.id()), extract::QueryParams::default(), HeaderMap::new()).await;
    }
    let mut layers = Vec::new();
    for file in files_of(&row) {
        if let Some(layer) = file.layer() {
            layers.push(Layer { layer, image: data_url(&files::read(&api, &row, file).await?) });
        }
    }
    Ok(Json(Layers { job: row.id(), layers }).into_response())
}

/// Edit a layer, and wait for the result
///
/// Returns the PNG, or with `Accept: application/json` a data URL. Closing the connection cancels the job.
#[utoipa::path(post, path = "/api/qwen-image/edit-layer", tag = "qwen-image", operation_id = "qwen_image_edit_layer", request_body = EditLayer,
    responses(
        (status = 200, description = "The edited layer, as PNG or JSON", content((inline(Binary) = "image/png"), (Edited = "application/json"))),
        (status = "default", description = "The error", body = Problem, content_type = "application/problem+json")))]
pub async fn edit_layer(State(api): State<Api>, caller: Caller, request: Request) -> Answer<Response> {
    let api = api.by(&caller);
    let (headers, asked) = body::<EditLayer>(&api, request).await?;
    let params = json!({
        "instruction": asked.instruction, "steps": asked.steps, "cfg_scale": asked.cfg_scale, "seed": asked.seed,
        "negative_prompt": asked.negative_prompt,
    });
    let row = finished(&api, JobKind::Edit, &asked.image, params).await?;
    let Some(file) = files_of(&row).first() else {
        return Err(ApiError::not_found("the edit has no result").of_job(row.id()));
    };
    let png = files::read(&api, &row, file).await?;
    if accepts(&headers, "application/json") && !accepts(&headers, "image/png") {
        return Ok(Json(Edited { job: row.id(), image: data_url(&png) }).into_response());
    }
    Ok(([(header::CONTENT_TYPE, "image/png")], png).into_response())
}

/// Show the defaults
#[utoipa::path(get, path = "/api/qwen-image/config", tag = "qwen-image", operation_id = "qwen_image_config", responses((status = 200, description = "The defaults", body = QwenImageConfig)))]
pub async fn config(State(api): State<Api>) -> Json<QwenImageConfig> {
    let defaults = &api.settings().defaults.decompose;
    Json(QwenImageConfig {
        layer_num: defaults.layers.number().unwrap_or_default(),
        num_inference_steps: defaults.steps,
        steps: defaults.steps,
        cfg_scale: defaults.cfg_scale,
        resolution: defaults.resolution,
    })
}

/// Show the model for decompose
#[utoipa::path(get, path = "/api/qwen-image/status", tag = "qwen-image", operation_id = "qwen_image_status", responses((status = 200, description = "The model for decompose", body = ModelStatus)))]
pub async fn status(State(api): State<Api>) -> Json<ModelStatus> {
    let model = api.models().await.decompose;
    Json(ModelStatus {
        available: model.available != Some(false),
        loaded: model.loaded,
        model: model.id,
        edit_model_loaded: None,
    })
}

/// Show the model for edits
#[utoipa::path(get, path = "/api/qwen-image/edit-status", tag = "qwen-image", operation_id = "qwen_image_edit_status", responses((status = 200, description = "The model for edits", body = ModelStatus)))]
pub async fn edit_status(State(api): State<Api>) -> Json<ModelStatus> {
    let model = api.models().await.edit;
    Json(ModelStatus {
        available: model.available != Some(false),
        loaded: model.loaded,
        model: model.id,
        edit_model_loaded: Some(model.loaded.unwrap_or(false)),
    })
}

async fn body<T: DeserializeOwned>(api: &Api, request: Request<Body>) -> Answer<(HeaderMap, T)> {
    receive(api, request, |request: Request<Body>| async move {
        let (parts, body) = request.into_parts();
        if !extract::is_json(&parts.headers) {
            return Err(extract::unsupported("application/json"));
        }
        let bytes = extract::whole(&parts.headers, body, api.settings().max_upload_bytes).await?;
        Ok((parts.headers, extract::parse(&bytes)?))
    })
    .await
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let all = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(','))
        .any(|range| range.split(';').next().is_some_and(|range| range.trim() == media_type))
}

/// Submits a job and waits until it has succeeded.
async fn finished(api: &Api, kind: JobKind, image: &str, params: Value) -> Answer<JobRow> {
    let image = InputView::Upload { upload: keep(api, "image", from_data_url(image)?).await?.name };
    // Missing parameters have the server's defaults.
    let said = |(name, value): (String, Value)| (!value.is_null()).then_some((name, value));
    let params: Map<String, Value> = match params {
        Value::Object(params) => params.into_iter().filter_map(said).collect(),
        _ => Map::new(),
    };
    let rows = done(api, vec![submission(kind, vec![image], params)], Wait::default()).await?;
    rows.into_iter().next().ok_or_else(|| ApiError::not_found("the job has no row"))
}

/// Also accepts base64 without the data URL's prefix.
fn from_data_url(text: &str) -> Answer<Vec<u8>> {
    let wrong = |reason: &str| ApiError::from(JobError::invalid("image", reason));
    let base64 = match text.strip_prefix("data:") {
        Some(rest) => match rest.split_once(',') {
            Some((kind, data)) if kind.ends_with(";base64") => data,
            _ => return Err(wrong("is a data URL without ;base64; write data:image/png;base64,...")),
        },
        None => text,
    };
    STANDARD.decode(base64.trim()).map_err(|_| wrong("is not base64; write data:image/png;base64,..."))
}

fn data_url(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

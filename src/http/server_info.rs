//! `/v1/config` and `/v1/models`: what the web UI needs to know about the server.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    api::Api,
    settings::{Defaults, Mode, Models},
};

/// The server's mode, and the defaults and limits of requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConfigView {
    /// The version of acetate.
    version: &'static str,
    mode: Mode,
    /// Whether this process also runs jobs.
    works: bool,
    defaults: Defaults,
    bounds: Bounds,
    limits: LimitsView,
    /// Whether jobs may have a `webhook`.
    webhooks: bool,
    /// Whether jobs may use pictures from the web.
    http_inputs: bool,
}

/// Minimum and maximum of each parameter.
#[derive(Debug, Serialize, ToSchema)]
struct Bounds {
    layers: [u32; 2],
    steps: [u32; 2],
    cfg_scale: [f64; 2],
    resolution: [u32; 2],
    edit_images: u32,
    composite_images: u32,
}

#[derive(Debug, Serialize, ToSchema)]
struct LimitsView {
    max_upload_bytes: u64,
    max_image_bytes: u64,
    max_pixels: u64,
    max_width: u32,
    max_height: u32,
    max_queued: u64,
}

/// Show defaults, bounds and limits
#[utoipa::path(get, path = "/v1/config", tag = "server", responses((status = 200, description = "Defaults, bounds and limits", body = ConfigView)))]
pub async fn config(State(api): State<Api>) -> Json<ConfigView> {
    let settings = api.settings();
    Json(ConfigView {
        version: env!("CARGO_PKG_VERSION"),
        mode: settings.mode,
        works: settings.works,
        defaults: settings.defaults.clone(),
        bounds: Bounds {
            layers: [2, 10],
            steps: [1, 1000],
            cfg_scale: [0.0, 100.0],
            resolution: [32, 4096],
            edit_images: 3,
            composite_images: 64,
        },
        limits: LimitsView {
            max_upload_bytes: settings.max_upload_bytes,
            max_image_bytes: settings.limits.max_bytes,
            max_pixels: settings.limits.max_pixels,
            max_width: settings.limits.max_width,
            max_height: settings.limits.max_height,
            max_queued: settings.max_queued,
        },
        webhooks: settings.webhook.is_some(),
        http_inputs: settings.http_inputs,
    })
}

/// Show the models that jobs run on
#[utoipa::path(get, path = "/v1/models", tag = "server", responses((status = 200, description = "The models", body = Models)))]
pub async fn models(State(api): State<Api>) -> Json<Models> {
    Json(loaded(&api))
}

/// Includes which models are loaded at the moment.
pub fn loaded(api: &Api) -> Models {
    let mut models = api.settings().models.clone();
    if let Some(resident) = &api.parts.resident {
        let resident = resident.borrow();
        models.decompose.loaded = Some(resident.decompose.is_some());
        models.edit.loaded = Some(resident.edit.is_some());
    }
    models
}

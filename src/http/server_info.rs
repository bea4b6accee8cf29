//! `/v1/config` and `/v1/models`: what a page must know of the server.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    api::Api,
    settings::{Defaults, Mode, Models},
};

/// What the server does, and what holds when a request does not say.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConfigView {
    /// acetate's own.
    version: &'static str,
    mode: Mode,
    /// This process works on jobs, too.
    works: bool,
    defaults: Defaults,
    bounds: Bounds,
    limits: LimitsView,
    /// Jobs may name a `webhook`.
    webhooks: bool,
    /// Jobs may name pictures of the web.
    http_inputs: bool,
}

/// The least and the most.
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

/// Defaults, bounds and limits
#[utoipa::path(get, path = "/v1/config", tag = "server", responses((status = 200, description = "As asked", body = ConfigView)))]
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

/// The checkpoints that jobs run on
#[utoipa::path(get, path = "/v1/models", tag = "server", responses((status = 200, description = "As asked", body = Models)))]
pub async fn models(State(api): State<Api>) -> Json<Models> {
    Json(loaded(&api))
}

/// With what is in memory at this moment.
pub fn loaded(api: &Api) -> Models {
    let mut models = api.settings().models.clone();
    if let Some(resident) = &api.parts.resident {
        let resident = resident.borrow();
        models.decompose.loaded = Some(resident.decompose.is_some());
        models.edit.loaded = Some(resident.edit.is_some());
    }
    models
}

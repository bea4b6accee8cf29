//! `/v1/config` and `/v1/models`: what a page must know of the server.

use std::ops::RangeInclusive;

use axum::{Json, extract::State};
use qwen_image::pipeline::{CFG_SCALE, LAYERS, NUM_INFERENCE_STEPS, RESOLUTION};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    api::Api,
    settings::{Defaults, ServerMode, ServerModels},
};
use crate::job::{COMPOSITE_IMAGES, EDIT_IMAGES};

/// What the server does, and what holds when a request does not say.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConfigView {
    /// acetate's own.
    version: &'static str,
    mode: ServerMode,
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
    edit_images: usize,
    composite_images: usize,
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
            layers: ends(LAYERS),
            steps: ends(NUM_INFERENCE_STEPS),
            cfg_scale: ends(CFG_SCALE),
            resolution: ends(RESOLUTION),
            edit_images: *EDIT_IMAGES.end(),
            composite_images: *COMPOSITE_IMAGES.end(),
        },
        limits: LimitsView {
            max_upload_bytes: settings.max_upload_bytes,
            max_image_bytes: settings.limits.max_bytes,
            max_pixels: settings.limits.max_pixels,
            max_width: settings.limits.max_width,
            max_height: settings.limits.max_height,
            max_queued: settings.max_queued,
        },
        webhooks: settings.webhook_secret.is_some(),
        http_inputs: settings.http_inputs,
    })
}

fn ends<T>(range: RangeInclusive<T>) -> [T; 2] {
    let (least, most) = range.into_inner();
    [least, most]
}

/// The checkpoints that jobs run on
#[utoipa::path(get, path = "/v1/models", tag = "server", responses((status = 200, description = "As asked", body = ServerModels)))]
pub async fn models(State(api): State<Api>) -> Json<ServerModels> {
    Json(loaded(&api))
}

/// With what is in memory at this moment.
pub fn loaded(api: &Api) -> ServerModels {
    let mut models = api.settings().models.clone();
    if let Some(resident) = &api.parts.resident {
        let resident = resident.borrow();
        models.decompose.loaded = Some(resident.decompose.is_some());
        models.edit.loaded = Some(resident.edit.is_some());
    }
    models
}

//! `/v1/config` and `/v1/models`: what the web UI needs to know about the server.

use std::ops::RangeInclusive;

use axum::{Json, extract::State};
use qwen_image::{
    Preset,
    pipeline::{CFG_SCALE, CFG_UNTIL, LAYERS, NUM_INFERENCE_STEPS, PresetValues, RESOLUTION, STEP_CACHE},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    api::Api,
    settings::{Defaults, ServerMode, ServerModels},
};
use crate::job::{COMPOSITE_IMAGES, EDIT_IMAGES};

/// The server's mode, and the defaults and limits of requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConfigView {
    /// The version of acetate.
    version: &'static str,
    mode: ServerMode,
    /// Whether this process also runs jobs.
    works: bool,
    defaults: Defaults,
    bounds: Bounds,
    presets: Vec<PresetView>,
    limits: LimitsView,
    /// Whether jobs may have a `webhook`.
    webhooks: bool,
    /// Whether jobs may use pictures from the web.
    http_inputs: bool,
}

/// What a preset stands for.
#[derive(Debug, Serialize, ToSchema)]
struct PresetView {
    name: &'static str,
    steps: u32,
    sampler: &'static str,
    step_cache: u32,
    cfg_until: f64,
    /// Null: the preset leaves guidance as it is.
    cfg_scale: Option<f64>,
}

/// Minimum and maximum of each parameter.
#[derive(Debug, Serialize, ToSchema)]
struct Bounds {
    layers: [u32; 2],
    steps: [u32; 2],
    cfg_scale: [f64; 2],
    cfg_until: [f64; 2],
    step_cache: [u32; 2],
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

/// Show defaults, bounds and limits
#[utoipa::path(get, path = "/v1/config", tag = "server", operation_id = "show_config", responses((status = 200, description = "Defaults, bounds and limits", body = ConfigView)))]
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
            cfg_until: ends(CFG_UNTIL),
            step_cache: ends(STEP_CACHE),
            resolution: ends(RESOLUTION),
            edit_images: *EDIT_IMAGES.end(),
            composite_images: *COMPOSITE_IMAGES.end(),
        },
        presets: Preset::ALL.into_iter().map(preset).collect(),
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

fn preset(preset: Preset) -> PresetView {
    let PresetValues { sampler, num_inference_steps: steps, step_cache, cfg_until, cfg_scale } = preset.values();
    PresetView { name: preset.as_str(), steps, sampler: sampler.as_str(), step_cache, cfg_until, cfg_scale }
}

fn ends<T>(range: RangeInclusive<T>) -> [T; 2] {
    let (least, most) = range.into_inner();
    [least, most]
}

/// Show the models that jobs run on
#[utoipa::path(get, path = "/v1/models", tag = "server", operation_id = "show_models", responses((status = 200, description = "The models", body = ServerModels)))]
pub async fn models(State(api): State<Api>) -> Json<ServerModels> {
    Json(api.models().await)
}

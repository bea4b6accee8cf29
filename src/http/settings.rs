//! The API's settings, as plain values.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiTokens, WebhookSecret};
use crate::{
    egress::WebhookPolicy,
    image::DecodeLimits,
    job::{DecomposeParams, EditParams, WorkflowParams},
};

/// The settings of `[http]`, and those of other sections that the API needs.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// None: no token is needed.
    pub tokens: ApiTokens,
    /// Host names, in addition to localhost, that a server without a token accepts.
    pub hosts: Vec<String>,
    pub cors_origins: Vec<String>,
    pub max_upload_bytes: u64,
    pub max_queued: u64,
    /// Per client. 0: no limit.
    pub requests_per_second: f64,
    /// How long a request to the OpenAI API's paths waits for its jobs.
    pub wait: Duration,
    /// Absent: webhooks are disabled.
    pub webhook_secret: Option<WebhookSecret>,
    pub webhook_policy: WebhookPolicy,
    /// The pause after the first failed webhook call.
    pub webhook_retry: Duration,
    /// The limits of an input picture.
    pub limits: DecodeLimits,
    pub http_inputs: bool,
    pub defaults: Defaults,
    pub mode: ServerMode,
    /// Whether this process also runs jobs.
    pub works: bool,
}

/// Whether one process does everything, or this is the API server of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerMode {
    Embedded,
    Service,
}

/// The defaults for parameters that requests leave out.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Defaults {
    pub decompose: DecomposeParams,
    pub edit: EditParams,
}

impl Defaults {
    pub fn workflow(&self) -> WorkflowParams {
        WorkflowParams { decompose: self.decompose.clone(), edits: Vec::new() }
    }
}

/// The configured checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ServerModels {
    pub decompose: ServerModel,
    pub edit: ServerModel,
    /// `cpu`, `cuda:0`.
    pub device: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ServerModel {
    /// A hub id, or the name of a folder.
    pub id: String,
    /// Whether it is the small one that comes with acetate, for drawings of simple shapes.
    pub small: bool,
    /// Whether it is in memory; null if this process does not run jobs.
    pub loaded: Option<bool>,
    /// Whether it is on this machine. If not, the first job downloads it, or fails. Null if this process does not run
    /// jobs and the model is not here: the workers may have it.
    pub available: Option<bool>,
    /// The least and the most layers that it was made for; null for an edit model, and if it is not here.
    pub layers: Option<[u32; 2]>,
    /// The values of `resolution` that it accepts, the default first; null for an edit model, and if it is not here.
    pub resolutions: Option<Vec<u32>>,
}

//! What the API is set up with, as plain values.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Token, WebhookSecret};
use crate::{
    egress::WebhookPolicy,
    image::Limits,
    job::{DecomposeParams, EditParams, WorkflowParams},
};

/// `[http]`, and what of the other sections the API must know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Absent: whoever can ask may.
    pub token: Option<Token>,
    /// Names beside the loopback's under which a server without a token may be asked.
    pub hosts: Vec<String>,
    pub cors_origins: Vec<String>,
    pub max_upload_bytes: u64,
    pub max_queued: u64,
    /// Of one client. 0: no limit.
    pub requests_per_second: f64,
    /// Absent: nobody can be called.
    pub webhook_secret: Option<WebhookSecret>,
    pub webhook_policy: WebhookPolicy,
    /// The pause after the first call that did not arrive.
    pub webhook_retry: Duration,
    /// Of a picture.
    pub limits: Limits,
    pub http_inputs: bool,
    pub defaults: Defaults,
    pub models: ServerModels,
    pub mode: ServerMode,
    /// This process works on jobs, too.
    pub works: bool,
}

/// One process that is all there is, or the front of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerMode {
    Embedded,
    Service,
}

/// Parameters of requests that do not name them.
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

/// The checkpoints that are configured.
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
    /// The one that comes with acetate, for drawn scenes of simple shapes.
    pub small: bool,
    /// Whether it is in memory; null where this process does not work on jobs.
    pub loaded: Option<bool>,
}

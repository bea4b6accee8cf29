//! The HTTP server: the API, the web UI, and the probes and metrics.
//!
//! `acetate worker` serves only the three probes; `acetate serve` serves everything ([`Api`], [`routes`]). A request
//! passes the middleware (`middleware/`: token, origin, rate, size), then reaches its handler. Handlers submit jobs,
//! read rows and read files; none of them runs a job, and only the Qwen-Image web server's endpoints
//! (`qwen_image_server`) and OpenAI's (`openai/`) wait for one. All watchers of a job share one query of its row
//! (`watch.rs`).
//!
//! Every request and response type derives its schema, and `routes` builds `/openapi.json` from the routes themselves.

mod api;
mod audit;
mod batches;
mod caller;
mod dead_letters;
mod export;
mod extract;
mod files;
mod inputs;
mod jobs;
mod listen;
mod metrics;
mod middleware;
mod nested;
mod openai;
mod openapi;
mod pace;
mod probes;
mod problem;
mod queue;
mod qwen_image_server;
mod range;
mod routes;
mod server_info;
mod settings;
mod static_files;
mod thumbnails;
mod view;
mod wait;
mod watch;
mod webhook;

use std::{net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use api::{Api, ApiParts, Dispatcher};
pub use caller::{Role, SINGLE_TOKEN};
pub use listen::ConnectionLimits;
pub use metrics::describe;
pub use middleware::{ApiToken, ApiTokens, NamedToken};
pub use nested::NestedResult;
pub use probes::Probes;
pub use routes::{api_document, routes};
pub use settings::{Defaults, HttpSettings, ServerMode, ServerModel, ServerModels};
pub use webhook::{WebhookSecret, send as send_webhooks};

use crate::job::JobError;

/// How long open connections may take to finish when the server stops.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// The most connections of a worker, which only the owner's tools ask.
const PROBE_CONNECTIONS: usize = 128;

/// A bound address that does not serve requests yet.
pub struct Server {
    listener: TcpListener,
    limits: ConnectionLimits,
}

impl Server {
    /// Reads `http.bind`.
    pub fn parse_address(bind: &str) -> Result<SocketAddr, JobError> {
        bind.parse().map_err(|_| {
            JobError::invalid("http.bind", format!("`{bind}` is not an address and port, such as 127.0.0.1:8080"))
        })
    }

    /// Binds `http.bind`; port 0 picks a free one.
    pub async fn bind(bind: &str, limits: ConnectionLimits) -> Result<Self, JobError> {
        let wrong = |reason: String| JobError::invalid("http.bind", format!("`{bind}` {reason}"));
        let address = Self::parse_address(bind)?;
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::AddrInUse => "is already in use".to_owned(),
                _ => format!("cannot be used ({error})"),
            };
            wrong(format!("{why}; set another, or port 0 for a free one"))
        })?;
        Ok(Self { listener, limits })
    }

    /// The most requests that stay open while a job runs: the other half of the connections is for all others.
    pub fn most_long(&self) -> usize {
        (self.limits.most / 2).max(1)
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves a worker's probes until `stop`.
    pub async fn serve(self, probes: Probes, stop: CancellationToken) {
        let app = Router::new()
            .route("/healthz", get(probes::healthz))
            .route("/readyz", get(probes::readyz))
            .route("/metrics", get(probes::metrics))
            .with_state(probes);
        let limits = ConnectionLimits { most: self.limits.most.min(PROBE_CONNECTIONS), ..self.limits };
        listen::serve(self.listener, app, limits, stop).await;
    }

    /// Serves everything until `stop`.
    pub async fn serve_api(self, api: Api, stop: CancellationToken) {
        let stopping = stop.clone();
        tokio::select! {
            () = listen::serve(self.listener, routes(api), self.limits, stop) => {}
            () = async { stopping.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => {}
        }
    }
}

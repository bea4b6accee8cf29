//! What a worker answers over HTTP: is it alive, can it work, and its numbers.

mod probes;

use std::net::SocketAddr;

use axum::{Router, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use probes::Probes;

use crate::job::JobError;

/// A bound address, not yet answering.
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Binds `http.bind`; port 0 takes a free one.
    pub async fn bind(bind: &str) -> Result<Self, JobError> {
        let wrong = |reason: String| JobError::invalid("http.bind", format!("`{bind}` {reason}"));
        let address: SocketAddr =
            bind.parse().map_err(|_| wrong("is not an address and port, such as 127.0.0.1:8080".to_owned()))?;
        let listener = TcpListener::bind(address).await.map_err(|error| {
            wrong(format!("cannot be listened on ({error}); set another, or port 0 for a free one"))
        })?;
        Ok(Self { listener })
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until `stop`.
    pub async fn serve(self, probes: Probes, stop: CancellationToken) -> std::io::Result<()> {
        let app = Router::new()
            .route("/healthz", get(probes::healthz))
            .route("/readyz", get(probes::readyz))
            .route("/metrics", get(probes::metrics))
            .with_state(probes);
        axum::serve(self.listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await
    }
}

//! Accepts connections and serves HTTP/1.1 on them, so that no client can take the server away from the others.
//!
//! A request's head and body must keep coming ([`paced`]), a client must keep reading its response ([`reader`]), and
//! there are fewer connections than the process may have files open ([`open`]). When all are in use, a new client gets
//! the place of one that has sent no whole request, or that hardly reads its response. `axum::serve` has none of these
//! limits and no timer.

mod open;
mod paced;
mod reader;

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
};
use hyper::{
    body::Incoming,
    server::conn::http1::Builder,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use open::{Answered, ConnectionSlot, OpenConnections};
use paced::Paced;
pub use paced::is_too_slow;
use reader::Observed;

/// How long a client may read nothing of its response.
const WRITE_STALL: Duration = Duration::from_secs(60);
/// The pause after an error of the listener, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// How often such errors are logged.
const LOG_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// The most connections at a time.
    pub most: usize,
    /// How long the head of a request may take, how long a connection may be idle, and the time for each
    /// 16 KiB of a body.
    pub read_timeout: Duration,
}

/// Serves until `stop`; then waits for the requests that have started.
pub async fn serve(listener: TcpListener, app: Router, limits: ConnectionLimits, stop: CancellationToken) {
    let open = Arc::new(OpenConnections::new(limits.most));
    let tasks = TaskTracker::new();
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (socket, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_the_clients(&error) => continue,
            Err(error) => {
                if logged.is_none_or(|at| at.elapsed() > LOG_EVERY) {
                    logged = Some(Instant::now());
                    warn!(%error, "cannot accept connections; trying again");
                }
                open.close_one();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            place = open.place() => place,
            () = stop.cancelled() => break,
        };
        tasks.spawn(connection(socket, client, app.clone(), limits.read_timeout, place, stop.clone()));
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// The client left before it was accepted.
fn is_the_clients(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    socket: TcpStream,
    client: SocketAddr,
    app: Router,
    read_timeout: Duration,
    place: ConnectionSlot,
    stop: CancellationToken,
) {
    let _ = socket.set_nodelay(true);
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(WRITE_STALL));
    let app = TowerToHyperService::new(app);
    let state = place.connection();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answering = state.request(&request);
        let state = state.clone();
        let mut request: Request = request.map(|body| Body::new(Paced::new(body, state, read_timeout)));
        request.extensions_mut().insert(ConnectInfo(client));
        let response = app.call(request);
        async move {
            let response = response.await?;
            Ok::<_, Infallible>(response.map(|body| Body::new(Answered::new(body, answering))))
        }
    });
    let mut serving = pin!(
        Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(read_timeout)
            .serve_connection(TokioIo::new(Observed::new(Box::pin(socket), place.connection())), service)
    );
    let mut leaving = false;
    loop {
        tokio::select! {
            served = serving.as_mut() => {
                if let Err(error) = served {
                    debug!(%client, %error, "a connection ended");
                }
                break;
            }
            () = place.closed() => break,
            () = stop.cancelled(), if !leaving => {
                leaving = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

//! An HTTP client that gives up on a server by its silence, and not by how long a request takes: a large object over a
//! slow line may take hours, as long as bytes go out.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use aws_sdk_s3::{
    config::{HttpClient, RuntimeComponents, SharedHttpClient, http::HttpRequest},
    primitives::SdkBody,
};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
    result::ConnectorError,
};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// A body goes out in pieces of this size, so that progress is seen.
const PIECE: usize = 64 << 10;

/// Each request fails once the server has neither taken a piece of it nor begun to respond for `window`.
#[derive(Debug)]
pub struct StallTimeoutClient {
    inner: SharedHttpClient,
    window: Duration,
}

impl StallTimeoutClient {
    pub fn new(inner: SharedHttpClient, window: Duration) -> Self {
        Self { inner, window }
    }
}

impl HttpClient for StallTimeoutClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(StallTimeoutConnector { inner, window: self.window })
    }
}

#[derive(Debug)]
struct StallTimeoutConnector {
    inner: SharedHttpConnector,
    window: Duration,
}

impl HttpConnector for StallTimeoutConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let progress = LastProgress::default();
        let request = if request.body().content_length() == Some(0) {
            request
        } else {
            let progress = progress.clone();
            request.map(move |body| {
                SdkBody::from_body_1_x(StallBody { body, left: Bytes::new(), progress: progress.clone() })
            })
        };
        let (answer, window) = (self.inner.call(request), self.window);
        HttpConnectorFuture::new(async move {
            let mut answer = pin!(answer);
            loop {
                let until = progress.last() + window;
                tokio::select! {
                    answered = answer.as_mut() => return answered,
                    () = sleep_until(until) => {
                        if progress.last() + window <= Instant::now() {
                            return Err(ConnectorError::timeout(Box::new(Stalled { window })));
                        }
                    }
                }
            }
        })
    }
}

/// When the server last took a piece.
#[derive(Debug, Clone)]
struct LastProgress(Arc<Mutex<Instant>>);

impl Default for LastProgress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl LastProgress {
    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// A body that is handed out piece by piece.
struct StallBody {
    body: SdkBody,
    /// What the body gave and is not handed out yet.
    left: Bytes,
    progress: LastProgress,
}

impl Body for StallBody {
    type Data = Bytes;
    type Error = <SdkBody as Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        this.progress.made();
        if this.left.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)?) else { return Poll::Ready(None) };
            match frame.into_data() {
                Ok(data) => this.left = data,
                // Trailers.
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let piece = this.left.split_to(this.left.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.left.len() as u64;
        let below = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(below.lower() + left);
        if let Some(upper) = below.upper() {
            hint.set_upper(upper + left);
        }
        hint
    }
}

#[derive(Debug)]
struct Stalled {
    window: Duration,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no response and no progress for {} s (store.read_timeout_seconds)", self.window.as_secs_f64())
    }
}

impl std::error::Error for Stalled {}

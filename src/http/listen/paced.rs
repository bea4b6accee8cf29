//! A request's body that must keep coming.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::open::Connection;

/// A body must bring this many bytes within each read timeout, or end.
pub const LEAST_PROGRESS: usize = 16 << 10;

pub struct Paced {
    body: Incoming,
    connection: Arc<Connection>,
    window: Duration,
    /// When the current window ends. Only time spent waiting for the client counts.
    until: Pin<Box<Sleep>>,
    /// What has arrived in the current window.
    progress: usize,
    /// When the reader got the last piece; it may take its time.
    handed_over: Option<Instant>,
}

impl Paced {
    pub fn new(body: Incoming, connection: Arc<Connection>, window: Duration) -> Self {
        let until = Box::pin(sleep_until(Instant::now() + window));
        Self { body, connection, window, until, progress: 0, handed_over: Some(Instant::now()) }
    }

    fn too_slow(&self) -> TooSlow {
        TooSlow { bytes: self.progress, window: self.window }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Some(at) = this.handed_over.take() {
            let until = this.until.deadline() + at.elapsed();
            this.until.as_mut().reset(until);
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(this.until.as_mut().poll(cx));
                return Poll::Ready(Some(Err(this.too_slow().into())));
            }
        };
        let now = Instant::now();
        this.handed_over = Some(now);
        let Some(frame) = frame else {
            this.connection.received_all();
            return Poll::Ready(None);
        };
        let frame = frame?;
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        this.connection.received(bytes);
        this.progress += bytes;
        if this.body.is_end_stream() {
            this.connection.received_all();
        } else if this.progress >= LEAST_PROGRESS {
            this.progress = 0;
            this.until.as_mut().reset(now + this.window);
        } else if now >= this.until.deadline() {
            return Poll::Ready(Some(Err(this.too_slow().into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.connection.received_all();
    }
}

/// The client sends its body too slowly.
#[derive(Debug)]
struct TooSlow {
    bytes: usize,
    window: Duration,
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, window } = self;
        write!(
            f,
            "the body is too slow: {bytes} bytes in {} s, at least {LEAST_PROGRESS} are needed",
            window.as_secs_f64()
        )
    }
}

impl Error for TooSlow {}

/// Whether an error of a body, or one of its causes, is that it came too slowly; the text for the client.
pub fn is_too_slow(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(slow) = error.downcast_ref::<TooSlow>() {
            return Some(slow.to_string());
        }
        next = error.source();
    }
    None
}

//! Bodies that say that they are too large.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;

use crate::http::{api::Api, read};

/// A client that is still sending sees the answer only when somebody goes on reading, which is not done for ever.
const PATIENCE: Duration = Duration::from_secs(20);
const MOST: usize = 2 << 30;

/// Refuses before anything is kept, and then lets the rest of the body run into nothing.
pub async fn size(State(api): State<Api>, request: Request, next: Next) -> Response {
    match read::announced(request.headers(), api.settings().max_upload_bytes) {
        Ok(()) => next.run(request).await,
        Err(failure) => {
            swallow(request.into_body());
            failure.into_response()
        }
    }
}

fn swallow(body: Body) {
    tokio::spawn(tokio::time::timeout(PATIENCE, async move {
        let mut stream = body.into_data_stream();
        let mut seen = 0;
        while let Some(Ok(piece)) = stream.next().await {
            seen += piece.len();
            if seen > MOST {
                return;
            }
        }
    }));
}

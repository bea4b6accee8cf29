//! Refuses bodies by their `Content-Length`.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::http::{api::Api, extract};

/// Refuses before anything is stored.
pub async fn size(State(api): State<Api>, request: Request, next: Next) -> Response {
    match extract::announced(request.headers(), api.settings().max_upload_bytes) {
        Ok(()) => next.run(request).await,
        Err(failure) => {
            extract::swallow(request.into_body());
            failure.into_response()
        }
    }
}

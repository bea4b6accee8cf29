//! Bodies that say that they are too large.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::http::{api::Api, read};

/// Refuses before anything is kept.
pub async fn size(State(api): State<Api>, request: Request, next: Next) -> Response {
    match read::announced(request.headers(), api.settings().max_upload_bytes) {
        Ok(()) => next.run(request).await,
        Err(failure) => {
            read::swallow(request.into_body());
            failure.into_response()
        }
    }
}

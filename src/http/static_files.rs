//! Serves the web UI's files.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    files::{fresh, is_known, unchanged},
    problem::ApiError,
};
use crate::ui;

/// Everything comes from this server, and nothing is inline: a picture's name or a label can never become code.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
                      connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// File names do not change with their content, so browsers revalidate each time and mostly get 304.
const ASK: &str = "no-cache";

/// Every path without its own route: `/` and the web UI's files, otherwise a problem.
pub async fn page(request: Request) -> Response {
    let path = request.uri().path();
    let name = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return absent(path);
    }
    serve(name, request.headers()).unwrap_or_else(|| absent(path))
}

/// `/docs`: a page to browse the API.
pub async fn docs(headers: HeaderMap) -> Response {
    serve("docs.html", &headers).unwrap_or_else(|| absent("/docs"))
}

fn serve(name: &str, headers: &HeaderMap) -> Option<Response> {
    let asset = ui::asset(name)?;
    let tag = format!("\"{}\"", asset.sha256);
    let mut response = if is_known(headers, &tag) {
        unchanged(&tag, ASK)
    } else {
        fresh(asset.bytes.into_owned(), asset.media_type, &tag, ASK)
    };
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    Some(response)
}

fn absent(path: &str) -> Response {
    ApiError::not_found(format!("there is nothing at {path}; see /docs")).into_response()
}

/// A known path with a method that it does not support.
pub async fn wrong_method(request: Request<Body>) -> Response {
    let detail = format!("{} does not accept {}; see /docs", request.method(), request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).into_response()
}

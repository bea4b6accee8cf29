//! Encodings: responses may be compressed, requests may not.

use axum::{
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tower_http::compression::{
    CompressionLayer, Predicate,
    predicate::{NotForContentType, SizeAbove},
};

use crate::http::{extract, problem::ApiError};

/// A smaller response fits into one packet anyway.
const WORTH_IT: u64 = 1024;

/// Compresses text for clients that accept it. Pictures, archives and event streams are sent as they are: the first two
/// do not get smaller, and events must not wait in a compressor.
pub fn compression() -> CompressionLayer<impl Predicate> {
    let worth_it = SizeAbove::new(WORTH_IT)
        .and(NotForContentType::const_new("image/"))
        .and(NotForContentType::const_new("application/zip"))
        .and(NotForContentType::const_new("application/vnd.openxmlformats"))
        .and(NotForContentType::SSE);
    CompressionLayer::new().gzip(true).compress_when(worth_it)
}

/// The tag of a compressed response is weak, because its bytes are not those of the file: a part of the file must not
/// be appended to them.
pub async fn weak_tags(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if headers.contains_key(header::CONTENT_ENCODING)
        && let Some(tag) = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok())
        && !tag.starts_with("W/")
        && let Ok(weak) = HeaderValue::from_str(&format!("W/{tag}"))
    {
        headers.insert(header::ETAG, weak);
    }
    response
}

/// Refuses encoded bodies, which would otherwise be read as broken JSON. Small ones can expand to any size. JSON is
/// UTF-8 (RFC 8259), so another charset would give other letters.
pub async fn identity(request: Request, next: Next) -> Response {
    if let Some(charset) = extract::other_charset(request.headers()).filter(|_| extract::is_json(request.headers())) {
        extract::swallow(request.into_body());
        let detail = format!("the body's charset is `{}`; JSON is UTF-8: send it in UTF-8", charset.escape_debug());
        let refused = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail);
        return refused.about("Content-Type").into_response();
    }
    let encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    let encoded = encodings.map(|value| value.to_str().unwrap_or("?").trim().to_owned()).find(|encoding| {
        !encoding.is_empty() && !encoding.split(',').all(|part| part.trim().eq_ignore_ascii_case("identity"))
    });
    let Some(encoding) = encoded else { return next.run(request).await };
    extract::swallow(request.into_body());
    let detail = format!("the body is encoded with `{}`; send it without Content-Encoding", encoding.escape_debug());
    let refused = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail);
    let mut response = refused.about("Content-Encoding").into_response();
    response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    response
}

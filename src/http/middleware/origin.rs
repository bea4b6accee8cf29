//! Decides which web pages may use the server through a browser: its own, and those of listed origins.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::http::{api::Api, problem::ApiError};

/// Without a token, only this machine's host names are accepted: otherwise a page whose domain resolves to 127.0.0.1
/// could use the server.
pub async fn trusted_host(State(api): State<Api>, request: Request, next: Next) -> Response {
    let settings = api.settings();
    if settings.tokens.is_empty() && !host(&request).is_some_and(|host| is_trusted(host, &settings.hosts)) {
        let detail = "this Host is not allowed without a token; use localhost, or add the name to http.hosts";
        return ApiError::new(StatusCode::FORBIDDEN, "forbidden", detail).about("Host").into_response();
    }
    next.run(request).await
}

/// Browsers send a request's origin. A request that changes something must come from this server's origin or a listed
/// one.
pub async fn same_origin(State(api): State<Api>, request: Request, next: Next) -> Response {
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && is_foreign(&request, &api.settings().cors_origins) {
        let detail = "requests from other sites are not allowed; add the origin to http.cors_origins";
        return ApiError::new(StatusCode::FORBIDDEN, "forbidden", detail).about("Origin").into_response();
    }
    next.run(request).await
}

/// The security headers of every response.
pub async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // The web UI sets its own.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"));
    response
}

/// CORS headers for the listed origins; other origins get none.
pub fn cors(origins: &[String]) -> CorsLayer {
    let list = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(list))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::RANGE,
            header::IF_RANGE,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("tracestate"),
        ])
        .expose_headers([
            header::LOCATION,
            header::RETRY_AFTER,
            header::ETAG,
            header::ACCEPT_RANGES,
            header::CONTENT_RANGE,
        ])
}

fn is_foreign(request: &Request, allowed: &[String]) -> bool {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    match (request.headers().get(header::ORIGIN), text("origin")) {
        (None, _) => text("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site"),
        (Some(_), None) => true,
        (Some(_), Some(origin)) => {
            let own = origin.split_once("://").map(|(_, rest)| rest);
            let here = host(request);
            let same = own.is_some_and(|own| here.is_some_and(|here| own.eq_ignore_ascii_case(here)));
            !same && !allowed.iter().any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
        }
    }
}

fn host(request: &Request) -> Option<&str> {
    in_header(request.headers()).or_else(|| in_address(request.uri()))
}

fn in_header(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST).and_then(|value| value.to_str().ok())
}

fn in_address(uri: &Uri) -> Option<&str> {
    uri.authority().map(|authority| authority.as_str())
}

fn is_trusted(host: &str, listed: &[String]) -> bool {
    if listed.iter().any(|listed| listed.eq_ignore_ascii_case(host)) {
        return true;
    }
    let name = without_port(host);
    listed.iter().any(|listed| listed.eq_ignore_ascii_case(name))
        || name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_trusted() {
        let listed = ["laptop.lan".to_owned(), "other.lan:81".to_owned()];
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:1",
            "127.1.2.3",
            "[::1]:8080",
            "[::1]",
            "laptop.lan:9",
            "other.lan:81",
        ] {
            assert!(is_trusted(host, &listed), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example:8080", "10.0.0.1", "other.lan:82", "127.0.0.1.evil", "::1:x"]
        {
            assert!(!is_trusted(host, &listed), "{host}");
        }
    }

    #[test]
    fn other_sites_change_nothing() {
        let asked = |headers: &[(&str, &str)]| {
            let mut request = axum::http::Request::post("/v1/jobs").header("host", "localhost:8080");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            is_foreign(&request.body(axum::body::Body::empty()).unwrap(), &["https://pictures.example".to_owned()])
        };
        assert!(!asked(&[]) && !asked(&[("origin", "http://localhost:8080")]));
        assert!(!asked(&[("origin", "https://pictures.example")]));
        assert!(!asked(&[("sec-fetch-site", "same-origin")]));
        for origin in ["null", "http://localhost:8081", "https://evil.example", "http://localhost"] {
            assert!(asked(&[("origin", origin)]), "{origin}");
        }
        assert!(asked(&[("sec-fetch-site", "cross-site")]));
    }
}

//! The span of a request, in the trace that the request came with.

use axum::{
    extract::{MatchedPath, Request},
    http::HeaderMap,
    middleware::Next,
    response::Response,
};
use tracing::{Instrument, info_span};

use crate::{job::TraceContext, trace::request as span_of};

/// For requests to the API; probes and the files of the web UI have no spans.
pub async fn trace(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let Some(route) = route.filter(|route| route.starts_with("/v1/") || route.starts_with("/api/")) else {
        return next.run(request).await;
    };
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
        // Anyone may send any word.
        _ => "_OTHER",
    };
    let trace = sent_with(request.headers());
    let logged = match &trace {
        Some(trace) => info_span!("request", trace_id = trace.trace_id()),
        None => tracing::Span::none(),
    };
    let span = span_of(method, route, request.uri().path(), trace.as_ref());
    let response = span.within(Box::pin(next.run(request))).instrument(logged).await;
    span.answered(response.status().as_u16(), response.status().is_server_error());
    response
}

/// A `tracestate` may be in several headers; a `traceparent` may not.
fn sent_with(headers: &HeaderMap) -> Option<TraceContext> {
    let all = |name: &str| {
        let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("\u{fffd}"));
        Some(values.collect::<Vec<_>>().join(",")).filter(|joined| !joined.is_empty())
    };
    TraceContext::read("a request's headers", all("traceparent").as_deref(), all("tracestate").as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn sent(headers: &[(&'static str, &'static str)]) -> Option<TraceContext> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        sent_with(&map)
    }

    #[test]
    fn one_traceparent_and_any_number_of_tracestates() {
        assert_eq!(sent(&[]), None);
        assert_eq!(sent(&[("tracestate", "a=1")]), None);
        let states = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", " b=2 , c=3")];
        assert_eq!(sent(&states).unwrap().tracestate(), Some("a=1,b=2,c=3"));
        assert_eq!(sent(&[("traceparent", PARENT), ("traceparent", PARENT)]), None);
        assert_eq!(sent(&[("traceparent", PARENT), ("tracestate", "ä")]).unwrap().tracestate(), None);
    }
}

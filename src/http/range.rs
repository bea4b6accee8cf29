//! Parts of a file (RFC 9110, 14): a client resumes a download that broke, or reads the end of an archive first.

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_range_header::{RangeUnsatisfiableError, parse_range_header};

use super::{files::fresh, problem::ApiError};

/// A file that never changes, or the one range of it that the client asks for. Several ranges at once, and ranges that
/// cannot be read, get the whole file, as the RFC allows.
pub fn download(
    headers: &HeaderMap,
    bytes: impl Into<Bytes>,
    media_type: &'static str,
    tag: &str,
    lasts: &'static str,
) -> Response {
    let bytes = bytes.into();
    let total = bytes.len();
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).filter(|_| is_same(headers, tag));
    let ranges = match asked.map(parse_range_header) {
        Some(Ok(ranges)) => ranges.validate(total as u64),
        Some(Err(_)) | None => Ok(Vec::new()),
    };
    let position = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    match ranges.as_deref() {
        Ok([range]) => {
            let (first, last) = (position(*range.start()), position(*range.end()));
            let part = bytes.slice(first..last + 1);
            let mut response = fresh(part, media_type, tag, lasts);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            with(response, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{total}"))
        }
        Err(RangeUnsatisfiableError::Unsatisfiable) => {
            let detail = format!("the file has {total} bytes; this Range is outside of it");
            let refused = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", detail);
            with(refused.about("Range").into_response(), header::CONTENT_RANGE, &format!("bytes */{total}"))
        }
        Ok(_) | Err(_) => with(fresh(bytes, media_type, tag, lasts), header::ACCEPT_RANGES, "bytes"),
    }
}

/// Whether the client's first part is of this file. A weak tag never proves that.
fn is_same(headers: &HeaderMap, tag: &str) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|known| known.as_bytes() == tag.as_bytes())
}

fn with(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(range: &str, if_range: Option<&str>) -> (u16, String, String, usize) {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        if let Some(tag) = if_range {
            headers.insert(header::IF_RANGE, tag.parse().unwrap());
        }
        let response = download(&headers, vec![7; 100], "image/png", "\"t\"", "private");
        let text = |name| response.headers().get(name).map_or("", |value: &HeaderValue| value.to_str().unwrap());
        let (range, accepts) = (text(header::CONTENT_RANGE).to_owned(), text(header::ACCEPT_RANGES).to_owned());
        let status = response.status().as_u16();
        let length = axum::body::HttpBody::size_hint(response.body()).exact().unwrap();
        (status, range, accepts, usize::try_from(length).unwrap())
    }

    #[test]
    fn a_range_is_a_part_and_nonsense_is_the_whole() {
        for (range, wanted, length) in [
            ("bytes=0-9", "bytes 0-9/100", 10),
            ("bytes=90-", "bytes 90-99/100", 10),
            ("bytes=-5", "bytes 95-99/100", 5),
            ("bytes=50-1000", "bytes 50-99/100", 50),
            ("bytes=-1000", "bytes 0-99/100", 100),
        ] {
            assert_eq!(asked(range, None), (206, wanted.to_owned(), String::new(), length), "{range}");
        }
        for whole in ["bytes=0-1,5-9", "lines=1-2", "bytes=9-1", "bytes=x", ""] {
            assert_eq!(asked(whole, None), (200, String::new(), "bytes".to_owned(), 100), "{whole}");
        }
        for outside in ["bytes=100-", "bytes=-0"] {
            let (status, range, ..) = asked(outside, None);
            assert_eq!((status, range.as_str()), (416, "bytes */100"), "{outside}");
        }
        assert_eq!(asked("bytes=1-2", Some("\"t\"")).0, 206);
        for other in ["\"u\"", "W/\"t\"", "Sat, 29 Oct 1994 19:43:31 GMT"] {
            assert_eq!(asked("bytes=1-2", Some(other)).0, 200, "{other}");
        }
    }
}

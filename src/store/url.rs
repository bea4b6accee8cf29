//! `file://` addresses of paths, with the bytes that are not allowed in a URL written as `%XX`.

use std::path::{Component, Path, PathBuf};

use crate::job::{JobError, percent_decoded};

/// The address of an absolute path.
pub fn file_url(path: &Path) -> String {
    let mut url = String::from("file://");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => url.push(char::from(*byte)),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url
}

/// The path of a `file:///` address. Other schemes, hosts and `..` are refused.
pub fn path_of(field: &str, url: &str) -> Result<PathBuf, JobError> {
    let refuse = |reason: &str| Err(JobError::invalid(field, format!("`{url}` {reason}")));
    let Some(rest) = url.strip_prefix("file://") else {
        return match url.split_once("://") {
            Some((scheme, _)) => refuse(&format!("has the scheme {scheme}; a file:/// address is needed here")),
            None => refuse("is not an address such as file:///folder/picture.png"),
        };
    };
    if !rest.starts_with('/') {
        return refuse("has a host; write file:/// with three slashes and an absolute path");
    }
    let Some(text) = percent_decoded(rest) else {
        return refuse("has a % that is not followed by two hexadecimal digits, or is not UTF-8");
    };
    let path = PathBuf::from(text);
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return refuse("contains `..`; write the path without it");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_address() {
        for path in ["/a/b.png", "/with blank/ä%#?.png", "/"] {
            assert_eq!(path_of("input", &file_url(Path::new(path))).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn what_is_no_local_path_is_refused_with_the_field() {
        for url in [
            "s3://b/k",
            "file://host/x",
            "/plain",
            "file:///a/../b",
            "file:///a/%2e%2e/b",
            "file:///%zz",
            "file:///%00",
        ] {
            let error = path_of("input", url).unwrap_err();
            assert!(matches!(&error, JobError::InvalidRequest { field, .. } if field == "input"), "{url}: {error}");
        }
    }
}

//! `file://` addresses of paths, with the bytes that are not allowed in a URL written as `%XX`.
//!
//! A general URL parser does not fit: it silently resolves `..` and drops tabs and line ends, but here such addresses
//! must be refused.

use std::path::{Component, Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::job::{JobError, percent_decoded};

/// Everything but RFC 3986's unreserved characters and the separator.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The most bytes of one part of a path on Linux and macOS.
const LONGEST_NAME: usize = 255;
/// The most characters of an address in a message.
const SHOWN: usize = 120;

/// The address of an absolute path. A path has one address only: jobs are compared by it.
pub fn file_url(path: &Path) -> String {
    format!("file://{}", percent_encode(path.as_os_str().as_encoded_bytes(), RESERVED))
}

/// The path of a `file:///` address. Other schemes, hosts and `..` are refused.
pub fn path_of(field: &str, url: &str) -> Result<PathBuf, JobError> {
    let refuse = |reason: &str| Err(JobError::invalid(field, format!("`{}` {reason}", shortened(url))));
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
    if text.chars().any(char::is_control) {
        return refuse("contains a control character");
    }
    if let Some(name) = text.split('/').find(|name| name.len() > LONGEST_NAME) {
        let bytes = name.len();
        return refuse(&format!("has a name of {bytes} bytes; file systems take {LONGEST_NAME}"));
    }
    let path = PathBuf::from(text);
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return refuse("contains `..`; write the path without it");
    }
    Ok(path)
}

/// An address for a message: the beginning of a long one, and control characters as their escapes.
fn shortened(url: &str) -> String {
    let plain = url.escape_debug();
    let mut text: String = plain.clone().take(SHOWN).collect();
    if plain.count() > SHOWN {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_address() {
        for path in ["/a/b.png", "/with blank/ä%#?.png", "/", &format!("/{}", "n".repeat(255))] {
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
            "file:///a%0Ab.png",
            "file:///a\u{85}b.png",
            &format!("file:///a/{}.png", "n".repeat(252)),
        ] {
            let error = path_of("input", url).unwrap_err();
            assert!(error.to_string().len() < 300 && !error.to_string().contains(char::is_control), "{error}");
            assert!(matches!(&error, JobError::InvalidRequest { field, .. } if field == "input"), "{url}: {error}");
        }
    }
}

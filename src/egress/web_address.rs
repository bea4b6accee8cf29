//! Web addresses, and what they must not contain.

use std::fmt;

use ureq::http::Uri;

use crate::job::JobError;

/// An `http://` or `https://` address without user name or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebAddress(Uri);

impl WebAddress {
    pub fn parse(field: &str, url: &str) -> Result<Self, JobError> {
        let shown = without_query(url);
        let Ok(uri) = url.split('#').next().unwrap_or(url).parse::<Uri>() else {
            return refuse(field, shown, "is not a web address; write spaces and special characters as %XX");
        };
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return refuse(field, shown, "is not an http or https address with a host");
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            // Not shown, because the part before the @ may be a password.
            return Err(JobError::invalid(field, "must not contain a user name or password"));
        }
        if let Some(port) = uri.authority().and_then(|authority| written_port(authority.as_str()))
            && !port.parse::<u16>().is_ok_and(|port| port > 0)
        {
            return refuse(field, shown, &format!("has the port {port}; a port is a number from 1 to 65535"));
        }
        check_steps(field, shown, uri.path())?;
        Ok(Self(uri))
    }

    /// The target of a `Location` header: a full address, one without a scheme, or an absolute or relative path.
    pub fn join(&self, location: &str) -> Result<Self, JobError> {
        let scheme = self.0.scheme_str().unwrap_or("https");
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        let whole = if let Some(rest) = location.strip_prefix("//") {
            format!("{scheme}://{rest}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else if location.contains("://") {
            location.to_owned()
        } else {
            let folder = self.0.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        };
        Self::parse("input", &whole)
    }

    pub fn uri(&self) -> &Uri {
        &self.0
    }

    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Scheme, lower-case host, and port.
    pub fn origin(&self) -> (bool, String, u16) {
        let https = self.is_https();
        let port = self.0.port_u16().unwrap_or(if https { 443 } else { 80 });
        (https, self.0.host().unwrap_or_default().to_ascii_lowercase(), port)
    }
}

impl fmt::Display for WebAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(without_query(&self.0.to_string()))
    }
}

/// The text after the host's colon; none for `host:`, which is the usual port.
fn written_port(authority: &str) -> Option<&str> {
    // The colons of an IPv6 address are inside brackets.
    let host_ends = authority.rfind(']').unwrap_or(0);
    authority[host_ends..].rsplit_once(':').map(|(_, port)| port).filter(|port| !port.is_empty())
}

/// The query of a signed address is a secret for as long as it lasts.
fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// Refuses parts that a server on the way may treat as `..`, and characters that break headers and logs.
pub fn check_steps(field: &str, url: &str, path: &str) -> Result<(), JobError> {
    let is_dots = |part: &str| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if path.split('/').any(is_dots) {
        return refuse(field, url, "has a part `.` or `..`; write the address without it");
    }
    if path.chars().any(char::is_control) {
        return refuse(field, &url.escape_debug().to_string(), "contains a control character");
    }
    Ok(())
}

/// An address that cannot be used, shown in the error.
pub fn refuse<T>(field: &str, url: &str, reason: &str) -> Result<T, JobError> {
    Err(JobError::invalid(field, format!("`{url}` {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_do_not_exist_are_refused() {
        for port in ["0", "65536", "99999", "4294967376", "99999999999999999999"] {
            for host in ["example.com", "127.0.0.1", "[::1]"] {
                let error = WebAddress::parse("webhook", &format!("https://{host}:{port}/x?key=s3cret")).unwrap_err();
                let text = error.to_string();
                assert!(text.starts_with("webhook: ") && !text.contains("s3cret"), "{text}");
            }
        }
        let error = WebAddress::parse("webhook", "https://example.com:99999/").unwrap_err().to_string();
        assert!(error.contains("has the port 99999; a port is a number from 1 to 65535"), "{error}");
        for good in
            ["https://h/", "https://h:/", "https://h:1/", "https://h:65535/", "https://[::1]/", "https://[::1]:8/"]
        {
            WebAddress::parse("webhook", good).unwrap();
        }
    }

    #[test]
    fn redirects_lead_on_from_where_they_were_found() {
        let here = WebAddress::parse("input", "https://h:8443/a/b.png?q").unwrap();
        for (location, wanted) in [
            ("c.png", "https://h:8443/a/c.png"),
            ("/c.png", "https://h:8443/c.png"),
            ("//other/c", "https://other/c"),
            ("http://other/c", "http://other/c"),
        ] {
            assert_eq!(here.join(location).unwrap().to_string(), wanted);
        }
        assert!(here.join("file:///etc/passwd").is_err());
        assert!(here.join("../x").is_err());
    }
}

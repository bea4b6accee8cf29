//! Webhook calls: a `POST` to an address from a request, with the same rules as for reading.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    public_ip::is_public,
    web_address::WebAddress,
    web_client::{self, WebLimits},
};
use crate::job::JobError;

/// Webhook targets that requests may name.
#[derive(Debug, Clone)]
pub struct WebhookPolicy {
    /// Origins that may be private, or without TLS.
    trusted: Vec<(bool, String, u16)>,
    setting: &'static str,
    limits: WebLimits,
}

impl WebhookPolicy {
    /// Reads the origins of a setting, such as `http://127.0.0.1:9000`.
    pub fn new(setting: &'static str, origins: &[String]) -> Result<Self, JobError> {
        let mut trusted = Vec::new();
        for origin in origins {
            let Ok(address) = WebAddress::parse(setting, origin) else {
                let reason = format!("`{origin}` is not an origin such as http://127.0.0.1:9000");
                return Err(JobError::invalid(setting, reason));
            };
            trusted.push(address.origin());
        }
        let seconds = Duration::from_secs;
        let limits =
            WebLimits { connect: seconds(5), read: seconds(15), deadline: seconds(20), ..WebLimits::default() };
        Ok(Self { trusted, setting, limits })
    }

    /// Whether a request may use this address. Its host name is resolved when it is called.
    pub fn check(&self, field: &str, url: &str) -> Result<(), JobError> {
        let address = WebAddress::parse(field, url)?;
        if self.trusts(&address) {
            return Ok(());
        }
        let forbidden = |reason: &str| {
            let reason = format!("{reason}, and its origin is not in {}", self.setting);
            Err(JobError::InputForbidden { input: address.to_string(), reason })
        };
        if !address.is_https() {
            return forbidden("is not encrypted (https://)");
        }
        let (_, host, _) = address.origin();
        let number: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        if number.is_some_and(|address| !is_public(address)) || is_local_name(&host) {
            return forbidden("is not a public address");
        }
        Ok(())
    }

    /// Makes the call and returns the response's status; ignores the body. Blocks.
    pub fn post(&self, url: &str, headers: &[(&str, String)], body: &str) -> Result<u16, JobError> {
        self.check("webhook", url)?;
        let address = WebAddress::parse("webhook", url)?;
        let mut limits = self.limits.clone();
        if self.trusts(&address) {
            limits.may_connect = |_| true;
        }
        let mut request = web_client::agent(&limits, Instant::now() + limits.deadline).post(address.uri().clone());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = request.send(body).map_err(|error| web_client::failed(&address, error))?;
        Ok(answer.status().as_u16())
    }

    fn trusts(&self, address: &WebAddress) -> bool {
        self.trusted.contains(&address.origin())
    }
}

/// Names that always resolve to this machine or network.
fn is_local_name(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host == "localhost" || [".localhost", ".local", ".internal"].iter().any(|ending| host.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, net::TcpListener};

    use super::*;

    #[test]
    fn only_public_and_encrypted_addresses_or_trusted_origins_are_called() {
        let callers = WebhookPolicy::new("http.webhook_allow", &["http://127.0.0.1:9000".to_owned()]).unwrap();
        for allowed in ["https://example.org/hook?key=1", "https://1.1.1.1/", "http://127.0.0.1:9000/any"] {
            callers.check("webhook", allowed).unwrap();
        }
        for refused in [
            "http://example.org/hook",
            "http://127.0.0.1:9001/",
            "https://127.0.0.1/",
            "https://10.0.0.1/x",
            "https://169.254.169.254/latest",
            "https://[::1]/",
            "https://[fd00::1]:8443/",
            "https://localhost/",
            "https://x.localhost./",
            "https://metadata.google.internal/",
        ] {
            assert_eq!(callers.check("webhook", refused).unwrap_err().code(), "input_forbidden", "{refused}");
        }
        for wrong in ["", "example.org", "ftp://example.org", "file:///etc/passwd", "https://me:s3cret@example.org/"] {
            let error = callers.check("webhook", wrong).unwrap_err();
            assert!(error.code() == "invalid_request" && !error.to_string().contains("s3cret"), "{error}");
        }
        assert!(WebhookPolicy::new("http.webhook_allow", &["s3://x".to_owned()]).is_err());
    }

    #[test]
    fn a_name_that_leads_inside_is_found_when_it_is_called() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let policy = WebhookPolicy::new("http.webhook_allow", &[]).unwrap();
        // These look like ordinary names, but resolve to the loopback address.
        for name in ["2130706433", "0x7f000001", "127.1"] {
            let url = format!("https://{name}:{port}/hook");
            policy.check("webhook", &url).unwrap();
            let error = policy.post(&url, &[], "{}").unwrap_err();
            assert_eq!(error.code(), "input_forbidden", "{error}");
            assert!(error.to_string().contains("its host has the address 127.0.0.1"), "{error}");
            let nobody = listener.accept().unwrap_err();
            assert_eq!(nobody.kind(), ErrorKind::WouldBlock, "{name} was connected to");
        }
    }
}

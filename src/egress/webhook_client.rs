//! Webhook calls: a `POST` to an address from a request, with the same rules as for reading.

use std::time::{Duration, Instant};

use super::{
    public_ip::{is_local_name, is_public, written_address},
    retry_after::retry_after,
    status_line::StatusLine,
    trust::PrivateCas,
    trusted_origins::TrustedOrigins,
    web_address::WebAddress,
    web_client::{self, WebLimits},
};
use crate::job::JobError;

/// Webhook targets that requests may name.
#[derive(Debug, Clone)]
pub struct WebhookPolicy {
    /// Origins that may be private, or without TLS.
    trusted: TrustedOrigins,
    setting: &'static str,
    limits: WebLimits,
}

impl WebhookPolicy {
    /// Reads the origins of a setting, such as `http://127.0.0.1:9000`.
    pub fn new(setting: &'static str, origins: &[String], private_cas: Option<PrivateCas>) -> Result<Self, JobError> {
        let trusted = TrustedOrigins::parse(setting, origins)?;
        let seconds = Duration::from_secs;
        let limits = WebLimits {
            connect: seconds(5),
            read: seconds(15),
            deadline: seconds(20),
            private_cas,
            ..WebLimits::default()
        };
        Ok(Self { trusted, setting, limits })
    }

    /// Whether a request may use this address. Its host name is resolved when it is called.
    pub fn check(&self, field: &str, url: &str) -> Result<(), JobError> {
        let address = WebAddress::parse(field, url)?;
        if self.trusted.has(&address) {
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
        if written_address(&host).is_some_and(|address| !is_public(address)) || is_local_name(&host) {
            return forbidden("is not a public address");
        }
        Ok(())
    }

    /// Makes the call; ignores the response's body. Blocks.
    pub fn post(&self, url: &str, headers: &[(&str, String)], body: &str) -> Result<WebhookAnswer, JobError> {
        self.check("webhook", url)?;
        self.call(WebAddress::parse("webhook", url)?, headers, body)
    }

    fn call(&self, address: WebAddress, headers: &[(&str, String)], body: &str) -> Result<WebhookAnswer, JobError> {
        let mut limits = self.limits.clone();
        if self.trusted.has(&address) {
            limits.may_connect = |_| true;
        }
        let line = StatusLine::default();
        let agent = web_client::agent_with(&limits, Instant::now() + limits.deadline, &line);
        let mut request = agent.post(address.uri().clone());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        match (request.send(body), line.status()) {
            (Ok(answer), _) => {
                Ok(WebhookAnswer { status: answer.status().as_u16(), retry_after: retry_after(answer.headers()) })
            }
            // The call has arrived. The rest of the response is not needed.
            (Err(ureq::Error::Protocol(_)), Some(status)) => Ok(WebhookAnswer { status, retry_after: None }),
            (Err(error), _) => Err(web_client::failed(&address, error)),
        }
    }
}

/// What a receiver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookAnswer {
    pub status: u16,
    /// How long the receiver wants to be left alone.
    pub retry_after: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, net::TcpListener};

    use super::*;

    #[test]
    fn only_public_and_encrypted_addresses_or_trusted_origins_are_called() {
        let policy = WebhookPolicy::new("http.webhook_allow", &["http://127.0.0.1:9000".to_owned()], None).unwrap();
        for allowed in [
            "https://example.org/hook?key=1",
            "https://example.org./hook",
            "https://1.1.1.1/",
            "https://16843009/",
            "http://127.0.0.1:9000/any",
        ] {
            policy.check("webhook", allowed).unwrap();
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
            "https://metadata.google.internal./",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://127.0.0.1./",
            "https://2852039166/latest",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
        ] {
            assert_eq!(policy.check("webhook", refused).unwrap_err().code(), "input_forbidden", "{refused}");
        }
        for wrong in [
            "",
            "example.org",
            "ftp://example.org",
            "file:///etc/passwd",
            "https://me:s3cret@example.org/",
            "https://example.org:99999/",
        ] {
            let error = policy.check("webhook", wrong).unwrap_err();
            assert!(error.code() == "invalid_request" && !error.to_string().contains("s3cret"), "{error}");
        }
        assert!(WebhookPolicy::new("http.webhook_allow", &["s3://x".to_owned()], None).is_err());
    }

    /// More headers than the HTTP client reads: the call has arrived all the same.
    #[test]
    fn a_response_with_many_headers_counts_by_its_status() {
        use std::io::{Read, Write};
        for (line, wanted) in [("200 OK", 200), ("503 Busy", 503)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let server = std::thread::spawn(move || {
                let (mut client, _) = listener.accept().unwrap();
                let mut read = Vec::new();
                while !read.ends_with(b"{}") {
                    let mut some = [0; 1024];
                    let count = client.read(&mut some).unwrap();
                    read.extend_from_slice(&some[..count]);
                }
                let headers: String = (0..300).map(|number| format!("x-{number}: y\r\n")).collect();
                write!(client, "HTTP/1.1 {line}\r\n{headers}content-length: 0\r\n\r\n").unwrap();
            });
            let policy = WebhookPolicy::new("http.webhook_allow", std::slice::from_ref(&url), None).unwrap();
            assert_eq!(policy.post(&url, &[], "{}").unwrap().status, wanted);
            server.join().unwrap();
        }
    }

    #[test]
    fn a_name_that_leads_inside_is_found_when_it_is_called() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let policy = WebhookPolicy::new("http.webhook_allow", &[], None).unwrap();
        // These resolve to the loopback address, as a name of any domain may.
        for name in ["2130706433", "0x7f000001", "127.1"] {
            let url = format!("https://{name}:{port}/hook");
            assert_eq!(policy.post(&url, &[], "{}").unwrap_err().code(), "input_forbidden", "{name}");
            let error = policy.call(WebAddress::parse("webhook", &url).unwrap(), &[], "{}").unwrap_err();
            assert_eq!(error.code(), "input_forbidden", "{error}");
            assert!(error.to_string().contains("its host has the address 127.0.0.1"), "{error}");
            let nobody = listener.accept().unwrap_err();
            assert_eq!(nobody.kind(), ErrorKind::WouldBlock, "{name} was connected to");
        }
    }
}

//! Sends traces to a collector, through the same HTTP client and with the same authorities as everything else.

use std::{
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tracing::{debug, info, warn};
use ureq::Agent;

use super::trust::{self, PrivateCas};

const USER_AGENT: &str = concat!("acetate/", env!("CARGO_PKG_VERSION"));
/// A response says little, and nothing that is used.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// The client of the exporter, which calls it on a thread of its own: it blocks.
pub struct OtlpClient {
    agent: Agent,
    /// The address without a password, for the log.
    place: String,
    /// The variable that the address is from.
    variable: &'static str,
    /// A collector may be away for hours, so this is said once.
    failing: AtomicBool,
}

impl OtlpClient {
    pub fn new(endpoint: &str, variable: &'static str, timeout: Duration, private_cas: Option<&PrivateCas>) -> Self {
        let config = Agent::config_builder()
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .tls_config(trust::tls(private_cas))
            .proxy(None)
            .timeout_global(Some(timeout))
            .build();
        Self { agent: config.new_agent(), place: without_password(endpoint), variable, failing: AtomicBool::new(false) }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(parts, &body[..]))?;
        let (parts, body) = answer.into_parts();
        let body = body.into_with_config().limit(LONGEST_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(parts, Bytes::from(body)))
    }

    fn note(&self, answer: &Result<Response<Bytes>, HttpError>) {
        let reason = match answer {
            Ok(answer) if answer.status().is_success() => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("traces reach {} again", self.place);
                }
                return;
            }
            Ok(answer) => format!("it responds with {}", answer.status().as_u16()),
            Err(error) => error.to_string(),
        };
        if self.failing.swap(true, Ordering::Relaxed) {
            debug!("traces still do not reach {}: {reason}", self.place);
        } else {
            let (place, variable) = (&self.place, self.variable);
            warn!(
                "traces do not reach {place} ({variable}) and are dropped until they do; jobs are not affected: {reason}"
            );
        }
    }
}

impl HttpClient for OtlpClient {
    fn send_bytes<'this, 'call>(
        &'this self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'call>>
    where
        'this: 'call,
        Self: 'call,
    {
        let answer = self.send(request);
        self.note(&answer);
        let answer: Ready<_> = ready(answer);
        Box::pin(answer)
    }
}

impl fmt::Debug for OtlpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OtlpClient({})", self.place)
    }
}

/// An address for people: neither its user nor its query.
fn without_password(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = host.rsplit('@').next().unwrap_or(host);
    match path {
        Some(path) => format!("{scheme}://{host}/{path}"),
        None => format!("{scheme}://{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        for (address, shown) in [
            ("http://c:4318/v1/traces", "http://c:4318/v1/traces"),
            ("https://me:s3cret@c/v1/traces?key=s3cret", "https://c/v1/traces"),
            ("https://c", "https://c"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(without_password(address), shown);
        }
    }
}

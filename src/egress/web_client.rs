//! Pictures from the web: only from public addresses, at every redirect, under a cap and a deadline.
//!
//! A name is resolved once, and the connection goes to the checked addresses: a DNS server that returns a public
//! address first and a private one later gains nothing.

use std::{
    fmt,
    io::Read,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use flate2::read::MultiGzDecoder;
use ureq::{
    Agent, Body,
    config::Config,
    http::{Response, Uri, header},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{Connector, DefaultConnector, NextTimeout},
    },
};

use super::{
    public_ip::{is_local_name, is_public, written_address},
    retry_after::{HostPauses, retry_after},
    status_line::StatusLine,
    trust::{self, PrivateCas},
    trusted_origins::TrustedOrigins,
    web_address::WebAddress,
};
use crate::job::{JobError, certificate_advice};

const MAX_REDIRECTS: usize = 3;
const ONLY_PUBLIC: &str = "inputs from the web must have public addresses, or an origin in store.http_allow";
const USER_AGENT: &str = concat!("acetate/", env!("CARGO_PKG_VERSION"));

/// Timeouts for the web, and the allowed addresses.
#[derive(Debug, Clone)]
pub struct WebLimits {
    pub connect: Duration,
    /// How long a server may send nothing.
    pub read: Duration,
    /// The limit for the whole picture, including redirects.
    pub deadline: Duration,
    /// Authorities that servers are checked against, in addition to the system's.
    pub private_cas: Option<PrivateCas>,
    /// Hosts that have asked to be left alone.
    pub pauses: HostPauses,
    /// Origins that may have any address.
    pub trusted: TrustedOrigins,
    /// Decides which addresses the others may have. Only tests allow others than public ones.
    pub may_connect: fn(&SocketAddr) -> bool,
}

impl Default for WebLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(20),
            deadline: Duration::from_secs(180),
            private_cas: None,
            pauses: HostPauses::default(),
            trusted: TrustedOrigins::default(),
            may_connect: |address| is_public(address.ip()),
        }
    }
}

/// Reads a picture of at most `cap` bytes. `check` is called for every redirect target.
pub fn read(
    address: WebAddress,
    cap: u64,
    limits: &WebLimits,
    check: &dyn Fn(&WebAddress) -> Result<(), JobError>,
) -> Result<Vec<u8>, JobError> {
    let end = Instant::now() + limits.deadline;
    let mut address = address;
    for _ in 0..=MAX_REDIRECTS {
        let answer = ask(&address, limits, end)?;
        match answer.status().as_u16() {
            200 => return receive(&address, answer, cap),
            301 | 302 | 303 | 307 | 308 => {
                let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                address = redirected(&address, location, check)?;
            }
            status => return Err(refused(&address, status, retry_after(answer.headers()), &limits.pauses)),
        }
    }
    Err(JobError::invalid("input", format!("{address}: more than {MAX_REDIRECTS} redirects; use the final address")))
}

impl WebLimits {
    /// Refuses an address whose host is written as one that is not public, before anything is resolved.
    pub fn check_host(&self, address: &WebAddress) -> Result<(), JobError> {
        let (_, host, _) = address.origin();
        let forbidden = |reason: String| {
            Err(JobError::InputForbidden { input: address.to_string(), reason: format!("{reason}; {ONLY_PUBLIC}") })
        };
        match written_address(&host) {
            _ if self.trusted.has(address) => Ok(()),
            Some(ip) if !is_public(ip) => forbidden(NotPublic(ip).to_string()),
            None if is_local_name(&host) => forbidden("its host is a name of this machine or its network".to_owned()),
            _ => Ok(()),
        }
    }
}

fn ask(address: &WebAddress, limits: &WebLimits, end: Instant) -> Result<Response<Body>, JobError> {
    if let Some(left) = limits.pauses.left(address) {
        let reason = format!("its server has asked to wait; {} are left", seconds(left));
        return Err(JobError::input_unreachable(address.to_string(), reason).retry_after(left));
    }
    let agent = if limits.trusted.has(address) {
        agent(&WebLimits { may_connect: |_| true, ..limits.clone() }, end)
    } else {
        agent(limits, end)
    };
    agent.get(address.uri().clone()).call().map_err(|error| failed(address, error))
}

/// The HTTP client with these limits. It follows no redirects, keeps no connections and uses no proxy.
fn agent(limits: &WebLimits, end: Instant) -> Agent {
    agent_with(limits, end, &StatusLine::default())
}

/// As [`agent`], and `line` remembers the status of a response.
pub(super) fn agent_with(limits: &WebLimits, end: Instant, line: &StatusLine) -> Agent {
    let config = Agent::config_builder()
        .user_agent(USER_AGENT)
        // A small body that decompresses to a large one would exceed the cap.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .tls_config(trust::tls(limits.private_cas.as_ref()))
        // A proxy would resolve the name itself.
        .proxy(None)
        .timeout_connect(Some(limits.connect))
        .timeout_recv_response(Some(limits.read))
        .timeout_per_read(Some(limits.read))
        .timeout_global(Some(end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))))
        .build();
    Agent::with_parts(config, DefaultConnector::new().chain(line.clone()), Guarded { may_connect: limits.may_connect })
}

fn receive(address: &WebAddress, answer: Response<Body>, cap: u64) -> Result<Vec<u8>, JobError> {
    let too_large = |size: String| JobError::ImageTooLarge {
        input: address.to_string(),
        reason: format!("{size} more than the {cap} bytes allowed (image.max_bytes)"),
    };
    let length = answer.body().content_length();
    if let Some(length) = length.filter(|length| *length > cap) {
        return Err(too_large(format!("{length} bytes are")));
    }
    let encoding = answer.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    let encoding = encoding.unwrap_or_default().trim().to_ascii_lowercase();
    let mut bytes = Vec::with_capacity(usize::try_from(length.unwrap_or_default()).unwrap_or_default());
    let body = answer.into_body().into_reader();
    // Some servers compress although the request asks them not to. The cap counts what comes out.
    let mut body: Box<dyn Read> = match encoding.as_str() {
        "" | "identity" => Box::new(body.take(cap + 1)),
        "gzip" | "x-gzip" => Box::new(MultiGzDecoder::new(body).take(cap + 1)),
        other => {
            let reason = format!("{address}: its server compresses it with {other}, which the request did not allow");
            return Err(JobError::invalid("input", reason));
        }
    };
    body.read_to_end(&mut bytes).map_err(|error| {
        let error = match error.downcast::<ureq::Error>() {
            Ok(error) => error,
            Err(error) => ureq::Error::Io(error),
        };
        failed(address, error)
    })?;
    if bytes.len() as u64 > cap { Err(too_large("it has".to_owned())) } else { Ok(bytes) }
}

/// The target of a redirect, checked like an address in a request.
fn redirected(
    from: &WebAddress,
    location: Option<&str>,
    check: &dyn Fn(&WebAddress) -> Result<(), JobError>,
) -> Result<WebAddress, JobError> {
    let Some(location) = location else {
        return Err(JobError::invalid("input", format!("{from}: redirects without a target")));
    };
    let forbidden = |reason: String| JobError::InputForbidden { input: from.to_string(), reason };
    let next =
        from.join(location).map_err(|_| forbidden("redirects to something that is not a web address".to_owned()))?;
    if from.is_https() && !next.is_https() {
        return Err(forbidden(format!("redirects to {next}, which is not encrypted")));
    }
    check(&(next.clone()))?;
    Ok(next)
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64().ceil())
}

/// `asked`: for how long the server wants to be left alone.
fn refused(address: &WebAddress, status: u16, asked: Option<Duration>, pauses: &HostPauses) -> JobError {
    let input = address.to_string();
    match (status, asked) {
        (404 | 410, _) => JobError::InputNotFound { input },
        (401 | 403, _) => JobError::InputForbidden {
            input,
            reason: format!("its server responds with {status}; use an address that needs no login"),
        },
        (429 | 503, Some(asked)) => {
            let pause = pauses.begin(address, asked);
            let reason = format!("its server responds with {status} and asks to wait {}", seconds(pause));
            JobError::input_unreachable(input, reason).retry_after(pause)
        }
        (408 | 425 | 429 | 500.., _) => {
            JobError::input_unreachable(input, format!("its server responds with {status}"))
        }
        _ => JobError::invalid("input", format!("{input}: its server responds with {status}, not a picture")),
    }
}

pub(super) fn failed(address: &WebAddress, error: ureq::Error) -> JobError {
    let input = address.to_string();
    match error {
        ureq::Error::Other(inner) if inner.is::<NotPublic>() => {
            JobError::InputForbidden { input, reason: format!("{inner}; {ONLY_PUBLIC}") }
        }
        ureq::Error::HostNotFound => JobError::InputNotFound { input },
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            JobError::invalid("input", format!("{input}: is not an address that can be fetched"))
        }
        ureq::Error::Io(error) if error.to_string().contains("InvalidContentType") => {
            JobError::input_unreachable(input, "its port does not speak TLS; use http:// or the port for TLS")
        }
        ureq::Error::Io(error) if error.to_string().contains("UnknownIssuer") => {
            let reason = "its certificate is from an authority that is not trusted; add the authority to tls.ca_file";
            JobError::input_unreachable(input, reason).caused_by(error)
        }
        ureq::Error::Io(error) => {
            let text = error.to_string();
            let reason = certificate_advice(&text, "its server").unwrap_or_else(|| format!("cannot read it: {text}"));
            JobError::input_unreachable(input, reason).caused_by(error)
        }
        other => JobError::input_unreachable(input, format!("cannot read it: {other}")).caused_by(other),
    }
}

/// Returns only addresses that may be connected to.
#[derive(Debug)]
struct Guarded {
    may_connect: fn(&SocketAddr) -> bool,
}

impl Resolver for Guarded {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let addresses = DefaultResolver::default().resolve(uri, config, timeout)?;
        // A private address among public ones is an attack, or a mistake that would be intermittent.
        match addresses.iter().find(|address| !(self.may_connect)(address)) {
            Some(address) => Err(ureq::Error::Other(Box::new(NotPublic(address.ip())))),
            None => Ok(addresses),
        }
    }
}

#[derive(Debug)]
struct NotPublic(IpAddr);

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its host has the address {}", self.0)
    }
}

impl std::error::Error for NotPublic {}

#[cfg(test)]
#[path = "web_client_tests.rs"]
mod tests;

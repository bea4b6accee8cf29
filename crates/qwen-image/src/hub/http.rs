//! The hub over HTTP: one GET on its own thread, with redirects that never send the token to another host.
//!
//! The caller receives the response in pieces and is woken while none arrive, so that cancellation works even if a
//! server stops responding.

use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::Agent;
use ureq::http::{HeaderMap, Uri, header};

use super::event::{DownloadEvent, Events, emit};
use super::{HubConfig, HubError, Token, trust};

const USER_AGENT: &str = concat!("acetate/", env!("CARGO_PKG_VERSION"));
const MAX_REDIRECTS: usize = 10;
const PIECE: usize = 256 * 1024;
/// The number of pieces that may be buffered for a slow disk.
const PIECES_AHEAD: usize = 16;
/// How often a waiting caller checks whether it should stop.
const TICK: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

/// The start of a response with status 200 or 206.
#[derive(Debug)]
pub(super) struct Head {
    /// The position in the file of the first byte that follows: 0 if the server ignored the range.
    pub start: u64,
    /// The size of the whole file, if the server sends it.
    pub total: Option<u64>,
}

/// Why a request delivered no bytes, or stopped delivering them.
#[derive(Debug)]
pub(super) enum TransferError {
    /// Temporary; `after` is the server's `Retry-After`.
    Passing { reason: String, after: Option<Duration> },
    /// There was no response; temporary.
    Unreachable { reason: String },
    /// 404: the repository, revision or file is unknown.
    Missing,
    /// 401 or 403 from the hub itself.
    Forbidden { reason: String },
    /// 416: the server does not have this range.
    Range,
    /// Permanent; retrying would not help.
    Final { reason: String },
}

/// The body of one response, which arrives on another thread.
pub(super) struct ResponseBody(Receiver<Result<Piece, TransferError>>);

pub(super) enum Piece {
    Head(Head),
    Bytes(Vec<u8>),
    End,
}

impl Client {
    /// # Errors
    /// [`HubError::Endpoint`] if the configured address is not a web address; [`HubError::Io`] if the file of
    /// authorities cannot be read.
    pub fn new(config: &HubConfig) -> Result<Self, HubError> {
        if parse_url(&config.endpoint).is_err() {
            return Err(HubError::Endpoint { endpoint: config.endpoint.clone() });
        }
        let builder = Agent::config_builder()
            .user_agent(USER_AGENT)
            // A compressed response cannot be resumed, because some servers then ignore the range.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(config.retry.stall))
            .timeout_recv_response(Some(config.retry.stall))
            .timeout_per_read(Some(config.retry.stall))
            .tls_config(trust::tls(config)?);
        let builder = if config.use_proxy { builder } else { builder.proxy(None) };
        Ok(Self { agent: builder.build().into(), endpoint: config.endpoint.clone(), token: config.token.clone() })
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Starts a GET of `{endpoint}/{path}` from byte `from` on. `path` must be percent-encoded.
    pub fn get(&self, path: &str, from: u64) -> ResponseBody {
        let (sender, receiver) = sync_channel(PIECES_AHEAD);
        let (client, url) = (self.clone(), format!("{}/{path}", self.endpoint));
        // The thread ends with the response, when the receiver is dropped, or when the server stalls.
        thread::spawn(move || {
            if let Err(failure) = client.send_pieces(&url, from, &sender) {
                sender.send(Err(failure)).ok();
            }
        });
        ResponseBody(receiver)
    }

    fn send_pieces(
        &self,
        url: &str,
        from: u64,
        to: &SyncSender<Result<Piece, TransferError>>,
    ) -> Result<(), TransferError> {
        let (head, mut body) = self.follow(url, from)?;
        if to.send(Ok(Piece::Head(head))).is_err() {
            return Ok(());
        }
        loop {
            let mut piece = vec![0; PIECE];
            let length = match body.read(&mut piece) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(passing(format!("the connection was cut ({error})"))),
            };
            piece.truncate(length);
            let last = length == 0;
            if to.send(Ok(if last { Piece::End } else { Piece::Bytes(piece) })).is_err() || last {
                return Ok(());
            }
        }
    }

    /// Sends the request and follows redirects.
    fn follow(&self, url: &str, from: u64) -> Result<(Head, impl Read + use<>), TransferError> {
        let home = parse_url(url)?;
        let mut at = home.clone();
        for _ in 0..=MAX_REDIRECTS {
            let is_home = same_origin(&home, &at);
            let mut request = self.agent.get(at.clone());
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| is_home) {
                request = request.header(header::AUTHORIZATION, token.bearer());
            }
            let response = request.call().map_err(|error| transport_failure(&at, &error))?;
            let (status, headers) = (response.status().as_u16(), response.headers());
            if let (301 | 302 | 303 | 307 | 308, Some(location)) = (status, text(headers, "location")) {
                at = join(&at, location)?;
                continue;
            }
            let head = read_head(status, headers, from).ok_or_else(|| status_failure(status, headers, &at, is_home))?;
            return Ok((head, response.into_body().into_reader()));
        }
        Err(TransferError::Final { reason: format!("{} redirects endlessly", origin(&home)) })
    }
}

impl ResponseBody {
    /// The next piece; sends a [`DownloadEvent::Waiting`] for every tick without one.
    ///
    /// # Errors
    /// The outer error is [`HubError::Cancelled`], the inner one the server's failure.
    pub fn next(&self, events: &mut Events<'_>) -> Result<Result<Piece, TransferError>, HubError> {
        loop {
            match self.0.recv_timeout(TICK) {
                Ok(piece) => return Ok(piece),
                Err(RecvTimeoutError::Timeout) => emit(events, DownloadEvent::Waiting)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(Err(passing("the connection ended".to_owned()))),
            }
        }
    }
}

/// Sleeps, but wakes up to check for cancellation.
pub(super) fn pause(wait: Duration, events: &mut Events<'_>) -> Result<(), HubError> {
    let mut left = wait;
    while !left.is_zero() {
        let nap = left.min(TICK);
        #[expect(clippy::disallowed_methods, reason = "downloads block, and this nap is cut into ticks")]
        thread::sleep(nap);
        left -= nap;
        emit(events, DownloadEvent::Waiting)?;
    }
    Ok(())
}

/// Everything except RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const RESERVED_IN_PATHS: &AsciiSet = &RESERVED.remove(b'/');

/// Like [`encode_part`], but `/` is kept between the parts of a path.
pub(super) fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, RESERVED_IN_PATHS).to_string()
}

pub(super) fn encode_part(part: &str) -> String {
    utf8_percent_encode(part, RESERVED).to_string()
}

fn read_head(status: u16, headers: &HeaderMap, from: u64) -> Option<Head> {
    match status {
        200 => Some(Head { start: 0, total: text(headers, "content-length").and_then(|v| v.parse().ok()) }),
        206 => {
            // `bytes 5-9/10`, or `*` for a size that is not known.
            let range = text(headers, "content-range")?.strip_prefix("bytes ")?;
            let (span, total) = range.split_once('/')?;
            let start = span.split_once('-')?.0.trim().parse().ok()?;
            (start == from || start == 0).then_some(Head { start, total: total.trim().parse().ok() })
        }
        _ => None,
    }
}

fn status_failure(status: u16, headers: &HeaderMap, at: &Uri, is_home: bool) -> TransferError {
    let said = text(headers, "x-error-message").map(|message| format!(": {message}")).unwrap_or_default();
    let reason = format!("{} answered {status}{said}", origin(at));
    let after = text(headers, "retry-after").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
    match status {
        401 | 403 if is_home => TransferError::Forbidden { reason },
        404 if is_home => TransferError::Missing,
        416 => TransferError::Range,
        408 | 429 | 500..=599 => TransferError::Passing { reason, after },
        // The address of a large file is signed for an hour; another request to the hub returns a new one.
        400 | 401 | 403 if !is_home => TransferError::Passing { reason, after },
        206 => passing(format!("{} sent a different range than requested", origin(at))),
        _ => TransferError::Final { reason },
    }
}

fn transport_failure(at: &Uri, error: &ureq::Error) -> TransferError {
    let reason = format!("{} cannot be reached ({error})", origin(at));
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Rustls(_) | ureq::Error::Tls(_) => {
            TransferError::Final { reason }
        }
        _ => TransferError::Unreachable { reason },
    }
}

fn passing(reason: String) -> TransferError {
    TransferError::Passing { reason, after: None }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn parse_url(url: &str) -> Result<Uri, TransferError> {
    let uri = url.parse::<Uri>().ok();
    let is_web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    // The query of a signed address is a secret for as long as it lasts.
    let shown = url.split('?').next().unwrap_or(url);
    uri.filter(is_web)
        .ok_or_else(|| TransferError::Final { reason: format!("{shown} is not an http or https address") })
}

/// The target of a `Location` header: a full address, one without a scheme, or an absolute or relative path.
fn join(base: &Uri, location: &str) -> Result<Uri, TransferError> {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    if let Some(rest) = location.strip_prefix("//") {
        parse_url(&format!("{scheme}://{rest}"))
    } else if location.starts_with('/') {
        parse_url(&format!("{scheme}://{authority}{location}"))
    } else if location.contains("://") {
        parse_url(location)
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        parse_url(&format!("{scheme}://{authority}{folder}/{location}"))
    }
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

/// Scheme, host and port, for messages.
fn origin(uri: &Uri) -> String {
    let host = uri.host().unwrap_or("?");
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}", uri.scheme_str().unwrap_or("?"))
}

//! How a request to S3 can fail, and what that means for a job: the same failure is the caller's fault for an input,
//! and a storage error for a result.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use jiff::Timestamp;

use super::S3Client;
use crate::job::{JobError, certificate_advice, lacks_open_files};

/// The maximum length of a server's message in ours.
const LONGEST_MESSAGE: usize = 300;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum S3Error {
    NoKey,
    NoBucket,
    /// The credentials are valid but lack permission.
    Denied(String),
    /// The credentials are missing or rejected.
    Credentials(String),
    /// They were valid once.
    Expired(String),
    /// The quota is used up, or the server's disk.
    Full(String),
    /// The server cannot use the key of the encryption.
    Key(String),
    /// The object must be restored from an archive before it can be read.
    Archived(String),
    /// The bucket is in another region; with that region, if the server tells.
    Region {
        bucket_region: Option<String>,
        message: String,
    },
    /// This machine's clock differs from the server's by so many seconds.
    Clock {
        ahead: i64,
        message: String,
    },
    /// The server lacks a feature that was used.
    Unsupported(String),
    /// The server does not speak TLS, or speaks nothing else; what the address should begin with.
    Scheme(&'static str),
    /// The server's certificate is from an unknown authority.
    Untrusted(String),
    /// The server's certificate is not valid, for instance because it has expired.
    Certificate(String),
    /// What answers speaks HTTP, and is no store.
    NotS3(String),
    /// The name of the bucket's host is unknown.
    NoHost(String),
    /// This process may open no more connections.
    OpenFiles(String),
    /// The object is too large; with its size, if known.
    TooLarge(Option<u64>),
    /// The object was replaced while it was read.
    Changed,
    /// The server asks for fewer requests.
    Throttled(String),
    /// The server sends this request elsewhere for now.
    Moved(String),
    /// The server or the network is temporarily unavailable.
    Unavailable(String),
    /// The server rejects the request permanently.
    Refused(String),
}

impl S3Error {
    pub(super) fn of<E: ProvideErrorMetadata + Error + 'static>(error: SdkError<E>) -> Self {
        let message = clipped(error.message().unwrap_or_default());
        let said = clipped(&[error.code().unwrap_or_default(), &message].join(" "));
        let status = error.raw_response().map(|response| response.status().as_u16());
        // A clock that is wrong is called by many names.
        if let Some(ahead) = clock_difference(&error).filter(|_| matches!(status, Some(400 | 401 | 403))) {
            return Self::Clock { ahead, message: said };
        }
        match error.code() {
            Some("NoSuchKey") => return Self::NoKey,
            Some("NoSuchBucket") => return Self::NoBucket,
            Some("PreconditionFailed") => return Self::Changed,
            Some("AccessDenied" | "AllAccessDisabled" | "AccountProblem") => return Self::Denied(message),
            Some(
                code @ ("InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "RequestTimeTooSkewed"
                | "NotSignedUp"),
            ) => return Self::Credentials(format!("{code} {message}")),
            Some("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
                return Self::Region { bucket_region: header(&error, "x-amz-bucket-region"), message: said };
            }
            Some(code @ ("ExpiredToken" | "ExpiredTokenException")) => {
                return Self::Expired(format!("{code} {message}"));
            }
            Some("InvalidObjectState") => return Self::Archived(message),
            Some(code) if code.starts_with("KMS.") => return Self::Key(said),
            Some(code) if is_about_space(code) => return Self::Full(said),
            Some("TemporaryRedirect") if header(&error, "x-amz-bucket-region").is_none() => return Self::Moved(said),
            Some("SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests") => {
                return Self::Throttled(said);
            }
            Some("RequestTimeout") => return Self::Unavailable(message),
            Some(_) | None => {}
        }
        if let Some(status) = status
            && let Some(page) = page_instead(&error, status)
        {
            return Self::NotS3(page);
        }
        match status {
            // A HEAD response has no body that would distinguish the two.
            Some(404) => Self::NoKey,
            Some(401) => Self::Credentials(message),
            Some(403) => Self::Denied(message),
            Some(412) => Self::Changed,
            Some(307) if header(&error, "x-amz-bucket-region").is_none() => {
                Self::Moved(format!("it answers 307 {said}"))
            }
            Some(301 | 307 | 308) => {
                Self::Region { bucket_region: header(&error, "x-amz-bucket-region"), message: said }
            }
            Some(507) => Self::Full(format!("it answers 507 {said}")),
            Some(status @ (405 | 501)) => Self::Unsupported(format!("it answers {status} {said}")),
            Some(429) => Self::Throttled(format!("it responds with 429 {said}")),
            Some(status @ (408 | 500..)) => Self::Unavailable(format!("it responds with {status} {said}")),
            Some(status @ 400..) if is_about_checksums(&said) => {
                Self::Unsupported(format!("it answers {status} {said}"))
            }
            Some(status @ 400..) => Self::Refused(format!("it responds with {status} {said}")),
            Some(_) | None => Self::without_answer(&error),
        }
    }

    fn without_answer<E: Error + 'static>(error: &SdkError<E>) -> Self {
        let reasons = chain(error);
        let text = clipped(&reasons.join(": "));
        let says = |part: &str| reasons.iter().any(|reason| reason.contains(part));
        if lacks_open_files(error) {
            return Self::OpenFiles(text);
        }
        // The SDK has no public types for these that a caller could match.
        if says("InvalidContentType") {
            Self::Scheme("http://")
        } else if says("invalid HTTP version parsed") {
            Self::Scheme("https://")
        } else if says("UnknownIssuer") {
            Self::Untrusted(text)
        } else if certificate_advice(&text, "").is_some() {
            Self::Certificate(text)
        } else if says("credentials") || says("identity") || says("profile") || says("cargo feature") {
            Self::Credentials(text)
        } else if says("dns error") || says("failed to lookup address") {
            Self::NoHost(text)
        } else {
            Self::Unavailable(text)
        }
    }

    /// The error for an input picture.
    pub(in crate::store) fn for_input(self, url: &str, cap: u64, client: &S3Client) -> JobError {
        let input = url.to_owned();
        match self {
            Self::NoKey | Self::NoBucket => JobError::InputNotFound { input },
            Self::Denied(message) => JobError::InputForbidden {
                input,
                // Without permission to list, S3 returns the same error for a missing object.
                reason: words(
                    &format!(
                        "{} refuses to let acetate read it; check the name, and allow s3:GetObject and s3:ListBucket; \
                         if the requester pays, or everybody may read, say so in store.buckets",
                        client.server(url)
                    ),
                    &message,
                ),
            },
            Self::Archived(_) => JobError::InputForbidden { input, reason: self.in_words(url, cap, client) },
            Self::TooLarge(size) => JobError::ImageTooLarge { input, reason: too_large(size, cap) },
            Self::Refused(message) => {
                JobError::invalid("input", format!("{url}: {} rejects the request: {message}", client.server(url)))
            }
            Self::OpenFiles(_) => {
                JobError::input_unreachable(input, self.in_words(url, cap, client)).caused_by(too_many_open_files())
            }
            other @ (Self::Credentials(_)
            | Self::Expired(_)
            | Self::Full(_)
            | Self::Key(_)
            | Self::Region { .. }
            | Self::Clock { .. }
            | Self::Unsupported(_)
            | Self::Scheme(_)
            | Self::Untrusted(_)
            | Self::Certificate(_)
            | Self::NotS3(_)
            | Self::NoHost(_)
            | Self::Changed
            | Self::Throttled(_)
            | Self::Moved(_)
            | Self::Unavailable(_)) => JobError::input_unreachable(input, other.in_words(url, cap, client)),
        }
    }

    /// The error for acetate's own object.
    pub(in crate::store) fn for_object(self, url: &str, cap: u64, client: &S3Client) -> JobError {
        let lacks_files = matches!(self, Self::OpenFiles(_));
        let error = JobError::storage(url.to_owned(), self.in_words(url, cap, client));
        if lacks_files { error.caused_by(too_many_open_files()) } else { error }
    }

    /// The error for an object that was to be written.
    pub(super) fn for_written(self, url: &str, client: &S3Client) -> JobError {
        match self {
            Self::Denied(message) => {
                let reason = format!(
                    "{} refuses to take it; allow s3:PutObject there, and if the bucket requires encryption, set \
                     store.server_side_encryption and store.kms_key_id",
                    client.server(url)
                );
                JobError::storage(url.to_owned(), words(&reason, &message))
            }
            other => other.for_object(url, 0, client),
        }
    }
}

/// EMFILE, for code that looks for it.
fn too_many_open_files() -> std::io::Error {
    std::io::Error::from_raw_os_error(24)
}

/// How many seconds this machine's clock is ahead of the server's, if they differ so much that signatures are refused.
fn clock_difference<E>(error: &SdkError<E>) -> Option<i64> {
    const TOLERATED: i64 = 5 * 60;
    let server = Timestamp::try_from(httpdate::parse_http_date(&header(error, "date")?).ok()?).ok()?;
    let ahead = Timestamp::now().as_second() - server.as_second();
    (ahead.abs() > TOLERATED).then_some(ahead)
}

/// What a proxy or a web server says instead of a store, which describes its errors in XML, with a code, and redirects
/// to regions alone.
fn page_instead<E: ProvideErrorMetadata>(error: &SdkError<E>, status: u16) -> Option<String> {
    if error.code().is_some() || header(error, "x-amz-bucket-region").is_some() {
        return None;
    }
    let program = header(error, "server").map(|name| format!(", {}", clipped(&name))).unwrap_or_default();
    match (status, header(error, "location")) {
        (302 | 303, place) => {
            let place = place.map(|place| format!(" to {}", clipped(&place))).unwrap_or_default();
            Some(format!("it answers {status}, a redirect{place}{program}"))
        }
        (301 | 307 | 308, Some(place)) if is_page(error) => {
            Some(format!("it answers {status}, a redirect to {}{program}", clipped(&place)))
        }
        (200 | 401 | 403 | 407 | 511, _) if is_html(error) => {
            Some(format!("it answers {status} with a page for people{program}"))
        }
        (400 | 405 | 411 | 501 | 505, _) if is_page(error) => {
            Some(format!("it answers {status} with a page for people{program}"))
        }
        _ => None,
    }
}

/// The codes of a quota or disk that is used up, by Ceph, MinIO and others.
fn is_about_space(code: &str) -> bool {
    ["QuotaExceeded", "StorageFull", "InsufficientStorage", "InsufficientCapacity"]
        .iter()
        .any(|part| code.ends_with(part))
}

fn is_html<E>(error: &SdkError<E>) -> bool {
    header(error, "content-type").is_some_and(|kind| kind.starts_with("text/html"))
}

fn is_page<E>(error: &SdkError<E>) -> bool {
    header(error, "content-type").is_some_and(|kind| kind.starts_with("text/html") || kind.starts_with("text/plain"))
}

fn header<E>(error: &SdkError<E>, name: &str) -> Option<String> {
    error.raw_response()?.headers().get(name).map(str::to_owned)
}

/// Stores refuse the newer checksums in many words.
fn is_about_checksums(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["checksum", "trailer", "aws-chunked", "x-amz-content-sha256", "content-encoding", "content-md5", "notimplemented"]
        .iter()
        .any(|word| said.contains(word))
}

fn too_large(size: Option<u64>, cap: u64) -> String {
    match size {
        Some(size) => format!("{size} bytes are more than the {cap} allowed (image.max_bytes)"),
        None => format!("has more than the {cap} bytes allowed (image.max_bytes)"),
    }
}

pub(super) fn words(what: &str, message: &str) -> String {
    let message = message.trim();
    if message.is_empty() { what.to_owned() } else { format!("{what} ({message})") }
}

/// An error and its causes, each once, without the layers that add nothing.
pub(super) fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut reasons: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let is_layer = matches!(text.as_str(), "dispatch failure" | "io error" | "other");
        if !is_layer && !reasons.iter().any(|reason| reason.contains(&text)) {
            reasons.push(text);
        }
        next = error.source();
    }
    reasons
}

fn clipped(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_MESSAGE).collect()
}

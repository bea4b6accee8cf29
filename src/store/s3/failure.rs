//! How a request to S3 can fail, and what that means for a job: the same failure is the caller's fault for an input,
//! and a storage error for a result.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::S3Client;
use crate::job::JobError;

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
    /// The bucket is in another region.
    Region(String),
    /// The object is too large; with its size, if known.
    TooLarge(Option<u64>),
    /// The object was replaced while it was read.
    Changed,
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
        match error.code() {
            Some("NoSuchKey") => return Self::NoKey,
            Some("NoSuchBucket") => return Self::NoBucket,
            Some("PreconditionFailed") => return Self::Changed,
            Some("AccessDenied" | "AllAccessDisabled" | "AccountProblem") => return Self::Denied(message),
            Some(
                code @ ("InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "RequestTimeTooSkewed"
                | "NotSignedUp"),
            ) => return Self::Credentials(format!("{code} {message}")),
            Some(
                code @ ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"),
            ) => {
                return Self::Region(format!("{code} {message}"));
            }
            Some("RequestTimeout") => return Self::Unavailable(message),
            Some(_) | None => {}
        }
        match status {
            // A HEAD response has no body that would distinguish the two.
            Some(404) => Self::NoKey,
            Some(401) => Self::Credentials(message),
            Some(403) => Self::Denied(message),
            Some(412) => Self::Changed,
            Some(301 | 307 | 308) => Self::Region(message),
            Some(status @ (408 | 429 | 500..)) => Self::Unavailable(format!("it answers {status} {said}")),
            Some(status @ 400..) => Self::Refused(format!("it answers {status} {said}")),
            Some(_) | None => Self::without_answer(&error),
        }
    }

    fn without_answer<E: Error + 'static>(error: &SdkError<E>) -> Self {
        let reasons = chain(error);
        let text = clipped(&reasons.join(": "));
        // The SDK has no public type for this that a caller could match.
        if reasons.iter().any(|reason| reason.contains("credentials")) {
            Self::Credentials(text)
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
                        "{} refuses to let acetate read it; check the name, and allow s3:GetObject and s3:ListBucket",
                        client.server()
                    ),
                    &message,
                ),
            },
            Self::TooLarge(size) => JobError::ImageTooLarge { input, reason: too_large(size, cap) },
            Self::Refused(message) => {
                JobError::invalid("input", format!("{url}: {} rejects the request: {message}", client.server()))
            }
            other @ (Self::Credentials(_) | Self::Region(_) | Self::Changed | Self::Unavailable(_)) => {
                JobError::input_unreachable(input, other.in_words(cap, client))
            }
        }
    }

    /// The error for acetate's own object.
    pub(in crate::store) fn for_object(self, url: &str, cap: u64, client: &S3Client) -> JobError {
        JobError::storage(url.to_owned(), self.in_words(cap, client))
    }

    fn in_words(self, cap: u64, client: &S3Client) -> String {
        let server = client.server();
        match self {
            Self::NoKey => format!("there is no such object at {server}"),
            Self::NoBucket => {
                format!("there is no such bucket at {server}; create it, or correct store.url and store.endpoint")
            }
            Self::Denied(message) => {
                let advice = "allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket there";
                words(&format!("{server} refuses access; {advice}"), &message)
            }
            Self::Credentials(message) => {
                let advice =
                    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or AWS_PROFILE, and the clock";
                words(&format!("{server} rejects the credentials, or there are none; {advice}"), &message)
            }
            Self::Region(message) => words(
                &format!("the bucket is in a different region than the one used with {server}; set AWS_REGION"),
                &message,
            ),
            Self::TooLarge(_) => format!("is larger than the expected {cap} bytes"),
            Self::Changed => "was replaced while it was read; the next attempt reads it again".to_owned(),
            Self::Unavailable(message) => words(
                &format!("{server} is not available; check that it runs, and check store.endpoint and the network"),
                &message,
            ),
            Self::Refused(message) => {
                words(&format!("{server} rejects the request; check store.endpoint and store.checksums"), &message)
            }
        }
    }
}

fn too_large(size: Option<u64>, cap: u64) -> String {
    match size {
        Some(size) => format!("{size} bytes are more than the {cap} allowed (image.max_bytes)"),
        None => format!("has more than the {cap} bytes allowed (image.max_bytes)"),
    }
}

fn words(what: &str, message: &str) -> String {
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

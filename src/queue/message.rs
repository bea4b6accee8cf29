//! The content of a message: a request, or the reason why it is invalid.

use serde::Deserialize;

use super::newer::is_newer;
use crate::job::{JobError, JobId, JobRequest, MessageOptions};

/// How much of an invalid message is stored for inspection.
pub const MAX_KEPT_BYTES: usize = 64 * 1024;

/// The content of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A job whose row exists; used by the in-process queue.
    Job(JobId),
    /// A request that may not have a row yet, because any client can publish one.
    Request(Box<JobRequest>),
    /// A request of a newer version of acetate, or of a kind that this one does not know: another worker may know it.
    Newer { id: Option<JobId>, error: JobError, body: Vec<u8> },
    /// Not a request that this version understands.
    Unreadable {
        /// The `id` field, otherwise the `message_id` property, if it is a UUID.
        id: Option<JobId>,
        error: JobError,
        /// At most [`MAX_KEPT_BYTES`] of it.
        body: Vec<u8>,
    },
}

impl Content {
    /// Parses a message's body; `message_id` is the property of that name.
    pub(super) fn read(body: &[u8], message_id: Option<&str>) -> Self {
        match JobRequest::from_message(body) {
            Ok((request, _)) => Self::Request(Box::new(request)),
            Err(error) => {
                let id = id_of(body).or_else(|| message_id?.parse().ok());
                let kept = body[..body.len().min(MAX_KEPT_BYTES)].to_vec();
                if is_newer(body) {
                    Self::Newer { id, error, body: kept }
                } else {
                    Self::Unreadable { id, error, body: kept }
                }
            }
        }
    }

    pub fn id(&self) -> Option<JobId> {
        match self {
            Self::Job(id) => Some(*id),
            Self::Request(request) => Some(request.id),
            Self::Newer { id, .. } | Self::Unreadable { id, .. } => *id,
        }
    }
}

/// What another client's message has beside the request.
pub(super) fn options(body: &[u8]) -> MessageOptions {
    const FIELDS: [&[u8]; 2] = [b"\"not_before\"", b"\"reuse\""];
    // Few messages have any, and only those are read twice.
    let has_any = FIELDS.iter().any(|field| body.windows(field.len()).any(|part| part == *field));
    let read = if has_any { JobRequest::from_message(body).ok() } else { None };
    read.map(|(_, options)| options).unwrap_or_default()
}

/// Reads only the id, so that messages of any size are fine.
fn id_of(body: &[u8]) -> Option<JobId> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: String,
    }
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start();
    // The parser would fill the struct from an array.
    let object = body.starts_with(b"{").then_some(body)?;
    serde_json::from_slice::<OnlyId>(object).ok()?.id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21";

    fn read(body: &str) -> (Option<String>, String) {
        match Content::read(body.as_bytes(), None) {
            Content::Unreadable { id, error, body: kept } => {
                assert!(kept.len() <= MAX_KEPT_BYTES);
                (id.map(|id| id.to_string()), error.to_string())
            }
            other => panic!("{body:.80} was read as {other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_read_says_why_and_keeps_its_id() {
        let request = |extra: &str| {
            format!(
                "{{\"version\":1,\"id\":\"{ID}\",\"kind\":\"composite\",\"input\":{{\"image\":\"s3://a/b.png\"}},\
                 \"output\":{{\"prefix\":\"s3://o/\"}}{extra}}}"
            )
        };
        assert!(matches!(Content::read(request("").as_bytes(), None), Content::Request(_)));
        let cases = [
            (request("").replace("\"version\":1", "\"version\":0"), Some(ID), "version: 0 is not known"),
            (
                request(",\"color\":1"),
                Some(ID),
                "unknown field `color`, expected one of `not_before`, `reuse`, `version`",
            ),
            (request("").replace("composite", "PAINT"), Some(ID), "unknown value `PAINT`"),
            (request(&format!(",\"labels\":{{\"x\":\"{}\"}}", "y".repeat(10 << 20))), Some(ID), "send references"),
            ("{\"id\":".to_owned(), None, "EOF"),
            (String::new(), None, "request: is empty"),
            ("[".repeat(100_000), None, "request: an array; one JSON object"),
            (format!("[1,\"{ID}\",\"composite\",{{}},{{}},{{}},{{}},0]"), None, "request: an array"),
            (format!("[\"{ID}\"]"), None, "request: an array"),
            (format!("[{}]", request("")), None, "for several jobs one message for each"),
            (format!("{}\n{}", request(""), request("")), None, "request: continues after its JSON value, at line 2"),
            (request("").replace("{\"prefix\":\"s3://o/\"}", "[\"s3://o/\"]"), Some(ID), "output: an array"),
            (request("").replace("{\"image\":\"s3://a/b.png\"}", "[\"s3://a/b.png\"]"), Some(ID), "input: an array"),
            (request("").replace("\"s3://a/b.png\"", &format!("[\"{ID}\",1]")), Some(ID), "input.image: an array"),
            (request(",\"params\":[]"), Some(ID), "params: an array"),
            (request(",\"priority\":1.5"), Some(ID), "priority: invalid type"),
            ("null".to_owned(), None, "request: not a JSON object"),
            (request(&format!(",\"params\":{}", "[".repeat(100_000))), None, "recursion limit"),
            ("\u{0}\u{1}".to_owned(), None, "expected value"),
            ("{\"id\":7}".to_owned(), None, "id: invalid type"),
        ];
        for (body, id, reason) in cases {
            let (found, error) = read(&body);
            assert_eq!(found.as_deref(), id, "{body:.80}");
            assert!(error.contains(reason), "{body:.80} gave: {error}");
        }
    }

    #[test]
    fn a_byte_order_mark_and_whole_floats_are_understood() {
        let body = format!(
            "\u{feff}{{\"version\":1.0,\"id\":\"{ID}\",\"kind\":\"decompose\",\"input\":{{\"image\":\"s3://a/b.png\"}},\
             \"output\":{{\"prefix\":\"s3://o/\"}},\"params\":{{\"layers\":4.0,\"seed\":7.0}},\"priority\":2.0}}"
        );
        let Content::Request(request) = Content::read(body.as_bytes(), None) else { panic!("{body}") };
        assert_eq!((request.seed(), request.priority), (7, 2));
    }

    #[test]
    fn what_a_newer_version_may_know_is_told_from_what_is_wrong() {
        let good = format!(
            "{{\"version\":1,\"id\":\"{ID}\",\"kind\":\"composite\",\"input\":{{\"image\":\"s3://a/b.png\"}},\
             \"output\":{{\"prefix\":\"s3://o/\"}}}}"
        );
        for (from, to, reason) in [
            ("\"version\":1", "\"version\":4", "version: 4 is not known"),
            ("composite", "paint", "unknown value `paint`"),
            ("\"version\":1", "\"version\":4,\"new\":[]", "version: 4 is not known"),
        ] {
            match Content::read(good.replace(from, to).as_bytes(), None) {
                Content::Newer { id, error, .. } => {
                    assert_eq!(id, Some(ID.parse().unwrap()));
                    assert!(error.to_string().contains(reason), "{error}");
                }
                other => panic!("{to} was read as {other:?}"),
            }
        }
    }

    /// The examples of the documentation are copied by people.
    #[test]
    fn the_documented_messages_can_be_read() {
        let page = include_str!("../../docs/messages.md");
        let examples: Vec<_> = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(examples.len() >= 4, "{} examples", examples.len());
        for example in examples {
            let read = Content::read(example.as_bytes(), None);
            assert!(matches!(read, Content::Request(_)), "{example}\ngave {read:?}");
        }
    }

    #[test]
    fn the_message_id_helps_where_the_body_has_none() {
        assert_eq!(Content::read(b"?", Some(ID)).id(), Some(ID.parse().unwrap()));
        assert_eq!(Content::read(b"?", Some("my-message")).id(), None);
    }
}

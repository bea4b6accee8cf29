//! Messages of a newer version of acetate, which a worker leaves to others during an upgrade.

use serde_json::Value;

use crate::job::{JobKind, REQUEST_VERSION, value_from_slice};

/// The longest name of a kind.
const LONGEST_KIND: usize = 64;

/// Why a newer version may read a body that this one does not: its version, or its kind. A field that its version
/// does not have is the sender's mistake, and so is anything that is not a JSON object.
pub(super) fn is_newer(body: &[u8]) -> bool {
    let Ok(Value::Object(fields)) = value_from_slice(body) else { return false };
    let Some(version) = fields.get("version").and_then(Value::as_u64) else { return false };
    let kind = fields.get("kind").and_then(Value::as_str);
    let unknown = kind.is_some_and(|kind| is_name(kind) && kind.parse::<JobKind>().is_err());
    let known = (1..=u64::from(REQUEST_VERSION)).contains(&version);
    version > u64::from(REQUEST_VERSION) || known && unknown
}

/// Whether a version may call a kind so.
fn is_name(kind: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    (1..=LONGEST_KIND).contains(&kind.len()) && kind.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_and_kinds_may_be_newer() {
        for (body, newer) in [
            (r#"{"version":4}"#, true),
            (r#"{"version":2}"#, false),
            (r#"{"version":2,"kind":"paint"}"#, true),
            (r#" {"version":7,"id":5,"kind":["x"],"input":null,"new":{"deep":[1]}}"#, true),
            (r#"{"version":1,"kind":"paint"}"#, true),
            ("\u{feff}{\"version\":4.0}", true),
            (r#"{"version":1,"kind":"upscale_4x","color":1}"#, true),
            (r#"{"version":1,"kind":"composite","color":1}"#, false),
            (r#"{"version":0,"kind":"paint"}"#, false),
            (r#"{"version":"2"}"#, false),
            (r#"{"version":1.5}"#, false),
            (r#"{"version":1,"kind":""}"#, false),
            (r#"{"version":1,"kind":"Composite!"}"#, false),
            (r#"{"version":1,"kind":7}"#, false),
            (r#"{"kind":"paint"}"#, false),
            (r#"[2,"paint"]"#, false),
            (r#"{"version":2"#, false),
            ("", false),
        ] {
            assert_eq!(is_newer(body.as_bytes()), newer, "{body}");
        }
    }
}

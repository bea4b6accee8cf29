//! Reads JSON that others wrote. What a parser takes silently or refuses without saying why is dealt with here: bodies
//! that are not JSON at all, arrays instead of objects (serde fills a struct from one, by position), two fields with
//! one name, and whole numbers written as 7.0.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::JobError;

/// Some programs write it in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The fields that have several values.
const LISTS: [&str; 10] =
    ["images", "edits", "layers", "groups", "sigmas", "loras", "region", "seeds", "state", "code"];
/// Above this, a float does not tell neighboring whole numbers apart: 2^53.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Why a text is not the JSON that was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON. The reason completes "the body ...".
    Syntax(String),
    /// A field (empty: the whole) has another type, is missing or unknown.
    Data { field: String, reason: String },
}

impl JsonError {
    /// The error for a request; `whole` is the name of the whole, `below` the field that it was read from.
    pub fn in_request(self, whole: &str, below: &str) -> JobError {
        match self {
            Self::Syntax(reason) => JobError::invalid(whole, reason),
            Self::Data { field, reason } => {
                let field = match (below, field.as_str()) {
                    ("", "") => whole.to_owned(),
                    ("", field) => field.to_owned(),
                    (below, "") => below.to_owned(),
                    (below, field) => format!("{below}.{field}"),
                };
                JobError::invalid(field, reason)
            }
        }
    }
}

/// Reads one JSON object into named fields.
pub fn object_from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    object_from_value(one_value_from_slice(bytes)?)
}

/// Reads a JSON value that must not be an array.
pub fn one_value_from_slice(bytes: &[u8]) -> Result<Value, JsonError> {
    if without_mark(bytes).trim_ascii_start().starts_with(b"[") {
        let reason = "an array; one JSON object is needed, and for several jobs one message for each".to_owned();
        return Err(JsonError::Data { field: String::new(), reason });
    }
    value_from_slice(bytes)
}

/// Reads any JSON value.
pub fn value_from_slice(bytes: &[u8]) -> Result<Value, JsonError> {
    let bytes = without_mark(bytes);
    if let Some(reason) = is_something_else(bytes) {
        return Err(JsonError::Syntax(reason));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let Strict(value) =
        Strict::deserialize(&mut reader).map_err(|error| JsonError::Syntax(format!("is not valid JSON: {error}")))?;
    reader.end().map_err(|error| {
        let (line, column) = (error.line(), error.column());
        JsonError::Syntax(format!("continues after its JSON value, at line {line} column {column}; send one at a time"))
    })?;
    Ok(value)
}

/// Reads a value of named fields.
pub fn object_from_value<T: DeserializeOwned>(value: Value) -> Result<T, JsonError> {
    check_shape("", &value)?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = path(error.path());
        JsonError::Data { field, reason: in_words(error.into_inner().to_string()) }
    })
}

/// serde names Rust's types.
fn in_words(reason: String) -> String {
    let reason = reason.replacen("unknown variant", "unknown value", 1);
    let Some((found, wanted)) = reason.rsplit_once(", expected ") else { return reason };
    if let Some(entries) = wanted.strip_prefix("an array of length ") {
        return format!("{found}, expected {entries} entries");
    }
    let wanted = match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a string" | "string or map" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        wanted if wanted.starts_with("struct ") => "an object",
        _ => return reason,
    };
    format!("{found}, expected {wanted}")
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// Recognizes what people send by mistake.
fn is_something_else(bytes: &[u8]) -> Option<String> {
    let text = |byte: u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    let reason = match bytes {
        [0x1f, 0x8b, ..] => "is compressed with gzip; send it uncompressed",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "is compressed with zstd; send it uncompressed",
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => "is compressed with zlib; send it uncompressed",
        [b'P', b'K', 3, 4, ..] => "is a ZIP archive; send JSON",
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => "is UTF-32; send UTF-8",
        [0, 0, 0, byte, ..] | [byte, 0, 0, 0, ..] if text(*byte) => "is UTF-32; send UTF-8",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is UTF-16; send UTF-8",
        [0, byte, ..] | [byte, 0, ..] if text(*byte) => "is UTF-16; send UTF-8",
        [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..] => "is a picture; send JSON with the picture's address",
        [b'e', b'y', b'J', ..] => "is base64; send the JSON as it is",
        _ if bytes.trim_ascii().is_empty() => "is empty; send one JSON object",
        _ => {
            let error = std::str::from_utf8(bytes).err()?;
            let at = error.valid_up_to();
            let byte = bytes.get(at).copied().unwrap_or_default();
            return Some(format!("is not UTF-8: byte {at} is {byte:#04x}, as in Latin-1; send UTF-8"));
        }
    };
    Some(reason.to_owned())
}

/// Refuses arrays where a struct may be expected.
fn check_shape(at: &str, value: &Value) -> Result<(), JsonError> {
    let wrong = |reason: &str| Err(JsonError::Data { field: at.to_owned(), reason: reason.to_owned() });
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(name, field)| {
            let dot = if at.is_empty() { "" } else { "." };
            let at = format!("{at}{dot}{name}");
            match field {
                Value::Array(items) if LISTS.contains(&name.as_str()) => {
                    items.iter().enumerate().try_for_each(|(index, item)| check_shape(&format!("{at}[{index}]"), item))
                }
                field => check_shape(&at, field),
            }
        }),
        Value::Array(_) => wrong("an array; an object with named fields, or a single value, is needed"),
        Value::String(text) if at.is_empty() && text.trim_start().starts_with('{') => {
            wrong("JSON inside a JSON text; send the object itself")
        }
        _ if at.is_empty() => wrong("not a JSON object; one with named fields is needed"),
        _ => Ok(()),
    }
}

fn path(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text += &format!("[{index}]"),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !text.is_empty() {
                    text.push('.');
                }
                text += key;
            }
            Segment::Unknown => {}
        }
    }
    text
}

/// A value in which no field is given twice, and whole numbers are whole.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        let is_whole = value.fract() == 0.0 && value.abs() <= LARGEST_EXACT;
        Ok(if is_whole { (value as i64).into() } else { value.into() })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Strict(value))) = fields.next_entry::<String, Strict>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the field `{name}` is given twice")));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(default)]
        images: Vec<Inner>,
        seed: u64,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        layer: u32,
    }

    fn read(bytes: impl AsRef<[u8]>) -> Result<Outer, String> {
        object_from_slice(bytes.as_ref()).map_err(|error| error.in_request("request", "").to_string())
    }

    #[test]
    fn what_people_send_by_mistake_is_named() {
        let utf16: Vec<u8> = "{\"seed\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let marked = [&b"\xff\xfe"[..], &utf16].concat();
        let big_endian: Vec<u8> = "{\"seed\":1}".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let utf32: Vec<u8> = "{\"seed\":1}".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        let wide_marked = [&b"\xff\xfe\0\0"[..], &utf32].concat();
        let wide_big_endian: Vec<u8> = "\u{feff}{".chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
        let cases: [(&[u8], &str); 21] = [
            (&utf32, "request: is UTF-32"),
            (&wide_marked, "request: is UTF-32"),
            (&wide_big_endian, "request: is UTF-32"),
            (b"\0\0\0{\0\0\0}", "request: is UTF-32"),
            (b"\x1f\x8b\x08\0", "request: is compressed with gzip"),
            (b"\x78\x9c\x01", "request: is compressed with zlib"),
            (b"\x28\xb5\x2f\xfd", "request: is compressed with zstd"),
            (&utf16, "request: is UTF-16"),
            (&marked, "request: is UTF-16"),
            (&big_endian, "request: is UTF-16"),
            (b"\x89PNG\r\n\x1a\n", "request: is a picture"),
            (b"eyJzZWVkIjoxfQ==", "request: is base64"),
            (b"{\"seed\":\"\xe9\"}", "request: is not UTF-8: byte 9 is 0xe9, as in Latin-1"),
            (b" \n", "request: is empty"),
            (b"[{\"seed\":1}]", "request: an array; one JSON object"),
            (b"{\"seed\":1}\n{\"seed\":2}", "request: continues after its JSON value, at line 2 column 1"),
            (b"\"{\\\"seed\\\":1}\"", "request: JSON inside a JSON text"),
            (b"null", "request: not a JSON object"),
            (b"{\"seed\":1,\"seed\":2}", "the field `seed` is given twice"),
            (b"{\"seed\":1.5}", "seed: invalid type: floating point `1.5`"),
            (b"{\"seed\":1,\"images\":[{\"layer\":\"x\"}]}", "images[0].layer: invalid type: string \"x\""),
        ];
        for (body, wanted) in cases {
            let error = read(body).unwrap_err();
            assert!(error.contains(wanted), "{:?} gave: {error}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_mark_and_whole_floats_are_understood() {
        for body in ["\u{feff}{\"seed\":7}", "{\"seed\":7.0}", "{\"seed\":70e-1}", " {\"seed\":7}\r\n"] {
            assert_eq!(read(body).unwrap(), Outer { images: Vec::new(), seed: 7 }, "{body}");
        }
        // Beyond 2^53 a float may be any of several numbers.
        assert!(read("{\"seed\":9007199254740994.0}").unwrap_err().contains("floating point"));
        assert_eq!(read("{\"seed\":18446744073709551615}").unwrap().seed, u64::MAX);
    }

    #[test]
    fn what_serde_says_is_in_words() {
        for (said, wanted) in [
            ("invalid length 3, expected an array of length 4", "invalid length 3, expected 4 entries"),
            ("invalid type: boolean `true`, expected string or map", "invalid type: boolean `true`, expected a text"),
            ("unknown variant `a`, expected `b` or `c`", "unknown value `a`, expected `b` or `c`"),
            ("missing field `seed`", "missing field `seed`"),
        ] {
            assert_eq!(in_words(said.to_owned()), wanted);
        }
    }

    #[test]
    fn no_struct_is_filled_by_position() {
        assert!(read("[[],7]").is_err());
        for (body, field) in [
            (json!({ "seed": 1, "images": [[3]] }), "images[0]"),
            (json!({ "seed": [1] }), "seed"),
            (json!({ "seed": 1, "other": { "deep": [1] } }), "other.deep"),
        ] {
            let error = read(body.to_string()).unwrap_err();
            assert!(error.starts_with(&format!("{field}: an array")), "{error}");
        }
    }
}

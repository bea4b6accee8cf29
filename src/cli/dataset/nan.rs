//! Numbers that our JSON does not have. Python writes `NaN` and `Infinity`, which become `null`, a missing value. Whole
//! numbers of more than 64 bits become texts, so that they stay exact.

use std::io::{BufRead, Read};

use serde_json::Value;

use crate::job::{JsonError, value_from_slice};

const WORDS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];

/// Reads JSON with `null` for each number that JSON does not have.
pub struct WithoutNan<R> {
    text: R,
    state: JsonPlace,
    /// Bytes that are ready, from `at` on.
    ready: Vec<u8>,
    at: usize,
    /// The beginning of one of [`WORDS`], at the end of what was read.
    begun: Vec<u8>,
    /// The beginning of a number there.
    number: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum JsonPlace {
    Outside,
    InText,
    AfterBackslash,
}

impl<R: BufRead> WithoutNan<R> {
    pub fn new(text: R) -> Self {
        Self { text, state: JsonPlace::Outside, ready: Vec::new(), at: 0, begun: Vec::new(), number: Vec::new() }
    }

    fn take(&mut self, byte: u8) {
        if !self.number.is_empty() {
            if matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') {
                self.number.push(byte);
                return;
            }
            self.end_number();
        }
        self.begun.push(byte);
        if self.state == JsonPlace::Outside {
            if WORDS.contains(&self.begun.as_slice()) {
                self.begun.clear();
                self.ready.extend_from_slice(b"null");
                return;
            }
            if WORDS.iter().any(|word| word.starts_with(&self.begun)) {
                return;
            }
        }
        // The last byte may begin a word itself.
        self.begun.pop();
        if self.state == JsonPlace::Outside && byte.is_ascii_digit() && matches!(self.begun.as_slice(), b"" | b"-") {
            self.number.append(&mut self.begun);
            self.number.push(byte);
            return;
        }
        self.ready.append(&mut self.begun);
        self.state = match (self.state, byte) {
            (JsonPlace::Outside, b'"') => JsonPlace::InText,
            (JsonPlace::Outside, b'N' | b'I' | b'-') => {
                self.begun.push(byte);
                return;
            }
            (JsonPlace::InText, b'"') => JsonPlace::Outside,
            (JsonPlace::InText, b'\\') => JsonPlace::AfterBackslash,
            (JsonPlace::AfterBackslash, _) => JsonPlace::InText,
            (state, _) => state,
        };
        self.ready.push(byte);
    }
}

impl<R> WithoutNan<R> {
    fn end_number(&mut self) {
        if self.number.is_empty() {
            return;
        }
        let text = std::str::from_utf8(&self.number).unwrap_or_default();
        let is_whole = text.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit());
        if is_whole && text.parse::<u64>().is_err() && text.parse::<i64>().is_err() {
            self.ready.push(b'"');
            self.ready.append(&mut self.number);
            self.ready.push(b'"');
        } else {
            self.ready.append(&mut self.number);
        }
    }
}

impl<R: BufRead> Read for WithoutNan<R> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.ready.len() {
            self.ready.clear();
            self.at = 0;
            let piece = self.text.fill_buf()?.to_vec();
            if piece.is_empty() {
                self.end_number();
                self.ready.append(&mut self.begun);
                if self.ready.is_empty() {
                    return Ok(0);
                }
                break;
            }
            piece.iter().for_each(|byte| self.take(*byte));
            self.text.consume(piece.len());
        }
        let length = to.len().min(self.ready.len() - self.at);
        to[..length].copy_from_slice(&self.ready[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Reads a JSON value that may have such numbers.
pub fn value_of(text: &[u8]) -> Result<Value, JsonError> {
    if has_long_number(text) {
        return value_from_slice(&without_nan(text));
    }
    match value_from_slice(text) {
        Err(_) if WORDS.iter().any(|word| text.windows(word.len()).any(|part| part == *word)) => {
            value_from_slice(&without_nan(text))
        }
        read => read,
    }
}

/// Whether there are digits for more than 64 bits in a row.
fn has_long_number(text: &[u8]) -> bool {
    const DIGITS: usize = 19;
    let mut run = 0;
    text.iter().any(|byte| {
        run = if byte.is_ascii_digit() { run + 1 } else { 0 };
        run >= DIGITS
    })
}

fn without_nan(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    // A slice can always be read.
    WithoutNan::new(text).read_to_end(&mut plain).unwrap_or_default();
    plain
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_that_json_does_not_have_are_missing() {
        for (text, wanted) in [
            (r#"{"a":NaN,"b":-Infinity,"c":[Infinity, -1,NaN]}"#, r#"{"a":null,"b":null,"c":[null, -1,null]}"#),
            (r#"{"NaN":"NaN \" NaN","-Infinity":-5}"#, r#"{"NaN":"NaN \" NaN","-Infinity":-5}"#),
            (r#"["\\",NaN]"#, r#"["\\",null]"#),
            ("[-NaN, NNaN, Nul]", "[-null, Nnull, Nul]"),
            ("-", "-"),
            ("[36893488147419103232,-9223372036854775809]", r#"["36893488147419103232","-9223372036854775809"]"#),
            ("[18446744073709551615,-9223372036854775808]", "[18446744073709551615,-9223372036854775808]"),
            ("[1e30, 36893488147419103232.5,-1,0]", "[1e30, 36893488147419103232.5,-1,0]"),
            (
                r#"{"36893488147419103232":"36893488147419103232"}"#,
                r#"{"36893488147419103232":"36893488147419103232"}"#,
            ),
            ("36893488147419103232", r#""36893488147419103232""#),
            ("", ""),
        ] {
            for capacity in [1, 2, 3, 64] {
                let mut read = String::new();
                WithoutNan::new(BufReader::with_capacity(capacity, text.as_bytes())).read_to_string(&mut read).unwrap();
                assert_eq!(read, wanted, "{capacity}");
            }
        }
        assert_eq!(value_of(b"{\"a\": NaN}").unwrap(), json!({ "a": null }));
        let large = b"{\"a\": 36893488147419103232, \"b\": 18446744073709551615}";
        assert_eq!(value_of(large).unwrap(), json!({ "a": "36893488147419103232", "b": u64::MAX }));
        assert!(value_of(b"{oops").is_err());
    }
}

//! `NaN` and `Infinity`, which Python writes into JSON although JSON does not have them: both become `null`, a missing
//! value.

use std::io::{BufRead, Read};

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
}

#[derive(Clone, Copy, PartialEq)]
enum JsonPlace {
    Outside,
    InText,
    AfterBackslash,
}

impl<R: BufRead> WithoutNan<R> {
    pub fn new(text: R) -> Self {
        Self { text, state: JsonPlace::Outside, ready: Vec::new(), at: 0, begun: Vec::new() }
    }

    fn take(&mut self, byte: u8) {
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

impl<R: BufRead> Read for WithoutNan<R> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.ready.len() {
            self.ready.clear();
            self.at = 0;
            let piece = self.text.fill_buf()?.to_vec();
            if piece.is_empty() {
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

/// A line of JSON with `null` for each number that JSON does not have; nothing if it has none of these.
pub fn without_nan(line: &[u8]) -> Option<Vec<u8>> {
    let has = |word: &[u8]| line.windows(word.len()).any(|part| part == word);
    if !WORDS.iter().any(|word| has(word)) {
        return None;
    }
    let mut plain = Vec::with_capacity(line.len());
    // A slice can always be read.
    WithoutNan::new(line).read_to_end(&mut plain).ok()?;
    Some(plain)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn numbers_that_json_does_not_have_are_missing() {
        for (text, wanted) in [
            (r#"{"a":NaN,"b":-Infinity,"c":[Infinity, -1,NaN]}"#, r#"{"a":null,"b":null,"c":[null, -1,null]}"#),
            (r#"{"NaN":"NaN \" NaN","-Infinity":-5}"#, r#"{"NaN":"NaN \" NaN","-Infinity":-5}"#),
            (r#"["\\",NaN]"#, r#"["\\",null]"#),
            ("[-NaN, NNaN, Nul]", "[-null, Nnull, Nul]"),
            ("-", "-"),
            ("", ""),
        ] {
            for capacity in [1, 2, 3, 64] {
                let mut read = String::new();
                WithoutNan::new(BufReader::with_capacity(capacity, text.as_bytes())).read_to_string(&mut read).unwrap();
                assert_eq!(read, wanted, "{capacity}");
            }
        }
        assert_eq!(without_nan(b"{\"a\": 1}"), None);
        assert_eq!(without_nan(b"{\"a\": NaN}").unwrap(), b"{\"a\": null}");
    }
}

//! The one rule for values from variables and for secrets from files: white space at both ends and a byte order mark
//! are not part of the value, and within it there are no control characters.

use std::{
    fs::{File, FileType},
    io,
    path::Path,
};

/// The value in a text. The error says what is wrong, and shows nothing of it.
pub(super) fn value(text: &str) -> Result<&str, String> {
    let text = trimmed(text);
    match text.chars().enumerate().find(|(_, letter)| letter.is_control()) {
        None => Ok(text),
        Some((at, '\n' | '\r')) => Err(format!(
            "has a line break after {at} characters; it is one line, and only breaks at its end are ignored"
        )),
        Some((at, letter)) => {
            let code = u32::from(letter);
            Err(format!("has the control character U+{code:04X} after {at} characters; write it again without"))
        }
    }
}

/// As [`value`], for JSON and other texts of several lines.
pub(super) fn lines(text: &str) -> Result<&str, String> {
    let text = trimmed(text);
    if text.contains('\0') { Err("has a NUL character; write it again without".to_owned()) } else { Ok(text) }
}

fn trimmed(text: &str) -> &str {
    text.trim().trim_start_matches('\u{feff}').trim()
}

/// A text in UTF-8.
pub(super) fn decoded(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(b"\xff\xfe\0\0") || bytes.starts_with(b"\0\0\xfe\xff") {
        return Err("is UTF-32; save it as UTF-8".to_owned());
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("is UTF-16; save it as UTF-8".to_owned());
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("is not UTF-8 at byte {}; save it as UTF-8", error.utf8_error().valid_up_to()))
}

/// Opens a regular file, or a link to one as Kubernetes and systemd make them. Nothing else is opened, because a pipe
/// would wait for a writer.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_file() { File::open(path) } else { Err(io::Error::other(other_than_a_file(kind))) }
}

/// Refuses what is there and is not a regular file. Reading it reports that it is missing.
pub(super) fn check_regular(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path).map(|metadata| metadata.file_type()) {
        Ok(kind) if !kind.is_file() => Err(format!("{} {}", path.display(), other_than_a_file(kind))),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn other_than_a_file(kind: FileType) -> String {
    let what = if kind.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
    format!("is {what}; name a regular file, or a link to one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_do_not_count_and_control_characters_are_refused() {
        for (text, wanted) in [
            ("abc", "abc"),
            ("abc\r\n\n", "abc"),
            ("\u{feff}abc\n", "abc"),
            (" \u{feff} a b\t", "a b"),
            ("\n", ""),
            ("ä€", "ä€"),
        ] {
            assert_eq!(value(text).unwrap(), wanted, "{text:?}");
            assert_eq!(lines(text).unwrap(), wanted, "{text:?}");
        }
        for (text, wanted) in [
            ("s3cret\nother", "a line break after 6"),
            ("s3cret\r\nother", "a line break after 6"),
            ("s3\tcret", "U+0009 after 2"),
            ("s3\0cret", "U+0000 after 2"),
        ] {
            let reason = value(text).unwrap_err();
            assert!(reason.contains(wanted) && !reason.contains("s3") && !reason.contains("other"), "{reason}");
        }
        assert_eq!(lines("[\n 1\n]\n").unwrap(), "[\n 1\n]");
        assert!(lines("[\0]").unwrap_err().contains("NUL"));
    }
}

//! `%XX` in addresses.

use percent_encoding::percent_decode_str;

/// Decodes `%XX`; none if a `%` is not followed by two hexadecimal digits, or if the bytes are not UTF-8 or contain a
/// zero.
pub fn percent_decoded(text: &str) -> Option<String> {
    let has_digits = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    // The library accepts a `%` without digits; here it is an error.
    if !text.split('%').skip(1).all(has_digits) {
        return None;
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    (!decoded.contains('\0')).then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_is_refused() {
        assert_eq!(percent_decoded("/a%20b/%c3%A4%25"), Some("/a b/ä%".to_owned()));
        for wrong in ["%", "a%2", "%zz", "%+1", "%ä", "%ff", "%00"] {
            assert_eq!(percent_decoded(wrong), None, "{wrong}");
        }
    }
}

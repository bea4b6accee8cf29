//! `%XX` in addresses.

/// Decodes `%XX`; none if a `%` is not followed by two hexadecimal digits, or if the bytes are not UTF-8 or contain a
/// zero.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    if bytes.contains(&0) { None } else { String::from_utf8(bytes).ok() }
}

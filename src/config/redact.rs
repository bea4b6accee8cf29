//! Values that must not appear in logs or `--json`.

use std::fmt;

use serde::Deserialize;

/// A token, or an address that may contain a password. Only [`Secret::reveal`] returns it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.0.contains("://") { without_password(&self.0) } else { HIDDEN.to_owned() };
        write!(f, "{shown:?}")
    }
}

pub(super) const HIDDEN: &str = "***";

/// The schemes of addresses with passwords, which never have an `@` after the host.
const PASSWORDS: [&str; 4] = ["amqp", "amqps", "postgres", "postgresql"];

/// The value of the setting `key`, with secrets hidden.
pub(super) fn shown(key: &str, value: &str) -> String {
    let secret = ["token", "tokens", "secret", "password", "access_key_id", "secret_access_key", "batch_webhook"]
        .iter()
        .any(|ending| key.ends_with(ending));
    if secret && !value.is_empty() { HIDDEN.to_owned() } else { without_password(value) }
}

/// Addresses with their passwords hidden; they may be separated by commas.
fn without_password(text: &str) -> String {
    // A comma may also be a part of an address, so only one that another address follows separates.
    let separates = |at: usize| {
        let scheme = text[at + 1..].trim_start().split_once("://").map_or("", |(scheme, _)| scheme);
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    match text.match_indices(',').find(|(at, _)| separates(*at)) {
        Some((at, _)) => format!("{},{}", hidden(&text[..at]), without_password(&text[at + 1..])),
        None => hidden(text),
    }
}

/// `scheme://user:password@host` and `?password=...` with the password hidden; anything else as it is.
fn hidden(text: &str) -> String {
    let hidden = || {
        let (scheme, rest) = text.split_once("://")?;
        let mut end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let looks_cut = !matches!(scheme, "file" | "s3") && !rest[..end].contains('@') && rest[..end].contains(':');
        if PASSWORDS.contains(&scheme) || looks_cut {
            // A password with one of these is refused later, but not shown before that.
            end = end.max(rest.rfind('@').unwrap_or(end));
            end += rest[end..].find(['/', '?', '#']).unwrap_or(rest.len() - end);
        }
        let (authority, path) = rest.split_at(end);
        let (credentials, host) = authority.rsplit_once('@')?;
        let (user, _password) = credentials.split_once(':')?;
        Some(format!("{scheme}://{user}:{HIDDEN}@{host}{path}"))
    };
    let text = hidden().unwrap_or_else(|| text.to_owned());
    let Some((place, query)) = text.split_once('?').filter(|_| text.contains("://")) else { return text };
    let one = |pair: &str| match pair.split_once('=') {
        Some((key, _)) if key.ends_with("password") => format!("{key}={HIDDEN}"),
        _ => pair.to_owned(),
    };
    format!("{place}?{}", query.split('&').map(one).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_tokens_are_hidden() {
        assert_eq!(format!("{:?}", Secret("hunter2".to_owned())), "\"***\"");
        let url = Secret("amqp://me:hun@ter2@host:5672/v".to_owned());
        assert_eq!(format!("{url:?}"), "\"amqp://me:***@host:5672/v\"");
        assert_eq!(shown("http.token", "hunter2"), "***");
        assert_eq!(shown("http.webhook_secret", "whsec_aHVudGVyMg=="), "***");
        assert_eq!(shown("store.url", "file:///a@b:c"), "file:///a@b:c");
        assert_eq!(shown("queue.url", "amqp://me:hun,ter2@a,b/v"), "amqp://me:***@a,b/v");
        assert_eq!(shown("queue.url", "amqp://me:hu/nt?er2#@host/v"), "amqp://me:***@host/v");
        for raw in
            ["amqp://me:hun/ter2@host:5672/v", "amqp://me:h#u?n@ter/2@host:5672/v", "postgres://me:h/u@host:5672/v"]
        {
            assert_eq!(shown("queue.url", raw).split_once("//").unwrap().1, "me:***@host:5672/v", "{raw}");
        }
        for (text, wanted) in [
            ("postgres://me:hunt/er2@db/x", "postgres://me:***@db/x"),
            ("postgres://me:hunt?er2@db/x?sslmode=require", "postgres://me:***@db/x?sslmode=require"),
            ("postgres://me@/x?host=/run&password=hunter2", "postgres://me@/x?host=/run&password=***"),
            ("s3://bucket/a?b", "s3://bucket/a?b"),
            ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
            ("https://me:p@h:1/x", "https://me:***@h:1/x"),
            ("https://me:p/w@h:1/x", "https://me:***@h:1/x"),
            ("http://h:1/a", "http://h:1/a"),
        ] {
            assert_eq!(shown("store.endpoint", text), wanted);
        }
        let several = "amqp://me:hunter2@a,amqps://you:hunter3@b, amqp://c";
        assert_eq!(shown("queue.url", several), "amqp://me:***@a,amqps://you:***@b, amqp://c");
    }
}

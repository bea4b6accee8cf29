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

const HIDDEN: &str = "***";

/// The value of the setting `key`, with secrets hidden.
pub(super) fn shown(key: &str, value: &str) -> String {
    let secret = key.ends_with("token") || key.ends_with("secret");
    if secret && !value.is_empty() { HIDDEN.to_owned() } else { without_password(value) }
}

/// `scheme://user:password@host` and `?password=...` with the password hidden; anything else as it is.
fn without_password(text: &str) -> String {
    let hidden = || {
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        // Without an @ before it, the first / or ? may be a character of the password.
        let end = if rest[..end].contains('@') { end } else { rest.len() };
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
        for (text, wanted) in [
            ("postgres://me:hunt/er2@db/x", "postgres://me:***@db/x"),
            ("postgres://me:hunt?er2@db/x?sslmode=require", "postgres://me:***@db/x?sslmode=require"),
            ("postgres://me@/x?host=/run&password=hunter2", "postgres://me@/x?host=/run&password=***"),
            ("s3://bucket/a?b", "s3://bucket/a?b"),
        ] {
            assert_eq!(shown("status.url", text), wanted);
        }
        assert_eq!(shown("http.token", "hunter2"), "***");
        assert_eq!(shown("http.webhook_secret", "whsec_aHVudGVyMg=="), "***");
        assert_eq!(shown("store.url", "file:///a@b:c"), "file:///a@b:c");
    }
}

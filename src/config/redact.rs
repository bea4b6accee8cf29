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

/// `scheme://user:password@host` with the password hidden; anything else as it is.
fn without_password(text: &str) -> String {
    let hidden = || {
        let (scheme, rest) = text.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        // A password with a `/`, `?` or `#` that is not encoded ends the authority too early. Paths and keys of files
        // and objects may have an `@`.
        let credentials_end = match rest.rfind('@')? {
            at if at < authority.len() || !matches!(scheme, "file" | "s3") && authority.contains(':') => at,
            _ => return None,
        };
        let (credentials, host) = (&rest[..credentials_end], &rest[credentials_end + 1..]);
        let (user, _password) = credentials.split_once(':')?;
        Some(format!("{scheme}://{user}:{HIDDEN}@{host}"))
    };
    hidden().unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_tokens_are_hidden() {
        assert_eq!(format!("{:?}", Secret("hunter2".to_owned())), "\"***\"");
        let url = Secret("amqp://me:hun@ter2@host:5672/v".to_owned());
        assert_eq!(format!("{url:?}"), "\"amqp://me:***@host:5672/v\"");
        for raw in
            ["amqp://me:hun/ter2@host:5672/v", "amqp://me:h#u?n@ter/2@host:5672/v", "postgres://me:h/u@host:5672/v"]
        {
            assert_eq!(shown("queue.url", raw).split_once("//").unwrap().1, "me:***@host:5672/v", "{raw}");
        }
        assert_eq!(shown("store.endpoint", "https://me:p@h:1/x"), "https://me:***@h:1/x");
        assert_eq!(shown("store.url", "s3://bucket/a@b:c"), "s3://bucket/a@b:c");
        assert_eq!(shown("store.endpoint", "http://h:1/a"), "http://h:1/a");
        assert_eq!(shown("http.token", "hunter2"), "***");
        assert_eq!(shown("http.webhook_secret", "whsec_aHVudGVyMg=="), "***");
        assert_eq!(shown("store.url", "file:///a@b:c"), "file:///a@b:c");
    }
}

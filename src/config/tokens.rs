//! `http.tokens`: tokens with names and roles.

use std::{collections::HashSet, fmt, path::PathBuf};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

use super::{Environment, Secret, layers::in_words, secret_files};

/// Names that stand for `http.token`, and for no token at all.
const TAKEN: [&str; 2] = ["token", "anonymous"];
const LONGEST_NAME: usize = 64;
const MOST_REQUESTS_PER_SECOND: f64 = 1e6;

/// An entry of `http.tokens`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSetting {
    pub name: String,
    pub role: TokenRole,
    /// Present once loaded; may come from `token_file`.
    #[serde(default)]
    pub token: Option<Secret>,
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// 0: no limit of its own.
    #[serde(default)]
    pub requests_per_second: f64,
    /// 0: no limit.
    #[serde(default)]
    pub jobs_per_day: u64,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    Read,
    Submit,
    Operate,
}

impl TokenRole {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Operate => "operate",
        }
    }
}

/// The first invalid entry, and why it is invalid.
pub(super) fn check(tokens: &[TokenSetting]) -> Result<(), String> {
    let mut names = HashSet::new();
    for TokenSetting { name, token, token_file, requests_per_second, .. } in tokens {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let fits = (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(plain);
        if !fits || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(format!(
                "`{}` is not the name of a token: 1 to {LONGEST_NAME} letters, digits, `-`, `_` and `.`, the first of \
                 them a letter or digit",
                name.chars().take(LONGEST_NAME).collect::<String>().escape_debug()
            ));
        }
        if TAKEN.contains(&name.as_str()) {
            return Err(format!("`{name}` is the name of requests without a named token; choose another"));
        }
        if !names.insert(name) {
            return Err(format!("two tokens are named `{name}`; names are unique"));
        }
        match (token, token_file) {
            (Some(_), Some(_)) => return Err(format!("{name} has both token and token_file; keep one of the two")),
            (None, None) => return Err(format!("{name} has neither token nor token_file; give one of the two")),
            (Some(_), None) | (None, Some(_)) => {}
        }
        check_rate(*requests_per_second).map_err(|reason| format!("{name}, requests_per_second: {reason}"))?;
    }
    Ok(())
}

/// Requests per second.
pub(super) fn check_rate(rate: f64) -> Result<(), String> {
    if (0.0..=MOST_REQUESTS_PER_SECOND).contains(&rate) {
        return Ok(());
    }
    Err(format!("{rate} is not between 0 (no limit) and {MOST_REQUESTS_PER_SECOND}"))
}

/// Reads the files of tokens; returns the reasons why some cannot be used, and remarks for the log.
pub(super) fn read_files(tokens: &mut [TokenSetting], environment: &Environment) -> (Vec<String>, Vec<String>) {
    let (mut wrong, mut remarks) = (Vec::new(), Vec::new());
    for entry in tokens {
        let Some(path) = &entry.token_file else { continue };
        match secret_files::read(path, environment) {
            Ok(found) => {
                entry.token = Some(Secret::from(found.text));
                remarks.extend(found.remark.map(|remark| format!("http.tokens, {}, token_file: {remark}", entry.name)));
            }
            Err(reason) => wrong.push(format!("http.tokens, {}, token_file: {reason}", entry.name)),
        }
    }
    (wrong, remarks)
}

/// A list, or a text that is one in JSON, as in a variable or a file.
pub(super) fn tokens<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TokenSetting>, D::Error> {
    struct ListOrText;

    impl<'de> Visitor<'de> for ListOrText {
        type Value = Vec<TokenSetting>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of tokens, each with name, role and token or token_file, or such a list as JSON")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut tokens = Vec::new();
            while let Some(token) = list.next_element()? {
                tokens.push(token);
            }
            Ok(tokens)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            if text.trim().is_empty() {
                return Ok(Vec::new());
            }
            let mut json = serde_json::Deserializer::from_str(text);
            serde_path_to_error::deserialize(&mut json).map_err(|error| {
                let field = error.path().to_string();
                E::custom(reason(&field, error.inner()))
            })
        }
    }

    deserializer.deserialize_any(ListOrText)
}

/// Without what the parser found, which may be a token. `field`: for instance `[0].role`.
fn reason(field: &str, error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let example = r#"[{"name": "ci", "role": "submit", "token_file": "/run/secrets/ci"}]"#;
    let text = error.to_string();
    let said = text.split(" at line ").next().unwrap_or_default();
    let shown = ["unknown field", "missing field", "unknown variant"].iter().any(|known| said.starts_with(known));
    let wanted = said.rsplit_once(", expected ").map(|(_, wanted)| format!("is not {}", in_words(wanted)));
    let said = match wanted.filter(|_| error.is_data()) {
        _ if error.is_data() && shown => said.to_owned(),
        Some(wanted) if field.starts_with('[') => wanted,
        Some(_) | None => "is not a list of tokens as JSON".to_owned(),
    };
    let field = if field.starts_with('[') { format!("{field}: ") } else { String::new() };
    format!("{field}{said} (line {line}, column {column}); write {example}")
}

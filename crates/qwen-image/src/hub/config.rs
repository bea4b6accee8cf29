//! Where models are downloaded from and cached. The rules are those of Python's `huggingface_hub`, so that both share
//! one cache and one login.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The hub's address, its cache, and how downloads behave.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Address of the hub, without a slash at the end.
    pub endpoint: String,
    /// The folder that holds `models--Org--Name`.
    pub cache_dir: PathBuf,
    /// The token, which is sent only to the endpoint.
    pub token: Option<Token>,
    /// Never touch the network.
    pub offline: bool,
    /// Whether to use `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    pub use_proxy: bool,
    /// A PEM file of certificate authorities that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// The timeouts and retries of requests.
    pub retry: Retry,
    /// Returns the free space of a folder in bytes; replaced in tests.
    pub available_space: fn(&Path) -> std::io::Result<u64>,
}

/// Timeouts and retries of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// After this many attempts in a row with (almost) no data, a download gives up.
    pub attempts: u32,
    /// The number of attempts to reach the hub, before its first response.
    pub first_attempts: u32,
    /// The pause before the second attempt; it doubles each time.
    pub first_wait: Duration,
    /// The maximum pause, unless the server asks for more.
    pub longest_wait: Duration,
    /// The longest `Retry-After` that is respected.
    pub longest_asked: Duration,
    /// A connection without data for this long counts as lost.
    pub stall: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 8,
            first_attempts: 3,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(30),
            longest_asked: Duration::from_secs(300),
            stall: Duration::from_secs(30),
        }
    }
}

/// The hub's access token. It never appears in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// `None` if only white space is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

impl Default for HubConfig {
    /// Hugging Face, with the cache of `huggingface_hub` in the home folder, or below the current folder where there is
    /// no home. No variable of the hub is read: [`Self::resolve`] does that.
    fn default() -> Self {
        // hf-hub's own default panics without a home folder.
        let cache = match std::env::home_dir() {
            Some(_) => hf_hub::Cache::default().path().clone(),
            None => PathBuf::from(".cache/huggingface/hub"),
        };
        Self::new(DEFAULT_ENDPOINT, cache)
    }
}

impl HubConfig {
    /// A hub with this cache, no token and the defaults for everything else.
    pub fn new(endpoint: &str, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache_dir: cache_dir.into(),
            token: None,
            offline: false,
            use_proxy: true,
            ca_file: None,
            retry: Retry::default(),
            available_space: |folder| fs4::available_space(folder),
        }
    }

    /// Applies the hub's environment variables. Reads nothing itself: `get_env` and `read_file` do.
    ///
    /// - cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME/hub`, `XDG_CACHE_HOME/huggingface/hub`,
    ///   `~/.cache/huggingface/hub`
    /// - token: `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, the file `HF_TOKEN_PATH`, the file `HF_HOME/token`; none with
    ///   `HF_HUB_DISABLE_IMPLICIT_TOKEN`
    /// - `HF_ENDPOINT`; `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`; `HF_HUB_DOWNLOAD_TIMEOUT` in seconds
    pub fn resolve(
        get_env: impl Fn(&str) -> Option<String>,
        read_file: impl Fn(&Path) -> Option<String>,
        home: &Path,
    ) -> Self {
        let env = |name: &str| get_env(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| env(name).map(|value| expand_home(&value, home));
        let truthy =
            |name: &str| env(name).is_some_and(|v| matches!(v.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"));

        let hf_home = path("HF_HOME")
            .unwrap_or_else(|| path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache")).join("huggingface"));
        let cache_dir =
            path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| hf_home.join("hub"));
        let token_from_env = || env("HF_TOKEN").or_else(|| env("HUGGING_FACE_HUB_TOKEN"));
        let token_from_file = || read_file(&path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token")));

        let mut config = Self::new(env("HF_ENDPOINT").as_deref().unwrap_or(DEFAULT_ENDPOINT), cache_dir);
        if !truthy("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            config.token = token_from_env().or_else(token_from_file).and_then(|text| Token::new(&text));
        }
        config.offline = match env("HF_HUB_OFFLINE") {
            Some(_) => truthy("HF_HUB_OFFLINE"),
            None => truthy("TRANSFORMERS_OFFLINE"),
        };
        if let Some(seconds) = env("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|v| v.parse().ok()).filter(|&s: &u64| s > 0) {
            config.retry.stall = Duration::from_secs(seconds);
        }
        config
    }
}

fn expand_home(value: &str, home: &Path) -> PathBuf {
    match value.strip_prefix('~') {
        Some("") => home.to_owned(),
        Some(rest) if rest.starts_with('/') => home.join(&rest[1..]),
        _ => PathBuf::from(value),
    }
}

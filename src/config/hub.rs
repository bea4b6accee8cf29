//! `[hub]`, which overrides the variables of Hugging Face's tools.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Environment, Secret, set};
use qwen_image::hub::{HubConfig, Token};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    #[serde(deserialize_with = "set")]
    pub endpoint: Option<String>,
    #[serde(deserialize_with = "set")]
    pub cache_dir: Option<PathBuf>,
    #[serde(deserialize_with = "set")]
    pub token: Option<Secret>,
    #[serde(deserialize_with = "set")]
    pub token_file: Option<PathBuf>,
    pub offline: bool,
}

impl Hub {
    /// Follows the rules of Hugging Face's tools (`HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE` and so on); this section
    /// overrides them.
    pub(super) fn resolve(&self, environment: &Environment) -> HubConfig {
        let home = environment.home().unwrap_or_else(|| PathBuf::from("/"));
        let read_file = |path: &Path| std::fs::read_to_string(path).ok();
        let mut hub = HubConfig::resolve(|name| environment.get(name), read_file, &home);
        if let Some(endpoint) = &self.endpoint {
            endpoint.trim_end_matches('/').clone_into(&mut hub.endpoint);
        }
        if let Some(cache_dir) = &self.cache_dir {
            hub.cache_dir.clone_from(cache_dir);
        }
        if let Some(token) = &self.token {
            hub.token = Token::new(token.reveal());
        }
        hub.offline |= self.offline;
        hub
    }
}

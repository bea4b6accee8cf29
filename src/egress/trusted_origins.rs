//! Origins that a setting trusts, so that they may be private.

use std::sync::Arc;

use super::web_address::WebAddress;
use crate::job::JobError;

/// Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct TrustedOrigins(Arc<[(bool, String, u16)]>);

impl TrustedOrigins {
    /// Reads the origins of a setting, such as `http://127.0.0.1:9000`.
    pub fn parse(setting: &str, origins: &[String]) -> Result<Self, JobError> {
        let origin = |text: &String| match WebAddress::parse(setting, text) {
            Ok(address) => Ok(address.origin()),
            Err(_) => {
                let reason = format!("`{text}` is not an origin such as http://127.0.0.1:9000");
                Err(JobError::invalid(setting, reason))
            }
        };
        origins.iter().map(origin).collect::<Result<Vec<_>, _>>().map(|origins| Self(origins.into()))
    }

    pub fn has(&self, address: &WebAddress) -> bool {
        self.0.contains(&address.origin())
    }
}

//! A job's id, and the epoch that fences its attempts.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::JobError;

/// A job's id: a UUID, time-ordered (version 7) if made here, any version if the submitter chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    #[expect(clippy::new_without_default, reason = "every call returns a different id")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id of a request in a batch (version 5): the same request, by its fingerprint, in the same batch is the same
    /// job.
    pub fn in_batch(batch: &str, fingerprint: &str) -> Self {
        let namespace = Uuid::new_v5(&Uuid::NAMESPACE_OID, b"acetate batch");
        Self(Uuid::new_v5(&namespace, format!("{batch}\0{fingerprint}").as_bytes()))
    }

    /// The id of a submission with an `Idempotency-Key` (version 5): the same key of the same `sender` is the same job.
    /// Senders without a name of their own share their keys.
    pub fn of_key(sender: Option<&str>, key: &str) -> Self {
        let all = Uuid::new_v5(&Uuid::NAMESPACE_OID, b"acetate idempotency key");
        let namespace = sender.map_or(all, |sender| Uuid::new_v5(&all, format!("\0{sender}").as_bytes()));
        Self(Uuid::new_v5(&namespace, key.as_bytes()))
    }

    /// The id's 128 bits: less memory than its text.
    pub fn to_bytes(self) -> [u8; 16] {
        *self.0.as_bytes()
    }

    /// The seed of a job without one: derived from the id, so that a retry draws the same noise.
    pub fn default_seed(&self) -> u64 {
        let digest = Sha256::digest(self.0.as_bytes());
        u64::from(u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        Uuid::parse_str(text).map(Self).map_err(|_| {
            JobError::invalid("id", format!("`{text}` is not a UUID such as 018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21"))
        })
    }
}

/// Incremented by every claim of a job. A write with an older epoch than the row's has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Epoch(pub i64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_their_sender() {
        let all = [None, Some("a"), Some("b")].map(|sender| JobId::of_key(sender, "k"));
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
        assert_eq!(JobId::of_key(Some("a"), "k"), all[1]);
        // As before there were named tokens.
        assert_eq!(all[0].to_string(), "acc863c4-6478-581b-83f2-2bedd1eafc46");
    }
}

//! What a worker shows with every write about its attempt.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use crate::job::{Epoch, JobError};

/// One claim of a job. A write whose fence is not the row's changes nothing.
///
/// The epoch alone can repeat: after a failover to a replica that was behind, or in a restored database, the same job
/// is claimed a second time with the same number. The claim's id is drawn anew each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    pub epoch: Epoch,
    /// Absent if no worker had the job yet, or only one of a version without it.
    pub claim: Option<ClaimId>,
}

/// Different for every claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimId(Uuid);

impl ClaimId {
    pub(super) fn draw() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ClaimId {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        Uuid::parse_str(text).map(Self).map_err(|_| JobError::database(format!("`{text}` is not the id of a claim")))
    }
}

impl Fence {
    /// The column `claim`.
    pub(super) fn claim_text(self) -> Option<String> {
        self.claim.map(|claim| claim.to_string())
    }
}

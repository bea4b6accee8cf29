//! The kinds of jobs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    Decompose,
    Edit,
    Composite,
    Workflow,
}

impl JobKind {
    pub const ALL: [Self; 4] = [Self::Decompose, Self::Edit, Self::Composite, Self::Workflow];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decompose => "decompose",
            Self::Edit => "edit",
            Self::Composite => "composite",
            Self::Workflow => "workflow",
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            format!("`{text}` is not a kind of job; the kinds are decompose, edit, composite and workflow")
        })
    }
}

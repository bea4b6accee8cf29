//! A reference to a model: a folder, or a hub id.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{HubError, Small, SmallModelPaths};

const DEFAULT_REVISION: &str = "main";

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModelRef {
    /// A diffusers folder on this machine. Nothing is downloaded.
    Folder(PathBuf),
    /// A repository on the hub, at a branch, a tag or a commit.
    Hub {
        /// `Org/Name`.
        id: String,
        /// A branch, a tag or a commit.
        revision: String,
    },
    /// No model was chosen: the small one that comes with acetate, searched on use.
    Small {
        /// Which of the two.
        which: Small,
        /// Where it is searched.
        paths: SmallModelPaths,
    },
}

impl ModelRef {
    /// Parses `./folder`, `/folder`, any existing path, or `Org/Name[@REVISION]` (default revision `main`).
    ///
    /// # Errors
    /// [`HubError::Reference`] for anything else, with valid forms.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let refuse = |reason: &str| HubError::Reference { text: text.to_owned(), reason: reason.to_owned() };
        if text.trim().is_empty() {
            return Err(refuse("it is empty"));
        }
        if looks_like_a_path(text) || Path::new(text).exists() {
            return Ok(Self::Folder(PathBuf::from(text)));
        }
        let (id, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        match id.split('/').collect::<Vec<_>>().as_slice() {
            [organization, name] if is_id_part(organization) && is_id_part(name) => {}
            _ => return Err(refuse("there is no such folder")),
        }
        if !is_revision(revision) {
            return Err(refuse("the part after @ is not a branch, a tag or a commit"));
        }
        Ok(Self::Hub { id: id.to_owned(), revision: revision.to_owned() })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Hub { id, revision } if revision == DEFAULT_REVISION => f.write_str(id),
            Self::Hub { id, revision } => write!(f, "{id}@{revision}"),
            Self::Small { which, .. } => f.write_str(which.name()),
        }
    }
}

/// A dataset on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetRef {
    /// `Org/Name`.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// A folder or a file in it; empty for all of it.
    pub path: String,
}

impl DatasetRef {
    /// Parses `Org/Name[@REVISION][/PATH]`; a revision with slashes cannot be given together with a path.
    ///
    /// # Errors
    /// [`HubError::Reference`] for anything else.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let refuse = |reason: &str| HubError::DatasetReference { text: text.to_owned(), reason: reason.to_owned() };
        let mut parts = text.trim_end_matches('/').splitn(3, '/');
        let (organization, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (name, revision) = name.split_once('@').unwrap_or((name, DEFAULT_REVISION));
        if !is_id_part(organization) || !is_id_part(name) {
            return Err(refuse("it is not ORG/NAME"));
        }
        if !is_revision(revision) {
            return Err(refuse("the part after @ is not a branch, a tag or a commit"));
        }
        let path = parts.next().unwrap_or_default();
        if path.split('/').any(|part| matches!(part, "." | "..")) || path.contains('\\') {
            return Err(refuse("the path leaves the dataset"));
        }
        Ok(Self { id: format!("{organization}/{name}"), revision: revision.to_owned(), path: path.to_owned() })
    }
}

/// The id of a dataset, if this is the address of one on the hub: `datasets/Org/Name`. A model's has two parts.
pub(super) fn dataset(id: &str) -> Option<&str> {
    id.strip_prefix("datasets/").filter(|id| id.contains('/'))
}

/// A full commit hash: the only revision whose content never changes.
pub(super) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// Lower-case hexadecimal of exactly this length. Hashes become file names, so nothing else is allowed.
pub(super) fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn looks_like_a_path(text: &str) -> bool {
    text.starts_with(['.', '/', '~', '\\']) || Path::new(text).is_absolute()
}

/// The hub's rule for one half of an id. `--` separates the halves in the cache, and `..` would leave it.
fn is_id_part(part: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=96).contains(&part.len())
        && part.bytes().all(allowed)
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

/// A revision is also a path below `refs/`, so only plain names are allowed.
fn is_revision(revision: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    revision.len() <= 200
        && revision
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && part.bytes().all(allowed))
}

//! The files of one commit, as listed by the hub's API and as stored in the cache.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::hash::ContentHash;
use super::reference::{is_commit, is_hex};

/// All files of a repository at one commit. It never changes, so the cache can keep it forever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepoListing {
    pub commit: String,
    pub files: Vec<RemoteFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Relative, with `/`, and never outside of the repository.
    pub path: String,
    pub size: u64,
    pub hash: ContentHash,
    /// Git's hash of the file; for a large file, the hash of its pointer, not of the content.
    git_id: String,
}

impl RepoListing {
    /// Parses the response of `/api/models/{id}/revision/{revision}?blobs=true`.
    ///
    /// # Errors
    /// A message, if the response is not such a list, or has paths or hashes that must not become file names.
    pub fn from_api(json: &[u8]) -> Result<Self, String> {
        let answer: ApiModel = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if !is_commit(&answer.sha) {
            return Err(format!("{:?} is not a commit", answer.sha));
        }
        let files = answer.siblings.into_iter().map(ApiFile::check).collect::<Result<_, _>>()?;
        Ok(Self { commit: answer.sha, files })
    }

    /// Parses the format of `huggingface_hub`'s `trees/{commit}.json`.
    pub fn from_tree(commit: &str, json: &[u8]) -> Option<Self> {
        let tree: Tree = serde_json::from_slice(json).ok().filter(|tree: &Tree| tree.format_version == TREE_VERSION)?;
        let check = |(path, entry): (String, TreeEntry)| {
            let lfs = entry.lfs_sha256.map(|sha256| ApiLfs { sha256, size: entry.lfs_size.unwrap_or(entry.size) });
            ApiFile { rfilename: path, size: Some(entry.size), blob_id: Some(entry.blob_id), lfs }.check().ok()
        };
        Some(Self { commit: commit.to_owned(), files: tree.files.into_iter().map(check).collect::<Option<_>>()? })
    }

    pub fn to_tree(&self) -> serde_json::Result<Vec<u8>> {
        let entry = |file: &RemoteFile| {
            let sha256 = match &file.hash {
                ContentHash::Sha256(text) => Some(text.clone()),
                ContentHash::GitSha1(_) => None,
            };
            let lfs_size = sha256.as_ref().map(|_| file.size);
            TreeEntry { size: file.size, blob_id: file.git_id.clone(), lfs_sha256: sha256, lfs_size, xet_hash: None }
        };
        let files = self.files.iter().map(|file| (file.path.clone(), entry(file))).collect();
        serde_json::to_vec_pretty(&Tree { format_version: TREE_VERSION, files })
    }
}

const TREE_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Tree {
    format_version: u32,
    files: BTreeMap<String, TreeEntry>,
}

#[derive(Serialize, Deserialize)]
struct TreeEntry {
    size: u64,
    blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    xet_hash: Option<String>,
}

#[derive(Deserialize)]
struct ApiModel {
    sha: String,
    #[serde(default)]
    siblings: Vec<ApiFile>,
}

#[derive(Deserialize)]
struct ApiFile {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<ApiLfs>,
}

#[derive(Deserialize)]
struct ApiLfs {
    sha256: String,
    size: u64,
}

impl ApiFile {
    fn check(self) -> Result<RemoteFile, String> {
        let path = self.rfilename;
        let plain = |component| matches!(component, Component::Normal(_));
        if path.is_empty() || path.contains(['\\', '\0', ':']) || !Path::new(&path).components().all(plain) {
            return Err(format!("{path:?} is not a path inside the repository"));
        }
        let Some(git_id) = self.blob_id.filter(|id| is_hex(id, 40)) else {
            return Err(format!("{path} has no git hash"));
        };
        let (size, hash) = match self.lfs {
            Some(lfs) if is_hex(&lfs.sha256, 64) => (lfs.size, ContentHash::Sha256(lfs.sha256)),
            Some(lfs) => return Err(format!("{path} has {:?} for a SHA-256", lfs.sha256)),
            None => (self.size.ok_or_else(|| format!("{path} has no size"))?, ContentHash::GitSha1(git_id.clone())),
        };
        Ok(RemoteFile { path, size, hash, git_id })
    }
}

/// Names and sizes of distinct contents, so that equal files are downloaded once.
pub(super) fn distinct<'a>(files: &[&'a RemoteFile]) -> Vec<&'a RemoteFile> {
    let mut seen = HashMap::new();
    files.iter().copied().filter(|file| seen.insert(file.hash.as_str(), ()).is_none()).collect()
}

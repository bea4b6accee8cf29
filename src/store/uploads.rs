//! Uploaded pictures that are no longer needed.

use std::collections::HashSet;

use jiff::Timestamp;

use super::{ObjectKey, Store, key::INPUTS};
use crate::job::JobError;

/// The length of a SHA-256 in hexadecimal digits.
const DIGITS: usize = 64;

/// The uploads that jobs name, by their SHA-256: 32 bytes for each.
#[derive(Debug, Default)]
pub struct NamedUploads(HashSet<[u8; DIGITS / 2]>);

impl NamedUploads {
    /// Adds the uploads that the text of a request names. It looks for names anywhere in the text, so that it also
    /// understands requests of later versions.
    pub fn add(&mut self, request: &str) {
        let start = format!("{INPUTS}/");
        for (at, _) in request.match_indices(&start) {
            if let Some(digest) = request.get(at + start.len()..at + start.len() + DIGITS).and_then(digest) {
                self.0.insert(digest);
            }
        }
    }

    fn has(&self, key: &ObjectKey) -> bool {
        key.name().get(..DIGITS).and_then(digest).is_some_and(|digest| self.0.contains(&digest))
    }
}

fn digest(hexadecimal: &str) -> Option<[u8; DIGITS / 2]> {
    let mut digest = [0; DIGITS / 2];
    hex::decode_to_slice(hexadecimal, &mut digest).ok()?;
    Some(digest)
}

impl Store {
    /// The uploads that were last uploaded before a time.
    pub async fn old_uploads(&self, before: Timestamp) -> Result<Vec<ObjectKey>, JobError> {
        let names = match self {
            Self::Folder(store) => store.older(INPUTS, before).await?,
            Self::S3(store) => store.older(INPUTS, before).await?,
        };
        Ok(names.iter().filter_map(|name| ObjectKey::brought(name)).collect())
    }

    /// Deletes those of some uploads that no job names, and that were not uploaded again; returns their number.
    pub async fn delete_uploads(
        &self,
        keys: &[ObjectKey],
        named: &NamedUploads,
        before: Timestamp,
    ) -> Result<u64, JobError> {
        let mut unused = Vec::new();
        for key in keys.iter().filter(|key| !named.has(key)) {
            if self.modified(key).await?.is_some_and(|modified| modified < before) {
                unused.push(key.clone());
            }
        }
        match self {
            Self::Folder(store) => store.delete(&unused).await?,
            Self::S3(store) => store.delete(&unused).await?,
        }
        Ok(unused.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FolderStore;

    #[tokio::test]
    async fn only_old_uploads_that_no_request_names_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::Folder(FolderStore::in_folder(folder.path().to_owned()));
        let [named, unused] = [b"a", b"b"].map(|bytes| bytes.to_vec());
        let named = store.put_input("png", named).await.unwrap();
        let unused = store.put_input("png", unused).await.unwrap();
        std::fs::write(folder.path().join("inputs/not-an-upload.txt"), "x").unwrap();
        let now = Timestamp::now();
        let (later, earlier) = (now + jiff::SignedDuration::from_secs(60), now - jiff::SignedDuration::from_secs(60));

        let mut requests = NamedUploads::default();
        requests.add(&format!("{{\"image\":\"{}\"}}", store.url(&named)));
        requests.add("inputs/ä inputs/0123 inputs/");
        assert_eq!(store.old_uploads(earlier).await.unwrap(), []);
        let old = store.old_uploads(later).await.unwrap();
        assert_eq!(old.len(), 2, "{old:?}");
        assert_eq!(store.delete_uploads(&old, &requests, earlier).await.unwrap(), 0);
        assert_eq!(store.delete_uploads(&old, &requests, later).await.unwrap(), 1);
        assert!(store.exists(&named).await.unwrap() && !store.exists(&unused).await.unwrap());
        assert!(folder.path().join("inputs/not-an-upload.txt").exists());
    }
}

//! The two hashes that the hub uses for content.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The expected hash of a file. Its text is also the blob's name in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ContentHash {
    /// Large files: SHA-256 of the bytes.
    Sha256(String),
    /// Small files, which are in git itself: SHA-1 over `blob SIZE\0` and the bytes.
    GitSha1(String),
}

impl ContentHash {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::GitSha1(text) => text,
        }
    }

    /// A hasher for content of this many bytes.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::GitSha1(_) => Hasher::GitSha1(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

/// Hashes the bytes as they arrive, so that nothing is read twice.
pub(super) enum Hasher {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitSha1(hasher) => hasher.update(bytes),
        }
    }

    /// Lower-case hexadecimal.
    pub fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex::encode(hasher.finalize()),
            Self::GitSha1(hasher) => hex::encode(hasher.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha256sum_and_git_hash_object() {
        let run = |hash: ContentHash| {
            let mut hasher = hash.hasher(6);
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            hasher.finish()
        };
        assert_eq!(
            run(ContentHash::Sha256(String::new())),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        assert_eq!(run(ContentHash::GitSha1(String::new())), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}

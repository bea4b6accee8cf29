//! Object keys: `{job}/{epoch}/{name}`.

use std::fmt;

use crate::job::{Epoch, JobError, JobId};

/// The folder of uploaded pictures.
pub(super) const INPUTS: &str = "inputs";

/// The name of an object in the store; always relative, never with `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    pub fn new(job: JobId, epoch: Epoch, name: &str) -> Result<Self, JobError> {
        check_name(name)?;
        Ok(Self(format!("{job}/{epoch}/{name}")))
    }

    /// Parses a key from a job row. A key that this module would not make is refused.
    pub fn parse(text: &str) -> Result<Self, JobError> {
        let mut parts = text.split('/');
        let made_here = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(job), Some(epoch), Some(name), None) => {
                let job: JobId = job.parse().map_err(|_| refused(text))?;
                let epoch = Epoch(epoch.parse().map_err(|_| refused(text))?);
                Self::new(job, epoch, name).map_err(|_| refused(text))?
            }
            _ => return Err(refused(text)),
        };
        if made_here.0 == text { Ok(made_here) } else { Err(refused(text)) }
    }

    /// The key of an uploaded picture, by the digest of its bytes.
    pub fn input(sha256: &str, ending: &str) -> Result<Self, JobError> {
        let name = format!("{sha256}.{ending}");
        check_name(&name)?;
        Ok(Self(format!("{INPUTS}/{name}")))
    }

    /// The key of an uploaded picture, by its name: `SHA256.png`.
    pub fn brought(name: &str) -> Option<Self> {
        let (sha256, ending) = name.split_once('.')?;
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let plain = (1..=4).contains(&ending.len()) && ending.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let made_here = sha256.len() == 64 && sha256.bytes().all(hex) && plain;
        made_here.then(|| Self(format!("{INPUTS}/{name}")))
    }

    /// What is remembered of a database, by its name.
    pub fn lineage(database: &str) -> Result<Self, JobError> {
        check_name(database)?;
        Ok(Self(format!("databases/{database}")))
    }

    /// Another object of the same attempt.
    pub fn sibling(&self, name: &str) -> Result<Self, JobError> {
        check_name(name)?;
        let folder = self.0.rsplit_once('/').map_or("", |(folder, _)| folder);
        Ok(Self(format!("{folder}/{name}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part: the file's own name.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// File names that acetate uses: letters, digits, `-`, `_` and dots, not starting with a dot.
pub(super) fn check_name(name: &str) -> Result<(), JobError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(refused(name));
    }
    Ok(())
}

fn refused(key: &str) -> JobError {
    JobError::storage(key.to_owned(), "is not an object key of acetate ({job}/{epoch}/{name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_the_row() {
        let key = ObjectKey::new(JobId::new(), Epoch(3), "layer-00.png").unwrap();
        assert_eq!(ObjectKey::parse(key.as_str()).unwrap(), key);
        assert!(key.sibling("manifest.json").unwrap().as_str().ends_with("/3/manifest.json"));
    }

    #[test]
    fn tricks_with_paths_are_refused() {
        let job = JobId::new();
        for name in ["", "..", ".hidden", "a/b", "../../etc/passwd", "a\\b", "a\0b", "x y"] {
            assert!(ObjectKey::new(job, Epoch(1), name).is_err(), "{name:?}");
        }
        for key in
            ["", "/etc/passwd", "a/1/x.png", &format!("{job}/1/../x"), &format!("{job}/1/x/y"), &format!("{job}//x")]
        {
            assert!(ObjectKey::parse(key).is_err(), "{key:?}");
        }
    }
}

//! Addresses of files, S3 objects and web resources. They are parsed once, then compared part by part.

use std::{fmt, path::PathBuf};

use super::url::{file_url, path_of};
use crate::{
    egress::{WebAddress, check_steps, refuse},
    job::JobError,
};

/// The maximum length of an object key, in bytes.
const LONGEST_KEY: usize = 1024;

#[derive(Debug, Clone, PartialEq)]
pub enum Location {
    File(PathBuf),
    S3(S3Location),
    Web(WebAddress),
}

impl Location {
    /// Parses an address. Errors name `field`: `input`, `store.url`, `output.prefix`.
    pub fn parse(field: &str, url: &str) -> Result<Self, JobError> {
        match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("file") => path_of(field, url).map(Self::File),
            Some("s3") => S3Location::parse(field, url).map(Self::S3),
            Some("http" | "https") => WebAddress::parse(field, url).map(Self::Web),
            Some(scheme) => refuse(field, url, &format!("has the scheme {scheme}; give s3://, file:/// or https://")),
            None => refuse(field, url, "is not an address such as s3://bucket/scene.png or file:///folder/scene.png"),
        }
    }

    /// The same address as a folder: `s3://out/x` becomes `s3://out/x/`.
    pub fn as_folder(&self) -> Self {
        match self {
            Self::S3(location) => Self::S3(location.as_folder()),
            Self::File(_) | Self::Web(_) => self.clone(),
        }
    }
}

/// For messages: a path as a path, an address without its secrets.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::S3(location) => location.fmt(f),
            Self::Web(address) => address.fmt(f),
        }
    }
}

/// `s3://bucket/key`, used literally: `%20`, `#` and `?` are ordinary characters of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Location {
    pub bucket: String,
    /// May be empty (the bucket itself); ends with `/` for a folder.
    pub key: String,
}

impl S3Location {
    pub fn parse(field: &str, url: &str) -> Result<Self, JobError> {
        let Some(rest) = url.strip_prefix("s3://") else {
            return refuse(field, url, "is not an address such as s3://bucket/scene.png");
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if bucket.is_empty() || bucket.len() > 255 || bucket.starts_with('.') || !bucket.chars().all(plain) {
            let reason = "has no bucket after s3://; a bucket name has letters, digits, `-`, `_` and `.`";
            return refuse(field, url, reason);
        }
        check_steps(field, url, key)?;
        if key.len() > LONGEST_KEY {
            return refuse(field, url, &format!("has a key of {} bytes; S3 allows {LONGEST_KEY}", key.len()));
        }
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }

    /// The same address as a folder: its key is empty or ends with `/`.
    pub fn as_folder(&self) -> Self {
        let slash = if self.key.is_empty() || self.key.ends_with('/') { "" } else { "/" };
        Self { bucket: self.bucket.clone(), key: format!("{}{slash}", self.key) }
    }

    /// An object in this folder.
    pub fn join(&self, rest: &str) -> Self {
        Self { bucket: self.bucket.clone(), key: format!("{}{rest}", self.key) }
    }
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// The full address of a location, as in requests and lists.
impl From<&Location> for String {
    fn from(location: &Location) -> Self {
        match location {
            Location::File(path) => file_url(path),
            Location::S3(location) => location.to_string(),
            Location::Web(address) => address.uri().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_addresses_are_literal() {
        for key in ["a b.png", "ä/雪.png", "50%25#1?x=y&z.png", "%41", "a//b", "/lead", "", "folder/"] {
            let location = S3Location::parse("input", &format!("s3://in/{key}")).unwrap();
            assert_eq!((location.bucket.as_str(), location.key.as_str()), ("in", key));
            assert_eq!(location.to_string(), format!("s3://in/{key}"));
        }
        assert_eq!(S3Location::parse("input", "s3://in").unwrap().as_folder().key, "");
        assert_eq!(S3Location::parse("input", "s3://in/a").unwrap().as_folder().join("b").key, "a/b");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_field() {
        let long = format!("s3://in/{}", "k".repeat(1025));
        for url in [
            "",
            "scene.png",
            "ftp://h/x",
            "s3://",
            "s3:///key",
            "s3://in side/x",
            "s3://../x",
            "s3://in/../x",
            "s3://in/a/%2E%2e/x",
            "s3://in/.",
            "s3://in/a\nb",
            "s3://in/a\u{85}b",
            "file:///a/../b",
            "file://host/x",
            "https://",
            "https:///x",
            "https://h/a/../b",
            "https://h/%2e./b",
            "https://h/a b",
            &long,
        ] {
            let error = Location::parse("input", url).unwrap_err();
            assert!(matches!(&error, JobError::InvalidRequest { field, .. } if field == "input"), "{url}: {error}");
        }
    }

    #[test]
    fn what_is_secret_in_an_address_is_not_shown() {
        let signed = Location::parse("input", "https://h/x.png?X-Amz-Signature=s3cret#f").unwrap();
        assert_eq!(signed.to_string(), "https://h/x.png");
        for url in ["https://me:s3cret@h/x", "https://h/../x?sig=s3cret", "https://h/x y?sig=s3cret"] {
            let error = Location::parse("input", url).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}

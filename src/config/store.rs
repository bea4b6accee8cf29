//! `[store]`.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use serde::Deserialize;

use super::{
    Secret, between,
    qwen_image::{Scalar, bytes},
    set,
};

/// S3 takes no smaller parts: 5 MiB; these are a little larger.
const LEAST_PART: u64 = 8 << 20;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// Absent: `objects/` in the data folder.
    #[serde(deserialize_with = "set")]
    pub url: Option<String>,
    /// Absent: AWS itself, if `url` is in S3.
    #[serde(deserialize_with = "set")]
    pub endpoint: Option<String>,
    /// Absent: AWS's variables and files.
    #[serde(deserialize_with = "set")]
    pub access_key_id: Option<Secret>,
    #[serde(deserialize_with = "set")]
    pub access_key_id_file: Option<PathBuf>,
    #[serde(deserialize_with = "set")]
    pub secret_access_key: Option<Secret>,
    #[serde(deserialize_with = "set")]
    pub secret_access_key_file: Option<PathBuf>,
    pub path_style: PathStyleSetting,
    #[serde(deserialize_with = "buckets")]
    pub buckets: BTreeMap<String, BucketOptions>,
    #[serde(deserialize_with = "set")]
    pub server_side_encryption: Option<String>,
    #[serde(deserialize_with = "set")]
    pub kms_key_id: Option<String>,
    /// Bytes.
    #[serde(deserialize_with = "bytes")]
    pub multipart_above: u64,
    /// What is missing in AWS's variables and files, for errors; not a setting.
    #[serde(skip)]
    pub credentials_hint: Option<String>,
    #[serde(deserialize_with = "list")]
    pub inputs: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub outputs: Vec<String>,
    pub http_inputs: bool,
    #[serde(deserialize_with = "list")]
    pub http_allow: Vec<String>,
    pub checksums: ChecksumsSetting,
    pub connect_timeout_seconds: f64,
    pub read_timeout_seconds: f64,
    pub operation_timeout_seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumsSetting {
    Supported,
    Required,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathStyleSetting {
    Auto,
    Always,
    Never,
}

/// `"auto"`, or a boolean, also as a text.
impl FromStr for PathStyleSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "true" => Ok(Self::Always),
            "false" => Ok(Self::Never),
            other => Err(format!("`{other}` is not auto, true or false")),
        }
    }
}

impl<'de> Deserialize<'de> for PathStyleSetting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Scalar::deserialize(deserializer)?.into_text().parse().map_err(serde::de::Error::custom)
    }
}

/// An entry of `store.buckets` without its name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BucketOptions {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: Option<PathStyleSetting>,
    pub anonymous: bool,
    pub requester_pays: bool,
}

impl BucketOptions {
    /// Reads `NAME option=value ...`.
    fn parse(entry: &str) -> Result<(String, Self), String> {
        let mut words = entry.split_whitespace();
        let name = words.next().unwrap_or_default();
        if name.is_empty() || name.contains(['=', '/', ':']) {
            return Err(format!("`{entry}` does not begin with the name of a bucket, without s3://"));
        }
        let mut options = Self::default();
        for word in words {
            let wrong = |wanted: &str| format!("bucket {name}: `{word}` is not {wanted}");
            let (option, value) =
                word.split_once('=').ok_or_else(|| wrong("an option with its value, such as region=us-west-2"))?;
            let truth = || value.parse::<bool>().map_err(|_| wrong("true or false"));
            match option {
                "endpoint" => options.endpoint = Some(value.to_owned()),
                "region" => options.region = Some(value.to_owned()),
                "path_style" => {
                    options.path_style = Some(value.parse().map_err(|reason| format!("bucket {name}: {reason}"))?);
                }
                "anonymous" => options.anonymous = truth()?,
                "requester_pays" => options.requester_pays = truth()?,
                _ => {
                    return Err(wrong(
                        "an option; they are endpoint, region, path_style, anonymous and requester_pays",
                    ));
                }
            }
        }
        Ok((name.to_owned(), options))
    }
}

impl StoreSection {
    /// The first invalid setting, and why it is invalid.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let seconds = |key, value: f64| between(key, value, 0.1..=86_400.0, " seconds");
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(_), None) => {
                let reason = "is empty while store.access_key_id is set; both are needed";
                return Err(("store.secret_access_key", reason.to_owned()));
            }
            (None, Some(_)) => {
                let reason = "is empty while store.secret_access_key is set; both are needed";
                return Err(("store.access_key_id", reason.to_owned()));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        match (self.server_side_encryption.as_deref(), &self.kms_key_id) {
            (None | Some("AES256"), Some(_)) => {
                let reason = "needs store.server_side_encryption = \"aws:kms\" or \"aws:kms:dsse\"";
                return Err(("store.kms_key_id", reason.to_owned()));
            }
            (None | Some("AES256" | "aws:kms" | "aws:kms:dsse"), _) => {}
            (Some(other), _) => {
                let reason = format!("`{other}` is not AES256, aws:kms or aws:kms:dsse");
                return Err(("store.server_side_encryption", reason));
            }
        }
        if self.multipart_above < LEAST_PART {
            let reason = format!("{} is less than {LEAST_PART}, the size of a part", self.multipart_above);
            return Err(("store.multipart_above", reason));
        }
        seconds("store.connect_timeout_seconds", self.connect_timeout_seconds)?;
        seconds("store.read_timeout_seconds", self.read_timeout_seconds)?;
        seconds("store.operation_timeout_seconds", self.operation_timeout_seconds)
    }

    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.connect_timeout_seconds)
    }

    pub fn read_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.read_timeout_seconds)
    }

    pub fn operation_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.operation_timeout_seconds)
    }
}

/// A list, or one text with commas, which is easier to write in a variable.
pub(super) fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of texts, or one text with commas")]
    enum Written {
        List(Vec<String>),
        Text(String),
    }
    let entries = match Written::deserialize(deserializer)? {
        Written::List(entries) => entries,
        Written::Text(text) => text.split(',').map(str::to_owned).collect(),
    };
    Ok(entries.iter().map(|entry| entry.trim().to_owned()).filter(|entry| !entry.is_empty()).collect())
}

fn buckets<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, BucketOptions>, D::Error> {
    let mut buckets = BTreeMap::new();
    for entry in list(deserializer)? {
        let (name, options) = BucketOptions::parse(&entry).map_err(serde::de::Error::custom)?;
        if buckets.insert(name.clone(), options).is_some() {
            return Err(serde::de::Error::custom(format_args!("bucket {name} is there twice")));
        }
    }
    Ok(buckets)
}

//! The options of the S3 client.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::egress::PrivateCas;

#[derive(Debug, Clone)]
pub struct S3Settings {
    /// Absent: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, the profile, else AWS itself.
    pub endpoint: Option<String>,
    /// Absent: `AWS_REGION`, the profile, else us-east-1.
    pub region: Option<String>,
    pub path_style: PathStyle,
    /// Absent: AWS's usual chain (environment, profile, SSO, process, web identity, container, instance).
    pub credentials: Option<S3Credentials>,
    /// What is missing in AWS's variables and files, for the error when there are no credentials.
    pub credentials_hint: Option<String>,
    /// The buckets with options of their own.
    pub buckets: BTreeMap<String, BucketSettings>,
    /// Absent: the bucket's default.
    pub encryption: Option<Encryption>,
    pub checksums: Checksums,
    /// Larger objects are written in parts.
    pub multipart_above: u64,
    pub private_cas: Option<PrivateCas>,
    pub connect_timeout: Duration,
    /// How long the server may take no byte of a request and send no response, or send too little of an object.
    pub read_timeout: Duration,
    /// The limit of one operation with all its attempts, without the bodies of objects.
    pub operation_timeout: Duration,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: PathStyle::Auto,
            credentials: None,
            credentials_hint: None,
            buckets: BTreeMap::new(),
            encryption: None,
            checksums: Checksums::Supported,
            multipart_above: 64 << 20,
            private_cas: None,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(20),
            operation_timeout: Duration::from_secs(180),
        }
    }
}

/// Where a request names the bucket: `https://host/bucket/key`, or `https://bucket.host/key` (virtual-hosted style).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathStyle {
    /// In the path, except for AWS and other stores that are known to refuse that.
    #[default]
    Auto,
    Always,
    Never,
}

/// The options of one bucket; what is absent is as for all others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BucketSettings {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: Option<PathStyle>,
    /// Requests are not signed, as for public datasets.
    pub anonymous: bool,
    /// The requester pays for the requests and the transfer.
    pub requester_pays: bool,
}

/// Encryption that each written object asks for; some buckets refuse objects that do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub algorithm: String,
    /// Absent: the account's default key.
    pub kms_key_id: Option<String>,
}

/// When to use checksums in requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// Always, so that the receiver checks all data.
    Supported,
    /// Only if S3 requires them, for stores that refuse the newer checksums.
    Required,
}

#[derive(Clone)]
pub struct S3Credentials {
    pub access_key: String,
    pub secret_key: String,
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Credentials(***)")
    }
}

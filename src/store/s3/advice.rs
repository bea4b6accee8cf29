//! What is wrong with a request to S3, and which setting changes it.

use super::{Checksums, S3Client, S3Error, failure::words};
use crate::job::{NO_OPEN_FILES, certificate_advice};

impl S3Error {
    pub(super) fn in_words(self, url: &str, cap: u64, client: &S3Client) -> String {
        let server = client.server(url);
        match self {
            Self::NoKey => format!("there is no such object at {server}"),
            Self::NoBucket => {
                format!("there is no such bucket at {server}; create it, or correct store.url and store.endpoint")
            }
            Self::Denied(message) => {
                let advice = "allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket there";
                words(&format!("{server} refuses access; {advice}"), &message)
            }
            Self::Credentials(message) => {
                let usual =
                    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or AWS_PROFILE, and the clock";
                let advice = client.settings().credentials_hint.as_deref().unwrap_or(usual);
                words(&format!("{server} rejects the credentials, or there are none; {advice}"), &message)
            }
            Self::Expired(message) => words(
                &format!(
                    "the credentials for {server} have expired; renew them, for instance with aws sso login, or set new \
                     ones and AWS_SESSION_TOKEN"
                ),
                &message,
            ),
            Self::Full(message) => {
                words(&format!("{server} is full; free some space there, or raise the bucket's quota"), &message)
            }
            Self::Key(message) => {
                let what = "cannot use the key of the encryption; correct store.kms_key_id, enable the key, and allow \
                            kms:GenerateDataKey and kms:Decrypt with it";
                words(&format!("{server} {what}"), &message)
            }
            Self::Archived(message) => {
                let what = "is archived; restore it first, for instance with aws s3api restore-object";
                words(what, &message)
            }
            Self::Region { bucket_region, message } => {
                let bucket = url.strip_prefix("s3://").and_then(|rest| rest.split('/').next()).unwrap_or(url);
                let what = match bucket_region {
                    Some(region) => format!(
                        "the bucket is in the region {region}; set AWS_REGION={region}, or for this bucket alone \
                         store.buckets = [\"{bucket} region={region}\"]"
                    ),
                    None => format!(
                        "the bucket is in a different region than the one used with {server}; set AWS_REGION, or for \
                         this bucket alone store.buckets = [\"{bucket} region=...\"]"
                    ),
                };
                words(&what, &message)
            }
            Self::Clock { ahead, message } => {
                let (side, seconds) = if ahead < 0 { ("behind", -ahead) } else { ("ahead of", ahead) };
                let minutes = (seconds + 30) / 60;
                let what = format!(
                    "this machine's clock is {minutes} minutes {side} that of {server}; set it, for instance by NTP"
                );
                words(&what, &message)
            }
            Self::Unsupported(message) => {
                let now = match client.settings().checksums {
                    Checksums::Supported => "it may not know the newer checksums: set store.checksums = \"required\"",
                    Checksums::Required => "check store.endpoint, store.path_style and store.multipart_above",
                };
                words(&format!("{server} does not support this request; {now}"), &message)
            }
            Self::Scheme(scheme) => {
                let (speaks, setting) = match scheme {
                    "http://" => ("does not speak TLS", "http:// or the port for TLS"),
                    _ => ("speaks TLS, or something other than HTTP", "https://, or the port of S3,"),
                };
                format!("the port of {server} {speaks}; use {setting} in store.endpoint")
            }
            Self::Untrusted(message) => {
                let what = "has a certificate of an authority that is not trusted; add the authority to tls.ca_file";
                words(&format!("{server} {what}"), &message)
            }
            Self::Certificate(message) => match certificate_advice(&message, &server) {
                Some(advice) => words(&advice, &message),
                None => words(&format!("the certificate of {server} is not valid"), &message),
            },
            Self::NotS3(message) => words(
                &format!(
                    "what answers at {server} is not an S3 server; correct the host and port in store.endpoint, or look for \
                     a proxy in between"
                ),
                &message,
            ),
            Self::NoHost(message) if server == "AWS" => {
                let region = client.region(url).unwrap_or_default();
                let what = format!(
                    "no host of AWS has the name of this bucket and the region `{region}`; check AWS_REGION (or the \
                     region of the profile, or region= in store.buckets), the bucket's name, and the DNS server; for a \
                     store that is not AWS, set store.endpoint"
                );
                words(&what, &message)
            }
            Self::NoHost(message) => {
                let advice = match client.path_style(url) {
                    Some(false) => {
                        "check store.endpoint; the bucket is part of the host name, which store.path_style = \"true\" \
                         changes"
                    }
                    Some(true) | None => "check store.endpoint and the DNS server",
                };
                words(&format!("the host of {server} is not known; {advice}"), &message)
            }
            Self::OpenFiles(message) => words(NO_OPEN_FILES, &message),
            Self::TooLarge(_) => format!("is larger than the expected {cap} bytes"),
            Self::Changed => "was replaced while it was read; the next attempt reads it again".to_owned(),
            Self::Throttled(message) => words(
                &format!(
                    "{server} asks for fewer requests; acetate tries again later; if it stays, lower worker.slots, start \
                     fewer workers, or raise the store's limit"
                ),
                &message,
            ),
            Self::Moved(message) => words(
                &format!(
                    "{server} sends requests for this bucket elsewhere, as it does for minutes after a bucket is made or \
                     moved; wait, or name that place in store.endpoint"
                ),
                &message,
            ),
            Self::Unavailable(message) => words(
                &format!("{server} is not available; check that it runs, and check store.endpoint and the network"),
                &message,
            ),
            Self::Refused(message) => {
                words(&format!("{server} rejects the request; check store.endpoint and store.checksums"), &message)
            }
        }
    }
}

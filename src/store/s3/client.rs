//! The S3 clients: one for each bucket with options of its own, and one for all others; each is built on first use and
//! then shared. Only this module reads AWS's own settings.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, environment::EnvironmentVariableRegionProvider,
    meta::region::RegionProviderChain, profile::ProfileFileRegionProvider,
};
use aws_sdk_s3::{
    Client,
    config::{
        Config, Credentials, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
        StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
    },
    types::RequestPayer,
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_types::service_config::ServiceConfigKey;
use tokio::sync::OnceCell;
use tracing::warn;

use super::{
    Checksums, S3Settings,
    settings::{BucketSettings, PathStyle, S3Credentials},
    stall::StallTimeoutClient,
};
use crate::egress::has_native_roots;

/// The maximum number of attempts of one request.
pub(super) const MAX_ATTEMPTS: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Shorter than the idle timeout of servers and load balancers, so that we never use a connection that they have just
/// closed.
const IDLE_CONNECTIONS: Duration = Duration::from_secs(15);
/// The region that stores without regions expect.
const DEFAULT_REGION: &str = "us-east-1";
/// The domains of stores with a host name for each bucket. Alibaba OSS and Tencent COS refuse the bucket in the path.
const HOST_PER_BUCKET: [&str; 5] =
    ["amazonaws.com", "amazonaws.com.cn", "aliyuncs.com", "myqcloud.com", "tencentcos.cn"];

/// Clones share connections and credentials.
#[derive(Debug, Clone)]
pub struct S3Client(Arc<ClientCache>);

#[derive(Debug)]
struct ClientCache {
    settings: S3Settings,
    usual: OnceCell<Built>,
    own: BTreeMap<String, OnceCell<Built>>,
}

#[derive(Debug)]
struct Built {
    client: Client,
    /// Its address, for messages.
    server: String,
    path_style: bool,
    region: Option<String>,
    /// Whether the server refuses requests that delete many objects.
    deletes_singly: AtomicBool,
}

impl S3Client {
    /// Nothing is loaded before the first use.
    pub fn new(settings: S3Settings) -> Self {
        let own = settings.buckets.keys().map(|bucket| (bucket.clone(), OnceCell::new())).collect();
        Self(Arc::new(ClientCache { settings, usual: OnceCell::new(), own }))
    }

    pub fn settings(&self) -> &S3Settings {
        &self.0.settings
    }

    /// The client for a bucket.
    pub(super) async fn of(&self, bucket: &str) -> &Client {
        let settings = &self.0.settings;
        let own = BucketSettings::default();
        let options = settings.buckets.get(bucket).unwrap_or(&own);
        &self.cell(bucket).get_or_init(|| build(settings, options)).await.client
    }

    /// Whether the server of one bucket can read the other by itself, as far as the settings say.
    pub(super) fn are_of_one_server(&self, one: &str, other: &str) -> bool {
        let of = |bucket: &str| {
            let BucketSettings { endpoint, region, anonymous, .. } =
                self.0.settings.buckets.get(bucket).cloned().unwrap_or_default();
            (endpoint, region, anonymous)
        };
        one == other || of(one) == of(other)
    }

    pub(super) fn payer(&self, bucket: &str) -> Option<RequestPayer> {
        let pays = self.0.settings.buckets.get(bucket).is_some_and(|bucket| bucket.requester_pays);
        pays.then_some(RequestPayer::Requester)
    }

    /// The server's name, for messages about an address.
    pub(super) fn server(&self, url: &str) -> String {
        let bucket = bucket_of(url);
        match self.cell(bucket).get() {
            Some(built) => built.server.clone(),
            None => {
                let own = self.0.settings.buckets.get(bucket).and_then(|bucket| bucket.endpoint.as_ref());
                own.or(self.0.settings.endpoint.as_ref()).map_or_else(|| "AWS".to_owned(), Clone::clone)
            }
        }
    }

    /// Whether requests for an address have the bucket in the path; none before the first one.
    pub(super) fn path_style(&self, url: &str) -> Option<bool> {
        self.cell(bucket_of(url)).get().map(|built| built.path_style)
    }

    /// The region in which an address is looked for; none before the first request.
    pub(super) fn region(&self, url: &str) -> Option<String> {
        self.cell(bucket_of(url)).get()?.region.clone()
    }

    fn cell(&self, bucket: &str) -> &OnceCell<Built> {
        self.0.own.get(bucket).unwrap_or(&self.0.usual)
    }

    /// The timeouts for sending `bytes`: what stalls is noticed by the connector, so the time for the whole only has to
    /// be finite.
    pub(super) fn upload_timeouts(&self, bytes: usize) -> TimeoutConfig {
        const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;
        let sending = Duration::from_secs(bytes as u64 / SLOWEST_BYTES_PER_SECOND);
        let attempt = self.0.settings.operation_timeout / 3 + sending;
        timeouts(&self.0.settings, attempt, self.0.settings.operation_timeout + sending * MAX_ATTEMPTS)
    }

    /// Whether the bucket's server deletes only one object per request: one for many objects needs a checksum, and some
    /// servers do not support it.
    pub(super) fn deletes_singly(&self, bucket: &str) -> bool {
        let required = self.0.settings.checksums == Checksums::Required;
        self.cell(bucket).get().map_or(required, |built| built.deletes_singly.load(Ordering::Relaxed))
    }

    pub(super) fn delete_singly(&self, bucket: &str) {
        if let Some(built) = self.cell(bucket).get() {
            built.deletes_singly.store(true, Ordering::Relaxed);
        }
    }
}

fn bucket_of(url: &str) -> &str {
    let rest = url.strip_prefix("s3://").unwrap_or(url);
    rest.split('/').next().unwrap_or(rest)
}

fn timeouts(settings: &S3Settings, attempt: Duration, operation: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        // The SDK's own would count the time for sending the request, whatever its size.
        .disable_read_timeout()
        .operation_attempt_timeout(attempt)
        .operation_timeout(operation)
        .build()
}

async fn build(settings: &S3Settings, options: &BucketSettings) -> Built {
    let common = common(settings, options).await;
    let chosen = options.endpoint.as_ref().or(settings.endpoint.as_ref());
    let endpoint = chosen.cloned().or_else(|| endpoint(&common));
    let path_style = match options.path_style.unwrap_or(settings.path_style) {
        PathStyle::Always => true,
        PathStyle::Never => false,
        PathStyle::Auto => endpoint.as_deref().is_some_and(has_no_host_per_bucket),
    };
    let mut config = aws_sdk_s3::config::Builder::from(&common).force_path_style(path_style);
    // Not given to the loader, which would use it for STS and SSO as well.
    config.set_endpoint_url(endpoint.clone());
    if options.anonymous {
        config = config.allow_no_auth();
    }
    config = match settings.checksums {
        Checksums::Supported => config
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenSupported),
        Checksums::Required => config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired),
    };
    let config: Config = config.build();
    let server = endpoint.unwrap_or_else(|| "AWS".to_owned());
    let deletes_singly = AtomicBool::new(settings.checksums == Checksums::Required);
    let region = common.region().map(ToString::to_string);
    Built { client: Client::from_conf(config), server, path_style, region, deletes_singly }
}

async fn common(settings: &S3Settings, options: &BucketSettings) -> SdkConfig {
    let retries = RetryConfig::standard()
        .with_max_attempts(MAX_ATTEMPTS)
        .with_initial_backoff(FIRST_BACKOFF)
        .with_max_backoff(LONGEST_BACKOFF);
    let stalled = StalledStreamProtectionConfig::enabled()
        // The connector does that.
        .upload_enabled(false)
        .download_enabled(true)
        .grace_period(settings.read_timeout)
        .build();
    let region = options.region.clone().or_else(|| settings.region.clone());
    let region = RegionProviderChain::first_try(region.map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::from_static(DEFAULT_REGION));
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(SharedHttpClient::new(StallTimeoutClient::new(http_client(settings), settings.read_timeout)))
        .region(region)
        // One third each, so that a hanging attempt leaves time for another.
        .timeout_config(timeouts(settings, settings.operation_timeout / 3, settings.operation_timeout))
        .retry_config(retries)
        .stalled_stream_protection(stalled);
    if options.anonymous {
        loader = loader.no_credentials();
    } else if let Some(S3Credentials { access_key, secret_key, session_token }) = settings.credentials.clone() {
        let credentials = Credentials::new(access_key, secret_key, session_token, None, "acetate");
        loader = loader.credentials_provider(credentials);
    }
    loader.load().await
}

/// rustls with the system's certificates and those of `tls.ca_file`.
fn http_client(settings: &S3Settings) -> SharedHttpClient {
    let mut trusted = TrustStore::empty().with_native_roots(has_native_roots());
    if let Some(cas) = &settings.private_cas {
        trusted = trusted.with_pem_certificate(cas.pem());
    }
    let builder = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).pool_idle_timeout(IDLE_CONNECTIONS);
    match TlsContext::builder().with_trust_store(trusted).build() {
        Ok(context) => builder.tls_context(context).build_https(),
        Err(error) => {
            warn!(%error, "tls.ca_file is not used for S3");
            builder.build_https()
        }
    }
}

/// The endpoint in AWS's variables and files: that of S3 (`AWS_ENDPOINT_URL_S3`) before that of all services.
fn endpoint(common: &SdkConfig) -> Option<String> {
    let of_service = || {
        let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
        common.service_config()?.load_config(key.ok()?)
    };
    of_service().or_else(|| common.endpoint_url().map(str::to_owned))
}

fn has_no_host_per_bucket(endpoint: &str) -> bool {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let host = rest.split(['/', ':']).next().unwrap_or(rest).to_ascii_lowercase();
    let is_below =
        |domain: &&str| host.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    !HOST_PER_BUCKET.iter().any(is_below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_stands_in_the_path_unless_the_store_is_known_to_refuse_that() {
        for endpoint in ["http://127.0.0.1:3900", "https://minio.lan", "https://notamazonaws.com", "http://[::1]:9000"]
        {
            assert!(has_no_host_per_bucket(endpoint), "{endpoint}");
        }
        for endpoint in [
            "https://s3.eu-west-1.amazonaws.com",
            "https://bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com:443/",
            "https://oss-cn-beijing.aliyuncs.com",
            "https://COS.ap-guangzhou.myqcloud.com",
        ] {
            assert!(!has_no_host_per_bucket(endpoint), "{endpoint}");
        }
    }
}

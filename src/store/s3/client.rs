//! The S3 client: built on first use, then shared. Only this module reads AWS's own settings.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_config::{
    BehaviorVersion, Region, environment::EnvironmentVariableRegionProvider, meta::region::RegionProviderChain,
    profile::ProfileFileRegionProvider,
};
use aws_sdk_s3::{
    Client,
    config::{
        Credentials, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
        retry::RetryConfig, timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use tokio::sync::OnceCell;

/// The most attempts of one request.
const MAX_ATTEMPTS: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Shorter than the idle timeout of servers and load balancers, so that no connection is used that they have just
/// closed.
const IDLE_CONNECTIONS: Duration = Duration::from_secs(15);
/// The region that stores without regions expect.
const DEFAULT_REGION: &str = "us-east-1";

/// The options of the S3 client.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// Absent: AWS itself.
    pub endpoint: Option<String>,
    /// Absent: `AWS_REGION`, the profile, else us-east-1.
    pub region: Option<String>,
    /// Absent: AWS's usual chain (environment, profile, web identity, container, instance).
    pub credentials: Option<S3Credentials>,
    pub checksums: Checksums,
    pub connect_timeout: Duration,
    /// How long the server may send nothing.
    pub read_timeout: Duration,
    /// The limit of one operation with all its attempts, without the response's body.
    pub operation_timeout: Duration,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            credentials: None,
            checksums: Checksums::Supported,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(20),
            operation_timeout: Duration::from_secs(180),
        }
    }
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

/// Clones share connections and credentials.
#[derive(Debug, Clone)]
pub struct S3Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: S3Settings,
    /// Whether the server takes requests that delete many objects.
    deletes_singly: AtomicBool,
    client: OnceCell<Client>,
}

impl S3Client {
    /// Nothing is loaded before the first use.
    pub fn new(settings: S3Settings) -> Self {
        let deletes_singly = AtomicBool::new(settings.checksums == Checksums::Required);
        Self(Arc::new(Shared { settings, deletes_singly, client: OnceCell::new() }))
    }

    pub fn settings(&self) -> &S3Settings {
        &self.0.settings
    }

    pub(super) async fn get(&self) -> &Client {
        self.0.client.get_or_init(|| build(&self.0.settings)).await
    }

    /// Requests that delete many objects need a checksum, and some servers do not know them.
    pub(super) fn deletes_singly(&self) -> bool {
        self.0.deletes_singly.load(Ordering::Relaxed)
    }

    pub(super) fn delete_singly(&self) {
        self.0.deletes_singly.store(true, Ordering::Relaxed);
    }

    /// The server's name, for messages.
    pub(super) fn server(&self) -> &str {
        self.0.settings.endpoint.as_deref().unwrap_or("AWS")
    }
}

async fn build(settings: &S3Settings) -> Client {
    let http = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .pool_idle_timeout(IDLE_CONNECTIONS)
        .build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .read_timeout(settings.read_timeout)
        // One third each, so that a hanging attempt leaves time for another.
        .operation_attempt_timeout(settings.operation_timeout / 3)
        .operation_timeout(settings.operation_timeout)
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(MAX_ATTEMPTS)
        .with_initial_backoff(FIRST_BACKOFF)
        .with_max_backoff(LONGEST_BACKOFF);
    let stalled = StalledStreamProtectionConfig::enabled()
        .upload_enabled(true)
        .download_enabled(true)
        .grace_period(settings.read_timeout)
        .build();
    let region = RegionProviderChain::first_try(settings.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::from_static(DEFAULT_REGION));

    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .region(region)
        .timeout_config(timeouts)
        .retry_config(retries)
        .stalled_stream_protection(stalled);
    if let Some(S3Credentials { access_key, secret_key, session_token }) = settings.credentials.clone() {
        let credentials = Credentials::new(access_key, secret_key, session_token, None, "acetate");
        loader = loader.credentials_provider(credentials);
    }
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let common = loader.load().await;
    let mut config = aws_sdk_s3::config::Builder::from(&common)
        // Only AWS and a few others have a host name per bucket.
        .force_path_style(common.endpoint_url().is_some());
    config = match settings.checksums {
        Checksums::Supported => config
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenSupported),
        Checksums::Required => config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired),
    };
    Client::from_conf(config.build())
}

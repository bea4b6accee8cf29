//! Builds each part from its section of the configuration.

use std::{path::Path, sync::Arc, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use sysinfo::System;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, BucketOptions, Config, ImageLimits, LoadedConfig, PathStyleSetting},
    database::{self, Actor, DatabaseOptions, DispatchRules, Inspected, JobStore, OutboxMode, Window},
    egress::PrivateCas,
    engine::Engine,
    image::DecodeLimits,
    job::JobError,
    queue::{EmbeddedQueue, Queue, RabbitOptions, RabbitQueue, TlsFiles},
    store::{
        BucketSettings, Checksums, Encryption, PathStyle, S3Credentials, S3Settings, StoreSettings, Stores, Trust,
        file_url,
    },
    worker::{Backoff, KnownAge, ResultPlacement, UnfitKinds, Worker, WorkerName, WorkerOptions},
};

/// The address of the job database.
pub fn database_url(config: &Config) -> Result<database::DatabaseUrl, JobError> {
    match &config.status.url {
        Some(url) => {
            let url = with_root_certificate(url.reveal(), config.tls.ca_file.as_deref());
            database::DatabaseUrl::parse("status.url", &url)
        }
        None => Ok(database::DatabaseUrl::Sqlite(config.data_dir.join("acetate.db"))),
    }
}

/// A Postgres address with `tls.ca_file` as its `sslrootcert`, unless it names another file.
fn with_root_certificate(url: &str, ca_file: Option<&Path>) -> String {
    let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
    let Some(path) = ca_file.filter(|_| is_postgres && !url.contains("sslrootcert=")) else { return url.to_owned() };
    let and = if url.contains('?') { '&' } else { '?' };
    format!("{url}{and}sslrootcert={}", percent_encode(path.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC))
}

/// The authorities in `tls.ca_file`.
pub(super) fn private_cas(config: &Config) -> Result<Option<PrivateCas>, JobError> {
    let Some(path) = &config.tls.ca_file else { return Ok(None) };
    let pem = std::fs::read(path)
        .map_err(|error| JobError::invalid("tls.ca_file", format!("{}: {error}", path.display())))?;
    PrivateCas::parse("tls.ca_file", path, &pem).map(Some)
}

/// How this process uses the job database.
pub fn database_options(config: &Config) -> Result<DatabaseOptions, JobError> {
    let field = "status.listen_url";
    let listen = match &config.status.listen_url {
        None => None,
        Some(url) => match database::DatabaseUrl::parse(field, url.reveal())? {
            database::DatabaseUrl::Postgres(url) => Some(url),
            database::DatabaseUrl::Sqlite(_) => {
                return Err(JobError::invalid(field, "is not an address such as postgres://user@host/database"));
            }
        },
    };
    let queue = &config.queue;
    let dispatch = DispatchRules {
        window: if queue.window == 0 { Window::Automatic } else { Window::Of(queue.window) },
        tenant_limit: queue.tenant_limit,
        tenant_limits: queue.tenant_limits.clone(),
    };
    let (max_connections, migrate) = (config.status.max_connections, config.status.migrate);
    Ok(DatabaseOptions { max_connections, listen, migrate, dispatch })
}

/// The job database, with its tables migrated.
pub async fn job_store(config: &Config) -> Result<JobStore, JobError> {
    open_job_store(config, &database_options(config)?).await
}

/// Who uses the command line: `cli:USER@HOST`.
pub(super) fn cli_actor(loaded: &LoadedConfig) -> Actor {
    let host = System::host_name().unwrap_or_else(|_| "localhost".to_owned());
    Actor::new(format!("cli:{}@{host}", loaded.user), None)
}

/// The job database of a process that works: one that takes writes.
pub async fn writable_job_store(config: &Config) -> Result<JobStore, JobError> {
    let jobs = job_store(config).await?;
    let checked = async {
        jobs.check_writes().await?;
        jobs.check_reads().await
    };
    match checked.await {
        Ok(()) => Ok(jobs),
        Err(error) => {
            jobs.close().await;
            Err(error)
        }
    }
}

/// The job database, with its tables migrated whatever `status.migrate` says.
pub async fn migrated_job_store(config: &Config) -> Result<JobStore, JobError> {
    open_job_store(config, &DatabaseOptions { migrate: true, ..database_options(config)? }).await
}

/// What the job database has; nothing is created or migrated.
pub async fn inspect_jobs(config: &Config) -> Result<Inspected, JobError> {
    JobStore::inspect(&database_url(config)?, outbox_mode(config), &database_options(config)?).await
}

/// The job database for commands that only read: it is neither created nor migrated. Also a remark, if it does not
/// exist.
pub(super) async fn jobs_to_read(config: &Config) -> Result<(JobStore, Option<String>), JobError> {
    match jobs_that_exist(config).await? {
        (Some(jobs), _) => Ok((jobs, None)),
        (None, url @ database::DatabaseUrl::Postgres(_)) => Err(JobError::database(format!(
            "{url}: has no tables of acetate yet; run `acetate migrate`, or name another database"
        ))),
        (None, database::DatabaseUrl::Sqlite(ref path)) => {
            let remark = format!("there are no jobs yet: {} does not exist", path.display());
            Ok((no_jobs(config, path).await?, Some(remark)))
        }
    }
}

/// The job database for commands that tell what submitting would do: it is neither created nor migrated. Submitting
/// would create it, so that it does not exist is no error.
pub(super) async fn jobs_for_dry_run(config: &Config) -> Result<JobStore, JobError> {
    match jobs_that_exist(config).await? {
        (Some(jobs), _) => Ok(jobs),
        (None, url) => no_jobs(config, Path::new(&url.to_string())).await,
    }
}

async fn jobs_that_exist(config: &Config) -> Result<(Option<JobStore>, database::DatabaseUrl), JobError> {
    let url = database_url(config)?;
    match inspect_jobs(config).await? {
        Inspected::Tables(jobs) => Ok((Some(jobs), url)),
        Inspected::Nothing(_) => Ok((None, url)),
        Inspected::Older { has, needs } => Err(JobError::database(format!(
            "{url}: has schema {has}, and this version needs schema {needs}; this command changes no tables, so run \
             `acetate migrate` first"
        ))),
    }
}

/// Stands for a database that does not exist.
async fn no_jobs(config: &Config, path: &Path) -> Result<JobStore, JobError> {
    JobStore::nothing(path, outbox_mode(config), &database_options(config)?).await
}

fn outbox_mode(config: &Config) -> OutboxMode {
    if config.queue.url.is_some() { OutboxMode::Service } else { OutboxMode::Embedded }
}

async fn open_job_store(config: &Config, options: &DatabaseOptions) -> Result<JobStore, JobError> {
    JobStore::open_with(&database_url(config)?, outbox_mode(config), options).await
}

/// The queue; it does not connect to RabbitMQ yet.
pub fn queue(config: &Config) -> Result<Queue, JobError> {
    let Some(url) = &config.queue.url else { return Ok(Queue::Embedded(EmbeddedQueue::default())) };
    let settings = &config.queue;
    let options = RabbitOptions {
        name: format!("acetate {}", WorkerName::of_this_process()),
        consumer_timeout: settings.consumer_timeout(),
        // A frozen worker keeps its messages only a little longer than its jobs.
        heartbeat: (config.worker.lease() / 3).clamp(Duration::from_secs(1), Duration::from_secs(20)),
        connect_timeout: settings.connect_timeout(),
        publish_timeout: settings.publish_timeout(),
        tls: TlsFiles {
            ca: config.tls.ca_file.clone(),
            client_cert: settings.client_cert.clone(),
            client_key: settings.client_key.clone(),
        },
    };
    Ok(Queue::Rabbit(RabbitQueue::new(url.reveal(), options)?))
}

impl From<&ImageLimits> for DecodeLimits {
    fn from(settings: &ImageLimits) -> Self {
        let ImageLimits { max_width, max_height, max_pixels, max_bytes, max_memory } = *settings;
        Self { max_width, max_height, max_pixels, max_bytes, max_memory }
    }
}

/// The stores. `trust` says who chose the addresses, and so which rules apply to them.
pub fn stores(config: &Config, trust: Trust) -> Result<Stores, JobError> {
    let settings = &config.store;
    let s3 = S3Settings {
        endpoint: settings.endpoint.clone(),
        path_style: PathStyle::from(settings.path_style),
        buckets: settings.buckets.iter().map(|(name, options)| (name.clone(), BucketSettings::from(options))).collect(),
        encryption: settings
            .server_side_encryption
            .clone()
            .map(|algorithm| Encryption { algorithm, kms_key_id: settings.kms_key_id.clone() }),
        credentials_hint: settings.credentials_hint.clone(),
        multipart_above: settings.multipart_above,
        private_cas: private_cas(config)?,
        credentials: credentials(config),
        checksums: match settings.checksums {
            config::ChecksumsSetting::Supported => Checksums::Supported,
            config::ChecksumsSetting::Required => Checksums::Required,
        },
        connect_timeout: settings.connect_timeout(),
        read_timeout: settings.read_timeout(),
        operation_timeout: settings.operation_timeout(),
        ..S3Settings::default()
    };
    let settings = StoreSettings {
        url: settings.url.clone().unwrap_or_else(|| file_url(&config.data_dir.join("objects"))),
        s3,
        inputs: settings.inputs.clone(),
        outputs: settings.outputs.clone(),
        http_inputs: settings.http_inputs,
        http_allow: settings.http_allow.clone(),
    };
    Stores::new(&settings, trust)
}

/// The key in `[store]`, which overrides AWS's variables and files.
fn credentials(config: &Config) -> Option<S3Credentials> {
    let (id, secret) = (config.store.access_key_id.as_ref()?, config.store.secret_access_key.as_ref()?);
    let (access_key, secret_key) = (id.reveal().to_owned(), secret.reveal().to_owned());
    Some(S3Credentials { access_key, secret_key, session_token: None })
}

impl From<PathStyleSetting> for PathStyle {
    fn from(setting: PathStyleSetting) -> Self {
        match setting {
            PathStyleSetting::Auto => Self::Auto,
            PathStyleSetting::Always => Self::Always,
            PathStyleSetting::Never => Self::Never,
        }
    }
}

impl From<&BucketOptions> for BucketSettings {
    fn from(options: &BucketOptions) -> Self {
        let BucketOptions { endpoint, region, path_style, anonymous, requester_pays } = options.clone();
        Self { endpoint, region, path_style: path_style.map(PathStyle::from), anonymous, requester_pays }
    }
}

/// A worker built from its parts; only the engine's thread is running.
pub(super) fn worker(
    loaded: &LoadedConfig,
    jobs: JobStore,
    stores: Stores,
    queue: Queue,
    results: ResultPlacement,
) -> Result<Worker, JobError> {
    let mut options = worker_options(&loaded.config, results)?;
    if results == ResultPlacement::OwnStore {
        // A person is waiting for this job, so a retry starts at once.
        options.backoff = Backoff { base: Duration::ZERO, longest: Duration::ZERO };
        options.database_retry = Duration::ZERO;
    }
    let engine = super::engine_config(loaded)?;
    options.slots *= engine.devices.len();
    let engine = Engine::start(&engine)?;
    let (wake, broken) = (Arc::new(Notify::new()), CancellationToken::new());
    Ok(Worker {
        jobs,
        stores,
        queue,
        engine,
        options,
        wake,
        broken,
        age: KnownAge::default(),
        unfit: UnfitKinds::default(),
    })
}

pub(super) fn worker_options(config: &Config, results: ResultPlacement) -> Result<WorkerOptions, JobError> {
    let worker = &config.worker;
    Ok(WorkerOptions {
        name: WorkerName::of_this_process(),
        lease: worker.lease(),
        heartbeat: worker.heartbeat(),
        max_attempts: worker.max_attempts,
        backoff: Backoff {
            base: Duration::from_secs_f64(worker.retry_base_seconds),
            longest: Duration::from_secs_f64(worker.retry_longest_seconds),
        },
        limits: DecodeLimits::from(&config.image),
        results,
        slots: worker.slots as usize,
        affinity: config.queue.affinity(),
        job_timeout: worker.job_timeout(),
        drain: worker.drain(),
        database_retry: worker.database_retry(),
        poll: Duration::from_millis(500),
        redispatch: worker.redispatch(),
        remember_deleted: config.queue.remember_deleted(),
        keep_actions: config.audit.keep(),
        failpoint: worker.failpoint.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Sources, load};

    #[test]
    fn postgres_trusts_the_private_authorities_too() {
        let ca = Some(Path::new("/etc/my ca.pem"));
        for (url, wanted) in [
            ("postgres://u@h/db", "postgres://u@h/db?sslrootcert=%2Fetc%2Fmy%20ca%2Epem"),
            (
                "postgresql://u@h/db?sslmode=verify-full",
                "postgresql://u@h/db?sslmode=verify-full&sslrootcert=%2Fetc%2Fmy%20ca%2Epem",
            ),
            ("postgres://u@h/db?sslrootcert=/other.pem", "postgres://u@h/db?sslrootcert=/other.pem"),
            ("sqlite:///x.db", "sqlite:///x.db"),
        ] {
            assert_eq!(with_root_certificate(url, ca), wanted);
            assert_eq!(with_root_certificate(url, None), url);
        }
    }

    #[test]
    fn the_limits_of_pictures_are_those_of_the_default_settings() {
        let environment = Environment::from_pairs([("HOME", "/home/me")]);
        let sources = Sources { file: Some("/dev/null".into()), environment, ..Sources::default() };
        let config = load(&sources).unwrap().config;
        assert_eq!(DecodeLimits::from(&config.image), DecodeLimits::default());
    }
}

//! A separate database for every test, and the jobs that the tests use.

use std::{collections::BTreeMap, env, future::Future, path::PathBuf, time::Duration};

use crate::common::until;
use acetate::{
    database::{
        Attempt, Claim, ClaimRules, DatabaseUrl, EndedJob, JobRow, JobStore, OutboxMode, Published, SubmitOptions,
        Submitted, WebhookLimits,
    },
    job::{
        BatchId, CompositeParams, Epoch, ErrorRecord, Fidelity, FileEntry, InputRef, Inputs, JobError, JobId, JobKind,
        JobRequest, LayerCoverage, LayerRole, Output, PictureSize, Quality, Task,
    },
};
use sqlx::{ConnectOptions, Connection, PgConnection, SqliteConnection, postgres::PgConnectOptions};

pub const LEASE: Duration = Duration::from_secs(60);
pub const NO_TIME: Duration = Duration::ZERO;

/// Runs each of the named functions twice, as a test on SQLite and as one on Postgres.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                crate::services::database::support::on_sqlite(super::$name).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                crate::services::database::support::on_postgres(super::$name).await;
            })+
        }
    };
}
pub(crate) use on_both;

/// An empty database.
#[derive(Clone)]
pub struct Database {
    pub place: DatabaseUrl,
    file: Option<PathBuf>,
    url: String,
}

impl Database {
    pub async fn open(&self, mode: OutboxMode) -> JobStore {
        JobStore::open(&self.place, mode).await.unwrap()
    }

    pub async fn service(&self) -> JobStore {
        self.open(OutboxMode::Service).await
    }

    pub async fn embedded(&self) -> JobStore {
        self.open(OutboxMode::Embedded).await
    }

    /// On Postgres, in an existing schema.
    pub fn at(url: &str) -> Self {
        Self { place: DatabaseUrl::parse("test", url).unwrap(), file: None, url: url.to_owned() }
    }

    /// The URL of the schema, which contains a `?`; empty for SQLite.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn is_postgres(&self) -> bool {
        self.file.is_none()
    }

    /// How to open the file of SQLite.
    pub fn sqlite(&self) -> sqlx::sqlite::SqliteConnectOptions {
        sqlx::sqlite::SqliteConnectOptions::new().filename(self.file.as_ref().unwrap())
    }

    /// Changes the tables directly, in ways that acetate never does.
    pub async fn sql(&self, sql: &str) {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        if let Some(file) = &self.file {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
            let mut connection: SqliteConnection = options.connect().await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        } else {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }

    /// The number that a statement returns.
    pub async fn count(&self, sql: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        if let Some(file) = &self.file {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
            let mut connection: SqliteConnection = options.connect().await.unwrap();
            sqlx::Row::get(&sqlx::raw_sql(sql).fetch_one(&mut connection).await.unwrap(), 0)
        } else {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::Row::get(&sqlx::raw_sql(sql).fetch_one(&mut connection).await.unwrap(), 0)
        }
    }
}

pub async fn on_sqlite<F: Future<Output = ()> + Send + 'static>(test: fn(Database) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.db");
    test(Database { place: DatabaseUrl::Sqlite(file.clone()), file: Some(file), url: String::new() }).await;
}

/// Runs a test in a separate schema, which is dropped even if the test fails.
pub async fn on_postgres<F: Future<Output = ()> + Send + 'static>(test: fn(Database) -> F) {
    let base = postgres_url();
    let schema = format!("acetate_test_{}", JobId::new().to_string().replace('-', ""));
    admin(&base, &format!("CREATE SCHEMA {schema}")).await;
    let separator = if base.contains('?') { '&' } else { '?' };
    let url = format!("{base}{separator}options=-csearch_path%3D{schema}");
    let ended = tokio::spawn(test(Database::at(&url))).await;
    admin(&base, &format!("DROP SCHEMA {schema} CASCADE")).await;
    if let Err(error) = ended {
        std::panic::resume_unwind(error.into_panic());
    }
}

pub fn postgres_url() -> String {
    env::var("ACETATE_TEST_POSTGRES_URL").unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned())
}

pub async fn admin(url: &str, sql: &str) {
    let options: PgConnectOptions = url.parse().unwrap();
    let mut connection = options.connect().await.unwrap_or_else(|error| {
        panic!(
            "no Postgres for the tests ({error}); start one with scripts/services, or name one with \
             ACETATE_TEST_POSTGRES_URL"
        )
    });
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
}

/// The one text that a statement returns.
pub async fn value(url: &str, sql: &str) -> String {
    // Also through a pooler, which does not know all of a client's parameters.
    let options: PgConnectOptions = url.parse().unwrap();
    let mut connection = options.extra_float_digits(None).connect().await.unwrap();
    let row = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    sqlx::Row::get(&row, 0)
}

pub fn request(id: JobId, input: &str) -> JobRequest {
    JobRequest {
        id,
        inputs: Inputs::named(JobKind::Composite, vec![InputRef::Url(input.to_owned())]),
        output: Output { prefix: "s3://out/scene/".to_owned() },
        task: Task::Composite(CompositeParams::default()),
        labels: BTreeMap::from([("dataset".to_owned(), "post\0ers \"x\"".to_owned())]),
        priority: 0,
    }
}

pub async fn submitted(job_store: &JobStore) -> JobId {
    let id = JobId::new();
    assert!(matches!(submit(job_store, &request(id, "file:///a.png")).await, Submitted::New(_)));
    id
}

pub async fn submit(job_store: &JobStore, request: &JobRequest) -> Submitted {
    job_store.submit(request, &SubmitOptions::default()).await.unwrap()
}

/// `count` new jobs of one batch.
pub async fn submitted_batch(job_store: &JobStore, batch: &BatchId, count: usize) -> Vec<JobId> {
    let requests: Vec<_> = (0..count).map(|_| request(JobId::new(), "file:///a.png")).collect();
    let options = SubmitOptions { batch: Some(batch.clone()), ..SubmitOptions::default() };
    for submitted in job_store.submit_many(&requests, &options).await {
        assert!(matches!(submitted.unwrap(), Submitted::New(row) if row.batch.as_ref() == Some(batch)));
    }
    requests.iter().map(|request| request.id).collect()
}

/// Polls until a lease or a delay has ended and there is a result.
pub async fn until_some<T, F: Future<Output = Vec<T>>>(mut look: impl FnMut() -> F) -> Vec<T> {
    until(|| {
        let look = look();
        async move {
            let found = look.await;
            if found.is_empty() { Err("nothing comes") } else { Ok(found) }
        }
    })
    .await
}

/// So many webhook calls, to any origin.
pub fn calls(calls: u32) -> WebhookLimits {
    WebhookLimits { calls, of_origin: calls, ..WebhookLimits::default() }
}

pub fn rules(worker: &str, lease: Duration) -> ClaimRules<'_> {
    ClaimRules { worker, lease, max_attempts: 3, is_dead: &|worker| worker == "dead", fingerprint: None }
}

pub async fn claim(job_store: &JobStore, id: JobId, worker: &str) -> Claim {
    job_store.claim(id, &rules(worker, LEASE)).await.unwrap()
}

pub async fn take(job_store: &JobStore, id: JobId, worker: &str, lease: Duration) -> JobRow {
    match job_store.claim(id, &rules(worker, lease)).await.unwrap() {
        Claim::Taken(row) => *row,
        other => panic!("{worker} should have got the job, not {other:?}"),
    }
}

pub async fn row(job_store: &JobStore, id: JobId) -> JobRow {
    job_store.get(id).await.unwrap().unwrap()
}

/// The jobs as they are now, for a deletion. Some may not exist.
pub async fn as_read(job_store: &JobStore, ids: &[JobId]) -> Vec<EndedJob> {
    let mut jobs = Vec::new();
    for &id in ids {
        let row = job_store.get(id).await.unwrap();
        jobs.push(
            row.map_or(EndedJob { id, epoch: Epoch(0), claim: None, finished_at: None }, |row| EndedJob::from(&row)),
        );
    }
    jobs
}

pub async fn attempts(job_store: &JobStore, id: JobId) -> Vec<Attempt> {
    let (known, attempts) = job_store.get_with_attempts(id).await.unwrap().unwrap();
    assert_eq!(known, row(job_store, id).await);
    attempts
}

pub fn result() -> Published {
    let file = FileEntry {
        name: "composite.png".to_owned(),
        role: LayerRole::Composite,
        width: 2,
        height: 3,
        size: 70,
        sha256: "ab".repeat(32),
        bounding_box: None,
        placement: None,
        layer_name: None,
        variant: None,
        seed: None,
    };
    Published {
        manifest: "j/1/manifest.json".to_owned(),
        root: Some("s3://out/scene/".to_owned()),
        files: vec![file],
        caption: Some("A boat.".to_owned()),
        fidelity: Some(Fidelity {
            source: PictureSize { width: 2, height: 3 },
            model: PictureSize { width: 32, height: 32 },
            output: PictureSize { width: 2, height: 3 },
            psnr: None,
            max_error: 0,
            model_psnr: Some(24.5),
            model_max_error: 70,
            layers: vec![LayerCoverage { layer: 1, area: 0.25, empty: false }],
            quality: Some(Quality::Low),
        }),
        content_key: Some("cd".repeat(32)),
        reused_from: None,
    }
}

pub fn broken() -> ErrorRecord {
    ErrorRecord::from(&JobError::storage("/x", "bro\0ken"))
}

pub fn batch(name: &str) -> BatchId {
    name.parse().unwrap()
}

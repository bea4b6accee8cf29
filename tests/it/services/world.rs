//! Everything that a worker needs, separate for each test, and the program's commands with it.
//!
//! A [`World`] is either the service (a virtual host of RabbitMQ, a schema of Postgres, an S3 server) or embedded (a
//! SQLite file and a folder). The same tests run in both.

use std::{
    fs,
    future::ready,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use acetate::database::{DatabaseUrl, JobRow, JobStore, OutboxMode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};
use tokio::sync::OnceCell;

use crate::{
    common::{Ran, TestDir, in_pid_namespace, ran, until},
    services::database::support::{admin, postgres_url},
    services::rabbit::{Broker, Vhost},
    services::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY},
};

pub struct World {
    pub place: TestDir,
    environment: Vec<(String, String)>,
    rows: OnceCell<JobStore>,
    pub service: Option<Service>,
}

pub struct Service {
    pub vhost: Vhost,
    pub schema: Schema,
    pub s3: S3Server,
}

impl World {
    pub async fn service() -> Self {
        Self::service_on(Broker::shared()).await
    }

    pub async fn service_on(broker: Broker) -> Self {
        let vhost = tokio::task::spawn_blocking(move || Vhost::on(&broker)).await.unwrap();
        let schema = Schema::new().await;
        let service = Service { vhost, schema, s3: S3Server::start(&["pictures", "results"]).await };
        let mut world = Self { place: TestDir::new(), environment: Vec::new(), rows: OnceCell::new(), service: None };
        world.set("ACETATE__QUEUE__URL", &service.vhost.url());
        world.set("ACETATE__STATUS__URL", &service.schema.url);
        world.set("ACETATE__STORE__URL", "s3://results/own");
        world.set("ACETATE__STORE__ENDPOINT", &service.s3.endpoint());
        world.set("ACETATE__STORE__INPUTS", "s3://pictures,s3://results");
        world.set("ACETATE__STORE__OUTPUTS", "s3://results");
        world.set("AWS_ACCESS_KEY_ID", ACCESS_KEY);
        world.set("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        world.set("AWS_EC2_METADATA_DISABLED", "true");
        world.service = Some(service);
        world.ready()
    }

    pub fn embedded() -> Self {
        let mut world = Self { place: TestDir::new(), environment: Vec::new(), rows: OnceCell::new(), service: None };
        for folder in ["pictures", "results"] {
            fs::create_dir(world.place.path(folder)).unwrap();
        }
        let at = |name: &str| format!("file://{}", world.place.text(name));
        let (own, inputs, outputs) =
            (at("results/own"), format!("{},{}", at("pictures"), at("results")), at("results"));
        world.set("ACETATE__STORE__URL", &own);
        world.set("ACETATE__STORE__INPUTS", &inputs);
        world.set("ACETATE__STORE__OUTPUTS", &outputs);
        world.ready()
    }

    fn ready(mut self) -> Self {
        self.set("ACETATE__HTTP__BIND", "127.0.0.1:0");
        self.set("ACETATE__WORKER__RETRY_BASE_SECONDS", "0.1");
        self.set("ACETATE__WORKER__LEASE_SECONDS", "2");
        self.set("ACETATE__QWEN_IMAGE__MODEL_PATH", &crate::common::checkpoint("layered"));
        self.set("ACETATE__QWEN_IMAGE__EDIT_MODEL_PATH", &crate::common::checkpoint("edit"));
        self
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command, not on the runtime's threads, which serve S3 in the meantime.
    pub async fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        ran(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
    }

    pub async fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(args).await;
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ran.stdout))
    }

    /// Submits a job and returns its id.
    pub async fn submit(&self, args: &[&str]) -> String {
        let shown = self.json(&[&["submit"], args, &["--json"]].concat()).await;
        shown["id"].as_str().unwrap().to_owned()
    }

    pub async fn show(&self, id: &str) -> Value {
        self.json(&["jobs", "show", id, "--json"]).await
    }

    /// Waits until the job is in one of these states.
    pub async fn until(&self, id: &str, states: &[&str]) -> Value {
        self.once(id, |row| states.contains(&row.state.as_str())).await;
        self.show(id).await
    }

    /// The rows, without a command in between.
    pub async fn rows(&self) -> &JobStore {
        let open = async || {
            let place = match &self.service {
                Some(service) => DatabaseUrl::parse("test", &service.schema.url).unwrap(),
                None => DatabaseUrl::Sqlite(self.place.path("data/acetate.db")),
            };
            JobStore::open(&place, OutboxMode::Service).await.unwrap()
        };
        self.rows.get_or_init(open).await
    }

    /// Waits until the job has a row for which `holds` is true. It reads the row directly, because running a command
    /// each time would take longer than the job.
    pub async fn once(&self, id: &str, holds: impl Fn(&JobRow) -> bool) {
        let (rows, id) = (self.rows().await, id.parse().unwrap());
        until(|| async {
            let row = rows.get(id).await.unwrap();
            // A refused message never gets a row.
            let refused = row.is_none() && rows.rejection(id).await.unwrap().is_some();
            if refused || row.as_ref().is_some_and(&holds) {
                Ok(())
            } else {
                Err(format!("it goes no further: {row:?}"))
            }
        })
        .await;
    }

    /// Does something to the tables of a service that this program would not do.
    pub async fn sql(&self, sql: &str) {
        admin(&self.service.as_ref().unwrap().schema.url, sql).await;
    }

    /// What a query of the service's tables counts.
    pub async fn count(&self, sql: &str) -> i64 {
        let mut rows = PgConnection::connect(&self.service.as_ref().unwrap().schema.url).await.unwrap();
        let count = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut rows).await.unwrap();
        rows.close().await.unwrap();
        count
    }

    /// Writes a small picture of one color to where inputs may come from; returns its address.
    pub fn input(&self, name: &str, pixel: [u8; 4]) -> String {
        let (path, url) = self.at("pictures", name);
        let mut png = std::io::Cursor::new(Vec::new());
        image::RgbaImage::from_pixel(16, 12, image::Rgba(pixel)).write_to(&mut png, image::ImageFormat::Png).unwrap();
        put(&path, png.get_ref());
        url
    }

    pub fn bytes(&self, name: &str, bytes: &[u8]) -> String {
        let (path, url) = self.at("pictures", name);
        put(&path, bytes);
        url
    }

    /// A prefix where results may go.
    pub fn output(&self, name: &str) -> String {
        format!("{}/", self.at("results", name).1)
    }

    /// The path of an address of this world.
    pub fn path(&self, url: &str) -> PathBuf {
        match &self.service {
            Some(service) => service.s3.folder.path().join(url.strip_prefix("s3://").unwrap()),
            None => PathBuf::from(url.strip_prefix("file://").unwrap()),
        }
    }

    fn at(&self, bucket: &str, name: &str) -> (PathBuf, String) {
        let url = match &self.service {
            Some(_) => format!("s3://{bucket}/{name}"),
            None => format!("file://{}/{name}", self.place.text(bucket)),
        };
        (self.path(&url), url)
    }

    /// A worker with the settings of this world.
    pub fn worker(&self) -> Worker {
        self.worker_with(&[])
    }

    pub fn worker_with(&self, environment: &[(&str, &str)]) -> Worker {
        self.start(&["worker"], environment)
    }

    /// A worker that sees no other processes, and is not seen; nothing where that is not possible.
    pub fn worker_in_pid_namespace(&self, environment: &[(&str, &str)], what: &str) -> Option<Worker> {
        let mut command = self.command(&["worker"]);
        command.env("ACETATE__TELEMETRY__LEVEL", "info").envs(environment.iter().copied());
        Some(self.spawn(in_pid_namespace(&command, what)?))
    }

    /// Another command that runs until it is stopped.
    pub fn start(&self, args: &[&str], environment: &[(&str, &str)]) -> Worker {
        let mut command = self.command(args);
        command.env("ACETATE__TELEMETRY__LEVEL", "info").envs(environment.iter().copied());
        self.spawn(command)
    }

    fn spawn(&self, mut command: Command) -> Worker {
        let log = self.place.path(&format!("worker-{}.log", uuid()));
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        Worker { child: command.spawn().unwrap(), log }
    }

    /// Checks a job that has ended: a success has one manifest, and files that match it; any other job has no manifest.
    pub async fn check_result(&self, id: &str) -> Value {
        let job = self.show(id).await;
        let attempts = job["attempts"].as_u64().unwrap();
        assert!(attempts <= 5, "{job:#}");
        let Some(url) = job["manifest"].as_str() else {
            assert_ne!(job["state"], "succeeded", "{job:#}");
            return job;
        };
        assert_eq!(job["state"], "succeeded", "{job:#}");
        let path = self.path(url);
        let manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((&manifest["job"], &manifest["epoch"]), (&job["id"], &job["epoch"]));
        for (file, output) in manifest["files"].as_array().unwrap().iter().zip(job["outputs"].as_array().unwrap()) {
            let bytes = fs::read(path.with_file_name(file["name"].as_str().unwrap())).unwrap();
            let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((&file["sha256"], &output["sha256"]), (&Value::from(sha256.clone()), &Value::from(sha256)));
            assert_eq!(file["size"], bytes.len());
        }
        let epochs = path.parent().unwrap().parent().unwrap();
        assert_eq!(manifests(epochs), 1, "one manifest under {}", epochs.display());
        job
    }
}

/// Puts a file in place in one step, as a store does: a job that is reading the one before it
/// must not find it empty.
fn put(path: &Path, bytes: &[u8]) {
    let folder = path.parent().unwrap();
    fs::create_dir_all(folder).unwrap();
    let mut file = tempfile::NamedTempFile::new_in(folder).unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    file.persist(path).unwrap();
}

fn manifests(folder: &Path) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found += manifests(&path);
        } else if path.file_name().is_some_and(|name| name == "manifest.json") {
            found += 1;
        }
    }
    found
}

fn uuid() -> String {
    acetate::job::JobId::new().to_string()
}

/// A schema of Postgres, dropped when the test ends.
pub struct Schema {
    name: String,
    pub url: String,
}

impl Schema {
    async fn new() -> Self {
        let (base, name) = (postgres_url(), format!("acetate_test_{}", uuid().replace('-', "")));
        admin(&base, &format!("CREATE SCHEMA {name}")).await;
        let separator = if base.contains('?') { '&' } else { '?' };
        Self { url: format!("{base}{separator}options=-csearch_path%3D{name}"), name }
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let drop = format!("DROP SCHEMA {} CASCADE", self.name);
        // Uses a separate thread, because the test's runtime may be ending.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(admin(&postgres_url(), &drop));
        });
        let _ = dropped.join();
    }
}

/// A worker process, killed when the test ends.
pub struct Worker {
    pub child: Child,
    log: PathBuf,
}

impl Worker {
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until a line of the log says `text`.
    pub async fn until_said(&self, text: &str) {
        self.until_log(text, |log| log.contains(text)).await;
    }

    /// Waits until `holds` for the log.
    pub async fn until_log(&self, wanted: &str, holds: impl Fn(&str) -> bool) {
        until(|| async {
            let log = self.log();
            if holds(&log) { Ok(()) } else { Err(format!("`{wanted}` was not said: {log}")) }
        })
        .await;
    }

    /// Waits for the process to end; returns its exit code, none after a signal.
    pub async fn ended(&mut self) -> Option<i32> {
        let (child, log) = (&mut self.child, &self.log);
        let ended = || {
            let status = child.try_wait().unwrap();
            ready(status.ok_or_else(|| format!("the worker goes on: {}", fs::read_to_string(log).unwrap_or_default())))
        };
        until(ended).await.code()
    }

    /// The address of its HTTP server.
    pub async fn http(&self) -> String {
        self.until_log("serving", |log| log.lines().any(|line| line.contains("serving ") && line.contains("address=")))
            .await;
        let log = self.log();
        let line = log.lines().find(|line| line.contains("serving ") && line.contains("address=")).unwrap().to_owned();
        let at = line.find("address=").unwrap() + "address=".len();
        format!("http://{}", line[at..].split_whitespace().next().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("worker's log:\n{}", self.log());
        }
    }
}

/// Runs each of the named functions twice: embedded, and as a service.
macro_rules! in_both_worlds {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::services::world::World::embedded()).await;
            })+
        }
        mod service {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::services::world::World::service().await).await;
            })+
        }
    };
}
pub(crate) use in_both_worlds;

//! How long 100,000 jobs take: cancelled, taken back, cancelled again, and deleted, without files and with them.
//!
//! `cargo nextest run -p acetate --run-ignored only size:: --no-capture` prints the figures of
//! docs/service-performance.md.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use acetate::{
    database::{DatabaseUrl, JobStore, OutboxMode, SubmitOptions},
    job::{JobId, JobKind, JobRequest},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, sqlite::SqliteConnectOptions};

use crate::services::world::World;

const JOBS: usize = 100_000;
/// For deleting them, with two files each.
const GOAL: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes minutes; it measures"]
async fn in_postgres_and_s3() {
    measured(World::service().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes minutes; it measures"]
async fn in_sqlite_and_a_folder() {
    measured(World::embedded()).await;
}

async fn measured(world: World) {
    let place = match &world.service {
        Some(service) => DatabaseUrl::parse("test", &service.schema.url).unwrap(),
        None => DatabaseUrl::Sqlite(world.place.path("data/acetate.db")),
    };
    let mode = if world.service.is_some() { OutboxMode::Service } else { OutboxMode::Embedded };
    let rows = JobStore::open(&place, mode).await.unwrap();
    submit(&rows, &world, JOBS).await;
    let cancel = ["jobs", "cancel", "--batch", "big", "--json"];
    assert_eq!(timed(&world, "cancel --batch", &cancel).await["cancelled"], JOBS);
    let retry = ["jobs", "retry", "--batch", "big", "--state", "cancelled", "--json"];
    assert_eq!(
        timed(&world, "retry --batch --state cancelled", &retry).await["queued"].as_array().unwrap().len(),
        JOBS
    );
    assert_eq!(timed(&world, "cancel --batch, again", &cancel).await["cancelled"], JOBS);
    let dry = ["jobs", "prune", "--older-than", "0s", "--dry-run", "--json"];
    assert_eq!(timed(&world, "prune --dry-run", &dry).await["jobs"], JOBS);
    let prune = ["jobs", "prune", "--older-than", "0s", "--json"];
    let start = Instant::now();
    assert_eq!(timed(&world, "prune, without files", &prune).await["jobs"], JOBS);
    assert!(start.elapsed() < GOAL);

    submit(&rows, &world, JOBS).await;
    let files = with_files(&world).await;
    let start = Instant::now();
    let pruned = timed(&world, "prune, two files each", &prune).await;
    assert_eq!((&pruned["jobs"], &pruned["files"]), (&json!(JOBS), &json!(2 * JOBS)));
    assert!(start.elapsed() < GOAL);
    assert_eq!(left(&files), 0);
}

async fn timed(world: &World, what: &str, args: &[&str]) -> Value {
    let start = Instant::now();
    let shown = world.json(args).await;
    println!("{JOBS} jobs, {what}: {:.1} s", start.elapsed().as_secs_f64());
    shown
}

async fn submit(rows: &JobStore, world: &World, jobs: usize) {
    let (input, output) = (world.input("a.png", [1, 2, 3, 255]), world.output("big"));
    let start = Instant::now();
    let options = SubmitOptions { batch: Some("big".parse().unwrap()), ..SubmitOptions::default() };
    for _ in 0..jobs / 1000 {
        let requests: Vec<_> = (0..1000).map(|_| request(&input, &output)).collect();
        for submitted in rows.submit_many(&requests, &options).await {
            submitted.unwrap();
        }
    }
    println!("{jobs} jobs, submitted: {:.1} s", start.elapsed().as_secs_f64());
}

fn request(input: &str, output: &str) -> JobRequest {
    let body = json!({
        "version": 1, "id": JobId::new(), "kind": JobKind::Composite, "input": {"image": input},
        "output": {"prefix": output}, "labels": {"dataset": "posters"},
    });
    JobRequest::from_json(body.to_string().as_bytes()).unwrap()
}

/// Makes every job one that has succeeded at once, with its files. Gives the folder of the results.
async fn with_files(world: &World) -> std::path::PathBuf {
    let output = world.output("big");
    let file = json!([{
        "name": "composite.png", "role": "composite", "width": 1, "height": 1, "size": 1, "sha256": "ab".repeat(32),
    }]);
    let done = format!(
        "UPDATE jobs SET state = 'succeeded', epoch = 1, attempts = 1, outputs = '{file}', result_root = '{output}',
                         manifest = id || '/1/manifest.json', finished_at = created_at + 1;
         INSERT INTO attempts (job, epoch, attempt, worker, started_at, ended_at, outcome)
         SELECT id, 1, 1, 'w', created_at, created_at, 'succeeded' FROM jobs;
         DELETE FROM outbox"
    );
    let ids: Vec<String> = match &world.service {
        Some(service) => {
            let mut rows = PgConnection::connect(&service.schema.url).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(done)).execute(&mut rows).await.unwrap();
            sqlx::query_scalar("SELECT id FROM jobs").fetch_all(&mut rows).await.unwrap()
        }
        None => {
            let options = SqliteConnectOptions::new().filename(world.place.path("data/acetate.db"));
            let mut rows = options.connect().await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(done)).execute(&mut rows).await.unwrap();
            sqlx::query_scalar("SELECT id FROM jobs").fetch_all(&mut rows).await.unwrap()
        }
    };
    let folder = world.path(&output);
    for id in &ids {
        let attempt = folder.join(id).join("1");
        fs::create_dir_all(&attempt).unwrap();
        for name in ["composite.png", "manifest.json"] {
            fs::write(attempt.join(name), "x").unwrap();
        }
    }
    folder
}

fn left(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { left(&path) } else { 1 }).sum()
}

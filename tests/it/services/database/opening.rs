//! Opening a database, what is said when it cannot be, and connections that break.

use acetate::{
    database::{DatabaseUrl, Fenced, JobStore, OutboxMode},
    job::{ErrorClass, JobError, JobId},
};

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

use super::support::*;

on_both!(many_processes_may_start_at_once, a_newer_schema_is_refused);

async fn many_processes_may_start_at_once(database: Database) {
    let opened: Vec<_> = (0..6)
        .map(|_| {
            let database = database.clone();
            tokio::spawn(async move { database.service().await })
        })
        .collect();
    let mut all = Vec::new();
    for status in opened {
        all.push(status.await.unwrap());
    }
    let id = submitted(&all[0]).await;
    assert!(all[5].get(id).await.unwrap().is_some());
    all[1].ping().await.unwrap();
    for status in all {
        status.close().await;
        assert!(status.ping().await.is_err());
    }
}

async fn a_newer_schema_is_refused(database: Database) {
    database.service().await.close().await;
    let newer =
        if database.is_postgres() { "UPDATE acetate_schema SET version = 99" } else { "PRAGMA user_version = 99" };
    database.sql(newer).await;
    let error = JobStore::open(&database.place, OutboxMode::Service).await.unwrap_err().to_string();
    assert!(error.contains("newer acetate (schema 99") && error.contains("update acetate"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.db");
    std::fs::write(&path, "this is a text, long enough to be looked at as a header of a database").unwrap();
    let error = JobStore::open(&DatabaseUrl::Sqlite(path), OutboxMode::Embedded).await.unwrap_err().to_string();
    assert!(error.contains("rows.db") && error.contains("not a database"), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_be_used_says_why_and_keeps_the_password() {
    let reach = postgres_url();
    let (base, _) = reach.rsplit_once('/').unwrap();
    let cases = [
        ("postgres://me:hunter2@127.0.0.1:1/jobs".to_owned(), "is the server running", "me@127.0.0.1:1/jobs"),
        ("postgres://me:hunter2@no.such.host.invalid/jobs".to_owned(), "is the server running", "no.such.host.invalid"),
        (format!("{base}/acetate_no_such_database"), "createdb", "acetate_no_such_database"),
        (format!("{reach}?options=-csearch_path%3Dacetate_no_such_schema"), "CREATE SCHEMA", "postgres://"),
    ];
    for (url, advice, place) in cases {
        let place_read = DatabaseUrl::parse("status.url", &url).unwrap();
        let error = JobStore::open(&place_read, OutboxMode::Service).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient);
        assert!(matches!(&error, JobError::Database { .. }));
        let text = error.to_string();
        assert!(text.contains(advice) && text.contains(place) && !text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn rows_of_the_first_version_are_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.db");
    let (queued, ended) = (JobId::new(), JobId::new());
    let mut old = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql(include_str!("../../../../migrations/sqlite/0001_jobs.sql")).execute(&mut old).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut old).await.unwrap();
    for (id, state, manifest) in [(queued, "queued", None), (ended, "succeeded", Some("j/1/manifest.json"))] {
        let request = request(id, "file:///a.png");
        sqlx::query(
            "INSERT INTO jobs (id, fingerprint, kind, request, priority, state, available_at, manifest, outputs,
                               created_at, updated_at)
             VALUES (?, ?, 'composite', ?, 0, ?, 1000, ?, '[]', 1000, 1000)",
        )
        .bind(id.to_string())
        .bind(request.fingerprint())
        .bind(request.to_json())
        .bind(state)
        .bind(manifest)
        .execute(&mut old)
        .await
        .unwrap();
    }
    old.close().await.unwrap();

    let status = JobStore::open(&DatabaseUrl::Sqlite(path), OutboxMode::Service).await.unwrap();
    assert_eq!(row(&status, ended).await.published.unwrap().address(), "j/1/manifest.json");
    // It was accepted before there was an outbox.
    assert_eq!(status.reap(Duration::from_secs(60)).await.unwrap(), 1);
    assert_eq!(status.outbox_take(10, LEASE).await.unwrap()[0].job, queued);
    assert_eq!(take(&status, queued, "one", LEASE).await.attempts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cut_connections_are_made_anew() {
    on_postgres(cut_connections).await;
}

async fn cut_connections(database: Database) {
    let name = format!("cut{}", std::process::id());
    let url = format!("{}&application_name={name}", database.url());
    let status = JobStore::open(&DatabaseUrl::parse("test", &url).unwrap(), OutboxMode::Service).await.unwrap();
    let id = submitted(&status).await;
    let mut changes = status.changes();
    let taken = take(&status, id, "one", LEASE).await;
    for round in 0..3 {
        let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'");
        database.sql(&cut).await;
        // A connection that was idle is tested before it is used; no caller notices.
        let beat = status.heartbeat(id, taken.epoch, LEASE, None).await;
        assert!(matches!(beat, Ok(Fenced::Held(_))), "round {round}: {beat:?}");
    }
    let done = status.succeed(id, taken.epoch, &result()).await.unwrap();
    assert!(matches!(done, Fenced::Held(_)));
    // The listener is back after a while, on a new connection.
    let other = database.service().await;
    let begin = std::time::Instant::now();
    loop {
        submitted(&other).await;
        let asked = std::time::Instant::now();
        changes.wait_for_change().await;
        if asked.elapsed() < Duration::from_millis(400) && begin.elapsed() > Duration::from_secs(1) {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "nothing is heard any more");
    }
}

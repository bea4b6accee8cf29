//! Opening a database, the errors if that fails, and connections that break.

use acetate::{
    database::{DatabaseUrl, Fenced, JobStore, OutboxMode},
    job::{ErrorClass, JobError, JobId},
};

use std::time::Duration;

use futures_util::future::join_all;
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

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
    for job_store in opened {
        all.push(job_store.await.unwrap());
    }
    let id = submitted(&all[0]).await;
    assert!(all[5].get(id).await.unwrap().is_some());
    all[1].ping().await.unwrap();
    for job_store in all {
        job_store.close().await;
        assert!(job_store.ping().await.is_err());
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

/// A server of another language that refuses every session: its SQLSTATE, its message, and the function that raised it.
async fn refusing(code: &str, message: &str, routine: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0R{routine}\0\0");
    let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
    let reply = [b"E", length.as_slice(), fields.as_bytes()].concat();
    let refuse = async |mut client: TcpStream, reply: &[u8]| -> std::io::Result<()> {
        loop {
            let mut start = vec![0; usize::try_from(client.read_u32().await?).unwrap() - 4];
            client.read_exact(&mut start).await?;
            // It asks for TLS first.
            if start == 80_877_103_u32.to_be_bytes() {
                client.write_all(b"N").await?;
            } else {
                return client.write_all(reply).await;
            }
        }
    };
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let _ = refuse(client, &reply).await;
        }
    });
    format!("postgres://me@{address}/jobs")
}

#[tokio::test]
async fn advice_is_the_same_in_all_languages_of_the_server() {
    let cases = [
        (
            "53300",
            "zu viele Verbindungen von Rolle »me«",
            "InitializeSessionUserId",
            "ALTER ROLE \"me\" CONNECTION LIMIT",
        ),
        ("53300", "trop de connexions pour la base de données « jobs »", "CheckMyDatabase", "ALTER DATABASE \"jobs\""),
        ("53300", "tut mir leid, schon zu viele Verbindungen", "ProcessStartupPacket", "max_connections there"),
        ("28000", "kein pg_hba.conf-Eintrag für Host »192.0.2.1«", "ClientAuthentication", "pg_hba.conf and reload"),
        ("28000", "Rolle »me« existiert nicht", "InitializeSessionUserId", "check the user and password"),
        (
            "42501",
            "keine Berechtigung für Schema public",
            "aclcheck_error",
            "GRANT USAGE, CREATE ON SCHEMA public TO \"me\"",
        ),
        (
            "42501",
            "droit refusé pour la table jobs",
            "aclcheck_error",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES",
        ),
    ];
    join_all(cases.map(|(code, message, routine, advice)| async move {
        let url = refusing(code, message, routine).await;
        let place = DatabaseUrl::parse("status.url", &url).unwrap();
        let text = JobStore::open(&place, OutboxMode::Service).await.unwrap_err().to_string();
        assert!(text.contains(message) && text.contains(advice), "{code}: {text}");
    }))
    .await;
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

    let job_store = JobStore::open(&DatabaseUrl::Sqlite(path), OutboxMode::Service).await.unwrap();
    assert_eq!(row(&job_store, ended).await.published.unwrap().address(), "j/1/manifest.json");
    // It was submitted before there was an outbox.
    assert_eq!(job_store.reap(Duration::from_secs(60)).await.unwrap(), 1);
    assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap()[0].job, queued);
    assert_eq!(take(&job_store, queued, "one", LEASE).await.attempts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cut_connections_are_made_anew() {
    on_postgres(cut_connections).await;
}

async fn cut_connections(database: Database) {
    let name = format!("cut{}", std::process::id());
    let url = format!("{}&application_name={name}", database.url());
    let job_store = JobStore::open(&DatabaseUrl::parse("test", &url).unwrap(), OutboxMode::Service).await.unwrap();
    let id = submitted(&job_store).await;
    let mut changes = job_store.changes();
    let taken = take(&job_store, id, "one", LEASE).await;
    for round in 0..3 {
        let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'");
        database.sql(&cut).await;
        // An idle connection is tested before it is used, so no caller gets an error.
        let beat = job_store.heartbeat(id, taken.fence(), LEASE, None).await;
        assert!(matches!(beat, Ok(Fenced::Held(_))), "round {round}: {beat:?}");
    }
    let done = job_store.succeed(id, taken.fence(), &result()).await.unwrap();
    assert!(matches!(done, Fenced::Held(_)));
    // The listener reconnects after a while.
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

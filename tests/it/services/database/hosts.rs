//! Addresses in all forms, TLS, full servers, and each version of Postgres.

use std::{fs, path::Path, process::Command, time::Instant};

use acetate::{
    database::{DatabaseOptions, DatabaseUrl, JobStore, OutboxMode},
    job::{ErrorClass, JobError},
};

use super::{
    poolers::hears_quickly,
    servers::{SERVERS, Server, free_port, server_programs},
    support::*,
};
use crate::common::until;

async fn open(url: &str) -> Result<JobStore, JobError> {
    JobStore::open(&DatabaseUrl::parse("status.url", url).unwrap(), OutboxMode::Service).await
}

async fn refused(url: &str, words: &[&str]) -> JobError {
    let error = open(url).await.unwrap_err();
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{url}: `{word}` is not in: {text}");
    }
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_version_of_postgres_works() {
    for version in SERVERS {
        let Some(programs) = server_programs(version) else { continue };
        let server = Server::start(&programs, "");
        let job_store = open(&server.url()).await.unwrap();
        let id = submitted(&job_store).await;
        let taken = take(&job_store, id, "one", LEASE).await;
        let _ = job_store.succeed(id, taken.fence(), &result()).await.unwrap();
        assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap().len(), 1, "{version}");
        assert_eq!(job_store.check().await.unwrap().remarks, ["notifications arrive"], "{version}");
        hears_quickly(&job_store, &open(&server.url()).await.unwrap()).await;
        job_store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_forms_of_addresses_lead_to_the_server() {
    let Some(programs) = server_programs("") else { return };
    let server = Server::start(&programs, "");
    let (port, socket) = (server.port, server.path("").display().to_string());
    let nobody = free_port();
    for url in [
        format!("postgres:///postgres?host={socket}&port={port}&user=postgres"),
        format!("postgres://postgres@/postgres?host={socket}&port={port}"),
        format!("postgresql://postgres@{}:{port}/postgres", socket.replace('/', "%2F")),
        format!("postgres://postgres@127.0.0.1:{nobody},localhost:{port}/postgres?connect_timeout=3"),
        format!("postgres://postgres@/postgres?host=127.0.0.1,127.0.0.1&port={nobody},{port}"),
        format!("postgres://postgres@127.0.0.1:{port}/postgres?application_name=me&options=-c%20search_path%3Dpublic"),
        format!("postgres://postgres@127.0.0.1:{port}?dbname=postgres&sslmode=disable&target_session_attrs=primary"),
    ] {
        let job_store = open(&url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        submitted(&job_store).await;
        job_store.close().await;
    }
    let other = free_port();
    let both = format!("postgres://postgres:hunter2@127.0.0.1:{nobody},127.0.0.1:{other}/postgres");
    let error = refused(&both, &["no host can be used", &nobody.to_string(), &other.to_string()]).await;
    assert!(error.is_transient() && !error.to_string().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_server_is_named_as_what_it_is() {
    let Some(programs) = server_programs("") else { return };
    let server = Server::start(&programs, "max_connections=5\nsuperuser_reserved_connections=3");
    for sql in ["CREATE ROLE me LOGIN", "CREATE DATABASE me OWNER me"] {
        admin(&server.url(), sql).await;
    }
    let url = format!("postgres://me@127.0.0.1:{}/me?connect_timeout=2", server.port);
    let job_store = open(&url).await.unwrap();
    job_store.close().await;
    let held =
        sqlx::postgres::PgPoolOptions::new().min_connections(2).connect(&url.replace("?connect_timeout=2", "")).await;
    let held = held.unwrap();
    let begin = Instant::now();
    refused(&url, &["max_connections", "status.max_connections", "PgBouncer"]).await;
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    // It waits for a place as long as it may.
    let refusals = || fs::read_to_string(server.path("log")).unwrap().matches("FATAL:").count();
    let before = refusals();
    let waiting = tokio::spawn({
        let url = url.replace("timeout=2", "timeout=20");
        async move { open(&url).await }
    });
    // It tries again after a refusal.
    until(|| async { if refusals() >= before + 2 { Ok(()) } else { Err("it does not try again") } }).await;
    assert!(!waiting.is_finished());
    held.close().await;
    waiting.await.unwrap().unwrap().close().await;
}

/// The server has room; the limit is of the role, or of the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_limit_of_a_role_or_a_database_is_named_as_what_it_is() {
    let Some(programs) = server_programs("") else { return };
    let server = Server::start(&programs, "");
    admin(&server.url(), "CREATE ROLE me LOGIN CONNECTION LIMIT 0").await;
    let url = |role: &str| format!("postgres://{role}@127.0.0.1:{}/postgres?connect_timeout=2", server.port);
    refused(&url("me"), &["limit of its own", "ALTER ROLE \"me\" CONNECTION LIMIT -1"]).await;
    for sql in ["CREATE ROLE you LOGIN", "ALTER DATABASE postgres CONNECTION LIMIT 0"] {
        admin(&server.url(), sql).await;
    }
    refused(&url("you"), &["limit of its own", "ALTER DATABASE \"postgres\" CONNECTION LIMIT -1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_takes_no_more_connections_than_it_may() {
    let Some(programs) = server_programs("") else { return };
    let server = Server::start(&programs, "");
    let place = DatabaseUrl::parse("test", &format!("{}?application_name=counted", server.url())).unwrap();
    let options = DatabaseOptions { max_connections: 3, ..DatabaseOptions::default() };
    let job_store = JobStore::open_with(&place, OutboxMode::Service, &options).await.unwrap();
    let mut changes = job_store.changes();
    changes.wait_for_change().await;
    let many = (0..40).map(|_| submitted(&job_store));
    futures_util::future::join_all(many).await;
    let count = "SELECT count(*)::TEXT FROM pg_stat_activity WHERE application_name = 'counted'";
    let open: u32 = value(&server.url(), count).await.parse().unwrap();
    assert!((2..=3).contains(&open), "{open}");
}

fn openssl(folder: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split_whitespace()).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tls_says_which_parameter_is_at_fault() {
    let Some(programs) = server_programs("") else { return };
    let folder = tempfile::Builder::new().prefix("acetate-tls").tempdir_in("/tmp").unwrap();
    let at = folder.path();
    for name in ["ca", "other"] {
        openssl(
            at,
            &format!("req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {name}.key -out {name}.pem -subj /CN={name}"),
        );
    }
    openssl(at, "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost");
    fs::write(at.join("names"), "subjectAltName = DNS:localhost\n").unwrap();
    openssl(
        at,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out server.pem -extfile names",
    );
    fs::write(at.join("garbage.pem"), "no certificate").unwrap();
    assert!(Command::new("chmod").args(["-R", "a+rX"]).arg(at).status().unwrap().success());
    let key = at.join("server.key");
    assert!(Command::new("chmod").arg("0600").arg(&key).status().unwrap().success());
    if crate::common::is_root() {
        assert!(Command::new("chown").arg("65534").arg(&key).status().unwrap().success());
    }
    let place = at.display();
    let settings = format!("ssl=on\nssl_cert_file={place}/server.pem\nssl_key_file={place}/server.key");
    let server = Server::start(&programs, &settings);
    let base = format!("postgres://postgres@localhost:{}/postgres", server.port);

    let job_store = open(&format!("{base}?sslmode=verify-full&sslrootcert={place}/ca.pem")).await.unwrap();
    let encrypted = "SELECT count(*)::TEXT FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'acetate'";
    assert_ne!(value(&server.url(), encrypted).await, "0");
    job_store.close().await;

    let ask = |query: &str| format!("{base}?{}", query.replace("AT", &place.to_string()));
    refused(&ask("sslmode=verify-full"), &["sslrootcert=/path/ca.pem"]).await;
    refused(&ask("sslmode=verify-full&sslrootcert=AT/other.pem"), &["sslrootcert=", "other.pem", "right CA"]).await;
    let missing = refused(
        &ask("sslmode=verify-full&sslrootcert=AT/nothing.pem"),
        &["sslrootcert=", "nothing.pem", "No such file"],
    )
    .await;
    assert_eq!(missing.class(), ErrorClass::Invalid);
    refused(&ask("sslmode=verify-full&sslrootcert=AT/garbage.pem"), &["garbage.pem"]).await;
    refused(&ask("sslmode=require&sslrootcert=AT/other.pem"), &["right CA"]).await;
    let other_name = ask("sslmode=verify-full&sslrootcert=AT/ca.pem").replace("localhost", "127.0.0.1");
    refused(&other_name, &["another host name", "verify-ca"]).await;
    open(&other_name.replace("verify-full", "verify-ca")).await.unwrap().close().await;

    let plain = Server::start(&programs, "");
    refused(&format!("postgres://postgres@localhost:{}/postgres?sslmode=require", plain.port), &["sslmode=disable"])
        .await;
}

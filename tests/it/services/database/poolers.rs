//! PgBouncer between acetate and Postgres: both versions that Debian has, in each mode.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use acetate::{
    database::{DatabaseOptions, DatabaseUrl, Fenced, JobStore, OutboxMode},
    job::ErrorClass,
};
use futures_util::future::join_all;
use sqlx::ConnectOptions;

use super::{
    servers::{POOLERS, Pgpool, Pooler, Server, free_port, server_programs, tool},
    support::*,
};
use crate::services::world::World;

async fn open(url: &str) -> JobStore {
    JobStore::open(&DatabaseUrl::parse("test", url).unwrap(), OutboxMode::Service).await.unwrap()
}

async fn opened_with(url: &str, options: &DatabaseOptions) -> JobStore {
    JobStore::open_with(&DatabaseUrl::parse("test", url).unwrap(), OutboxMode::Service, options).await.unwrap()
}

fn never_refused(pooler: &Pooler) {
    let log = pooler.log();
    assert!(!log.contains("unsupported startup parameter"), "{log}");
    assert!(!log.contains("prepared statement"), "{log}");
}

/// As installed: no parameter is ignored, and there are fewer sessions than clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_service_works_through_a_pooler_in_each_mode() {
    for version in POOLERS {
        let Some(program) = tool(version) else { continue };
        for (mode, sessions) in [("transaction", 2), ("session", 30)] {
            let mut world = World::service().await;
            let pooler = Pooler::start(&program, mode, &format!("default_pool_size = {sessions}"));
            world.set("ACETATE__STATUS__URL", &pooler.url(&world.service.as_ref().unwrap().schema.url));
            let workers = [world.worker(), world.worker()];
            let mut ids = Vec::new();
            for number in 0..6 {
                let name = format!("{number}");
                let (input, output) = (world.input(&format!("{name}.png"), [9, 80, 200, 255]), world.output(&name));
                ids.push(world.submit(&["composite", "--input", &input, "--output", &output]).await);
            }
            for id in ids {
                assert_eq!(world.until(&id, &["succeeded", "failed"]).await["state"], "succeeded");
                world.check_result(&id).await;
            }
            let doctor = world.run(&["doctor"]).await;
            let line = doctor.stdout.lines().find(|line| line.starts_with("database")).unwrap();
            let said = if mode == "transaction" { "status.listen_url" } else { "notifications arrive" };
            assert!(line.contains(" ok ") && line.contains(said), "{version}, {mode}: {line}");
            for worker in &workers {
                let log = worker.log();
                assert!(!log.contains("ERROR") && !log.contains("retrying"), "{version}, {mode}: {log}");
            }
            never_refused(&pooler);
        }
    }
}

/// Many clients take turns with two sessions; statements and settings of one must not be another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_that_others_use_too_change_nothing() {
    for version in POOLERS {
        let Some(program) = tool(version) else { continue };
        on_postgres_with(program, shared_sessions).await;
    }
}

async fn on_postgres_with<F: Future<Output = ()> + Send + 'static>(
    program: std::path::PathBuf,
    test: fn(Database, std::path::PathBuf) -> F,
) {
    // `on_postgres` takes a function without surroundings.
    let base = postgres_url();
    let schema = format!("acetate_test_{}", acetate::job::JobId::new().to_string().replace('-', ""));
    admin(&base, &format!("CREATE SCHEMA {schema}")).await;
    let database = Database::at(&format!("{base}?options=-csearch_path%3D{schema}"));
    let ended = tokio::spawn(test(database, program)).await;
    admin(&base, &format!("DROP SCHEMA {schema} CASCADE")).await;
    if let Err(error) = ended {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn shared_sessions(database: Database, program: std::path::PathBuf) {
    let pooler = Pooler::start(&program, "transaction", "default_pool_size = 2");
    let url = pooler.url(database.url());
    // Four processes, each with its own statements and their names.
    let stores = join_all((0..4).map(|_| open(&url))).await;
    let work = stores.iter().enumerate().map(|(number, store)| async move {
        for _ in 0..15 {
            let id = submitted(store).await;
            let taken = take(store, id, &format!("w{number}"), LEASE).await;
            assert!(matches!(store.heartbeat(id, taken.fence(), LEASE, None).await, Ok(Fenced::Held(_))));
            assert!(matches!(store.succeed(id, taken.fence(), &result()).await, Ok(Fenced::Held(_))));
            assert!(row(store, id).await.published.is_some());
        }
    });
    join_all(work).await;
    assert_eq!(stores[0].count().await.unwrap(), [(acetate::job::JobState::Succeeded, 60)]);
    let remarks = stores[0].check().await.unwrap().remarks.join("; ");
    assert!(remarks.contains("transaction mode") && remarks.contains("status.listen_url"), "{remarks}");
    never_refused(&pooler);
    // Whoever gets one of the sessions next finds it as it was made.
    let (before, _) = url.split_once("?options").unwrap();
    for _ in 0..4 {
        let left = value(before, "SELECT current_setting('statement_timeout') || current_setting('search_path')").await;
        assert_eq!(left, "0\"$user\", public");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_are_heard_past_the_pooler() {
    on_postgres(listen_past_the_pooler).await;
}

async fn listen_past_the_pooler(database: Database) {
    let Some(program) = tool(POOLERS[1]) else { return };
    let pooler = Pooler::start(&program, "transaction", "");
    let url = pooler.url(database.url());
    let listen = match &database.place {
        DatabaseUrl::Postgres(url) => url.clone(),
        DatabaseUrl::Sqlite(_) => unreachable!(),
    };
    let job_store = opened_with(&url, &DatabaseOptions { listen: Some(listen), ..DatabaseOptions::default() }).await;
    assert!(job_store.check().await.unwrap().remarks.contains(&"notifications arrive".to_owned()));
    hears_quickly(&job_store, &open(&url).await).await;
}

/// As an operator writes it, and what doctor says of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_says_where_to_listen() {
    let mut world = World::service().await;
    let url = world.service.as_ref().unwrap().schema.url.clone();
    assert_eq!(world.run(&["migrate"]).await.code, Some(0));
    let elsewhere = url.replacen("/postgres?", "/template1?", 1);
    assert_ne!(elsewhere, url);
    for (listen, said) in [
        (url.as_str(), "notifications arrive"),
        (&elsewhere, "which status.listen_url names, takes LISTEN, and no notification arrives"),
        ("postgres://nobody@127.0.0.1:1/x", "ACETATE__STATUS__LISTEN_URL (status.listen_url)"),
    ] {
        world.set("ACETATE__STATUS__LISTEN_URL", listen);
        let doctor = world.run(&["doctor"]).await;
        let line = doctor.stdout.lines().find(|line| line.starts_with("database")).unwrap();
        assert!(line.contains(" ok ") && line.contains(said), "{listen}: {line}");
    }
    // Jobs run all the same: their rows are polled.
    let _worker = world.worker();
    let (input, output) = (world.input("a.png", [9, 80, 200, 255]), world.output("a"));
    let id = world.submit(&["composite", "--input", &input, "--output", &output]).await;
    assert_eq!(world.until(&id, &["succeeded", "failed"]).await["state"], "succeeded");
    world.set("ACETATE__STATUS__LISTEN_URL", "sqlite:///tmp/x.db");
    let doctor = world.run(&["doctor"]).await;
    assert!(doctor.stdout.contains("status.listen_url: is not an address such as postgres://"), "{doctor:?}");
}

/// Whether a change by `other` wakes a waiter sooner than polling would, most of the time.
pub async fn hears_quickly(job_store: &JobStore, other: &JobStore) {
    let mut changes = job_store.changes();
    let begin = Instant::now();
    let mut quick = 0;
    while quick < 3 {
        submitted(other).await;
        let asked = Instant::now();
        changes.wait_for_change().await;
        quick = if asked.elapsed() < Duration::from_millis(400) { quick + 1 } else { 0 };
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing is heard");
        // The echo of this change is over.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_pooler_cannot_do_is_said() {
    let Some(program) = tool(POOLERS[0]) else { return };
    said(&program, "statement", "", "pool_mode = transaction").await;

    said(&program, "transaction", "disable_pqexec = 1", "remove disable_pqexec").await;

    // Others hold all sessions of a pooler in session mode.
    let pooler = Pooler::start(&program, "session", "default_pool_size = 1\nquery_wait_timeout = 1");
    let url = pooler.url(&postgres_url());
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let mut held = options.extra_float_digits(None).connect().await.unwrap();
    sqlx::raw_sql("SELECT 1").execute(&mut held).await.unwrap();
    let error = JobStore::open(&DatabaseUrl::parse("test", &url).unwrap(), OutboxMode::Service).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    assert!(error.to_string().contains("default_pool_size"), "{error}");
}

async fn said(program: &Path, mode: &str, settings: &str, advice: &str) {
    let pooler = Pooler::start(program, mode, settings);
    let url = pooler.url(&postgres_url());
    let error = JobStore::open(&DatabaseUrl::parse("test", &url).unwrap(), OutboxMode::Service).await.unwrap_err();
    assert!(error.to_string().contains(advice), "{error}");
}

/// As with prisma's addresses: the mode is named and need not be found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_address_may_say_that_it_is_a_pooler() {
    on_postgres(named_pooler).await;
}

async fn named_pooler(database: Database) {
    let job_store = open(&format!("{}&pgbouncer=true", database.url())).await;
    submitted(&job_store).await;
    assert!(job_store.check().await.unwrap().remarks.join("; ").contains("status.listen_url"));
}

/// A pooler that starts sharing sessions while acetate runs, as after a change of its configuration.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pooler_may_change_its_mode() {
    on_postgres(changed_mode).await;
}

async fn changed_mode(database: Database) {
    let Some(program) = tool(POOLERS[0]) else { return };
    let gate_port = free_port();
    let before = Pooler::start(&program, "session", "");
    let after = Pooler::start(&program, "transaction", "default_pool_size = 1");
    let switch = super::freezer::Freezer::at(gate_port, before.port).await;
    let url = Pooler::url_at(database.url(), gate_port);
    let (one, two) = (open(&url).await, open(&url).await);
    for store in [&one, &two] {
        submitted(store).await;
    }
    switch.lead_to(after.port);
    for _ in 0..5 {
        for store in [&one, &two] {
            submitted(store).await;
        }
    }
    assert_eq!(one.count().await.unwrap(), [(acetate::job::JobState::Queued, 12)]);
}

/// pgpool sends statements elsewhere by their text. What that breaks is found out, and named with what to change.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pooler_that_reads_elsewhere_is_refused() {
    let (Some(program), Some(programs)) = (tool("ACETATE_TEST_PGPOOL"), server_programs("")) else { return };
    let primary = Server::start(&programs, "");
    open(&primary.url()).await.close().await;
    let replica = primary.replica();
    for (mode, balance, works) in
        [("streaming_replication", "off", true), ("streaming_replication", "on", false), ("raw", "on", false)]
    {
        let pool = Pgpool::start(&program, mode, balance, &primary, &replica);
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", pool.port);
        let checked = open(&url).await.check().await;
        match checked {
            Ok(_) => assert!(works, "{mode}, {balance}"),
            Err(error) => {
                let text = error.to_string();
                assert!(!works && text.contains("load_balance_mode = off"), "{mode}, {balance}: {text}");
            }
        }
        let left = value(&primary.url(), "SELECT COUNT(*)::TEXT FROM rejections").await;
        assert_eq!(left, "0", "{mode}, {balance}");
    }
}

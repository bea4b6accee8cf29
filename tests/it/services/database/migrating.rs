//! Migrations beside a version that is at work, by itself or as a step of its own.

use std::time::{Duration, Instant};

use acetate::{
    database::{DatabaseOptions, DatabaseUrl, JobStore, Migrated, OutboxMode},
    job::{ErrorClass, JobId},
};
use sqlx::{Connection, PgConnection};

use super::{
    servers::{Server, server_programs},
    support::*,
};
use crate::{common::TIMEOUT, services::world::World};

/// Everything in the schema goes.
const EMPTY: &str = "DO $$ DECLARE name TEXT; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() LOOP
        EXECUTE 'DROP TABLE ' || QUOTE_IDENT(name) || ' CASCADE';
    END LOOP;
    DROP FUNCTION IF EXISTS acetate_now;
END $$";

/// The tables as the first version made them.
async fn first_version(database: &Database) {
    let tables = include_str!("../../../../migrations/postgres/0001_jobs.sql");
    let version = "CREATE TABLE acetate_schema (version BIGINT NOT NULL); INSERT INTO acetate_schema VALUES (1)";
    database.sql(&format!("{tables};\n{version}")).await;
}

async fn old_row(database: &Database) -> JobId {
    let id = JobId::new();
    let request = request(id, "file:///a.png");
    let json = request.to_json().replace('\'', "''");
    let sql = format!(
        "INSERT INTO jobs (id, fingerprint, kind, request, priority, state, available_at, quiet_until, created_at, updated_at)
         VALUES ('{id}', '{}', 'composite', '{json}', 0, 'queued', 1000, 1000, 1000, 1000)",
        request.fingerprint()
    );
    database.sql(&sql).await;
    id
}

async fn is_complete(database: &Database, job_store: &JobStore) {
    assert_eq!(job_store.migrated().to, job_store.migrated().to.max(4));
    let valid = "SELECT count(*)::TEXT FROM pg_class JOIN pg_index ON indexrelid = oid
                  WHERE relnamespace = current_schema()::REGNAMESPACE AND relname LIKE 'jobs_by_%_and_state' AND indisvalid";
    assert_eq!(value(database.url(), valid).await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_old_version_goes_on_while_the_tables_are_migrated() {
    on_postgres(beside_an_old_version).await;
}

async fn beside_an_old_version(database: Database) {
    first_version(&database).await;
    let id = old_row(&database).await;
    // Somebody looks at the rows and forgets to end the transaction.
    let mut reader = PgConnection::connect(database.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT * FROM jobs").execute(&mut reader).await.unwrap();
    let place = database.place.clone();
    let migrating = tokio::spawn(async move { JobStore::open(&place, OutboxMode::Service).await });

    // The old version's heartbeats, which wait behind the migration's lock for a moment only.
    let mut old = PgConnection::connect(database.url()).await.unwrap();
    let (begin, mut longest, mut waits) = (Instant::now(), Duration::ZERO, 0);
    while waits < 2 {
        let beat = Instant::now();
        sqlx::raw_sql("UPDATE jobs SET updated_at = updated_at + 1").execute(&mut old).await.unwrap();
        longest = longest.max(beat.elapsed());
        waits += u32::from(beat.elapsed() > Duration::from_secs(1));
        assert!(!migrating.is_finished() && begin.elapsed() < TIMEOUT);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(longest < Duration::from_secs(5), "a heartbeat took {longest:?}");
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    let job_store = migrating.await.unwrap().unwrap();
    assert_eq!(job_store.migrated().from, 1);
    is_complete(&database, &job_store).await;
    assert_eq!(take(&job_store, id, "one", LEASE).await.attempts, 1);
}

/// An index is not built in a transaction: a writer that takes long holds up the index, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn indexes_are_built_while_others_write() {
    on_postgres(beside_a_writer).await;
}

async fn beside_a_writer(database: Database) {
    let job_store = database.service().await;
    job_store.close().await;
    // As an interrupted build leaves them: one invalid, one missing.
    database.sql("DROP INDEX jobs_by_kind_and_state").await;
    let broken = "UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'jobs_by_batch_and_state'::REGCLASS";
    database.sql(broken).await;
    let id = old_row(&database).await;
    let mut writer = PgConnection::connect(database.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; UPDATE jobs SET updated_at = updated_at").execute(&mut writer).await.unwrap();
    let place = database.place.clone();
    let opening = tokio::spawn(async move { JobStore::open(&place, OutboxMode::Service).await });
    // Building an index waits for the writer.
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database \
                 WHERE datname = current_database()) OR NOT granted AND locktype = 'virtualxid'";
    while database.count(waits).await == 0 {
        assert!(!opening.is_finished());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Others write meanwhile.
    let begin = Instant::now();
    for _ in 0..5 {
        old_row(&database).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    let job_store = opening.await.unwrap().unwrap();
    is_complete(&database, &job_store).await;
    assert_eq!(take(&job_store, id, "one", LEASE).await.attempts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_processes_upgrade_once() {
    on_postgres(together).await;
}

async fn together(database: Database) {
    first_version(&database).await;
    old_row(&database).await;
    let opened: Vec<_> = (0..5)
        .map(|_| {
            let database = database.clone();
            tokio::spawn(async move { database.service().await })
        })
        .collect();
    for job_store in opened {
        let job_store = job_store.await.unwrap();
        is_complete(&database, &job_store).await;
        job_store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn through_a_pooler_in_transaction_mode_too() {
    on_postgres(through_a_pooler).await;
}

async fn through_a_pooler(database: Database) {
    for version in super::servers::POOLERS {
        let Some(program) = super::servers::tool(version) else { continue };
        let pooler = super::servers::Pooler::start(&program, "transaction", "");
        let url = DatabaseUrl::parse("test", &pooler.url(database.url())).unwrap();
        database.sql(EMPTY).await;
        first_version(&database).await;
        let job_store = JobStore::open(&url, OutboxMode::Service).await.unwrap();
        assert_eq!(job_store.migrated().from, 1);
        is_complete(&database, &job_store).await;
        job_store.close().await;
    }
}

on_both!(a_process_may_be_forbidden_to_migrate);

async fn a_process_may_be_forbidden_to_migrate(database: Database) {
    let only_current = DatabaseOptions { migrate: false, ..DatabaseOptions::default() };
    let error = JobStore::open_with(&database.place, OutboxMode::Service, &only_current).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("run `acetate migrate`"), "{error}");
    let job_store = database.service().await;
    let Migrated { from, to } = job_store.migrated();
    assert_eq!((from, to >= 4), (0, true));
    job_store.close().await;
    let job_store = JobStore::open_with(&database.place, OutboxMode::Service, &only_current).await.unwrap();
    assert_eq!(job_store.migrated(), Migrated { from: to, to });
    submitted(&job_store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn migrating_is_a_command_of_its_own() {
    let mut world = World::service().await;
    world.set("ACETATE__STATUS__MIGRATE", "false");
    let listed = world.run(&["jobs", "list"]).await;
    assert!(listed.code == Some(1) && listed.stderr.contains("acetate migrate"), "{listed:?}");
    let done = world.json(&["migrate", "--json"]).await;
    assert_eq!(done["from"], 0);
    assert!(done["database"].as_str().unwrap().starts_with("postgres://") && done["to"].as_u64() >= Some(4), "{done}");
    let again = world.run(&["migrate"]).await;
    assert!(again.code == Some(0) && again.stdout.contains("up to date"), "{again:?}");
    assert_eq!(world.run(&["jobs", "list"]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tables_that_were_not_restored_are_named_and_the_lineage_is_made_again() {
    on_postgres(restored_in_part).await;
}

async fn restored_in_part(database: Database) {
    let before = database.service().await;
    let id = submitted(&before).await;
    before.close().await;
    database.sql("DROP TABLE lineage").await;
    let job_store = JobStore::open(&database.place, OutboxMode::Service).await.unwrap();
    assert!(job_store.lineage().await.unwrap().mixed().is_none());
    job_store.check_writes().await.unwrap();
    let reasons: Vec<_> = job_store.pauses().await.unwrap().into_iter().filter_map(|pause| pause.reason).collect();
    assert!(matches!(reasons.as_slice(), [why] if why.contains("restored without the table lineage")), "{reasons:?}");
    assert_eq!(row(&job_store, id).await.request.id, id);
    database.sql("DROP TABLE lineage, actions").await;
    let error = JobStore::open(&database.place, OutboxMode::Service).await.unwrap_err().to_string();
    let wanted = "there are no longer the tables actions, lineage; restore them from a backup";
    assert!(error.contains(wanted), "{error}");
}

/// From PostgreSQL 15 on, `public` belongs to the database's owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_schema_that_refuses_tables_says_what_to_grant() {
    let Some(programs) = server_programs("") else { return };
    let server = Server::start(&programs, "");
    admin(&server.url(), "CREATE ROLE \"the worker\" LOGIN").await;
    let url = format!("postgres://the%20worker@127.0.0.1:{}/postgres", server.port);
    let place = DatabaseUrl::parse("test", &url).unwrap();
    let error = JobStore::open(&place, OutboxMode::Service).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    let grant = "GRANT USAGE, CREATE ON SCHEMA public TO \"the worker\"";
    assert!(error.to_string().contains(grant), "{error}");
    // What it says helps.
    admin(&server.url(), grant).await;
    JobStore::open(&place, OutboxMode::Service).await.unwrap().close().await;
}

//! Commands that look and change nothing, and whether everything that acetate writes is checked.

use std::fs;

use acetate::database::{DatabaseOptions, Inspected, JobStore, OutboxMode};
use sqlx::{Connection, PgConnection};

use super::{
    servers::{Server, server_programs},
    support::*,
};
use crate::{common::TestDir, services::world::World};

async fn tables(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let sql = "SELECT table_name::TEXT FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY 1";
    let tables = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    tables
}

/// Whatever table is missing from the check would not be missed here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_right_that_is_missing_on_any_table_is_named() {
    let Some(programs) = server_programs("") else { return };
    let server = Server::start(&programs, "");
    let url = server.url();
    let owner = JobStore::open(&Database::at(&url).place, OutboxMode::Service).await.unwrap();
    owner.check_writes().await.unwrap();
    admin(&url, "CREATE ROLE worker LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO worker").await;
    let as_worker = format!("postgres://worker@127.0.0.1:{}/postgres", server.port);
    let worker = JobStore::open(&Database::at(&as_worker).place, OutboxMode::Service).await.unwrap();
    worker.check_writes().await.unwrap();
    let all = tables(&url).await;
    assert!(all.len() > 10, "{all:?}");
    // It has the version, which only a migration writes.
    for table in all.iter().filter(|table| *table != "acetate_schema") {
        for right in ["SELECT", "INSERT", "UPDATE", "DELETE"] {
            admin(&url, &format!("REVOKE {right} ON {table} FROM worker")).await;
            let error = worker.check_writes().await.unwrap_err().to_string();
            // The row that is tried says it in the server's words.
            let named = error.contains(&format!("{table} ({right})")) || error.contains(&format!("table {table}"));
            assert!(named && error.contains("GRANT SELECT, INSERT"), "{table}, {right}: {error}");
            admin(&url, &format!("GRANT {right} ON {table} TO worker")).await;
        }
    }
    worker.check_writes().await.unwrap();
    admin(&url, "DROP TABLE tombstones").await;
    let error = worker.check_writes().await.unwrap_err().to_string();
    assert!(error.contains("tombstones") && error.contains("backup"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_look_makes_no_tables() {
    on_postgres(empty_schema).await;
}

async fn empty_schema(database: Database) {
    let look = || async { JobStore::inspect(&database.place, OutboxMode::Service, &DatabaseOptions::default()).await };
    assert!(matches!(look().await.unwrap(), Inspected::Nothing(Ok(()))));
    assert_eq!(tables(database.url()).await, [""; 0]);
    database.service().await.close().await;
    assert!(matches!(look().await.unwrap(), Inspected::Tables(_)));
    database.sql("UPDATE acetate_schema SET version = version - 1").await;
    assert!(matches!(look().await.unwrap(), Inspected::Older { has, needs } if has + 1 == needs));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn doctor_and_listings_leave_a_new_service_as_it_is() {
    let mut world = World::service().await;
    let store = world.place.path("store/objects");
    world.set("ACETATE__STORE__URL", &format!("file://{}", store.display()));
    let doctor = world.run(&["doctor"]).await;
    assert_eq!(doctor.code, Some(0), "what is missing is made on first use: {doctor:?}");
    for (part, said) in
        [("results", "does not exist yet"), ("database", "`acetate migrate`"), ("queue", "the queue acetate.edit")]
    {
        let line = doctor.stdout.lines().find(|line| line.starts_with(part)).unwrap();
        assert!(line.contains(" missing ") && line.contains(said), "{line}");
    }
    for args in [&["jobs", "list"][..], &["queue", "status"], &["audit", "list"], &["jobs", "results", "--batch", "b"]]
    {
        let ran = world.run(args).await;
        assert!(ran.code == Some(1) && ran.stderr.contains("run `acetate migrate`"), "{args:?}: {ran:?}");
    }
    // What submitting would do is known without tables, which it would create.
    let pictures = world.place.path("pictures").display().to_string();
    fs::create_dir(&pictures).unwrap();
    fs::copy("examples/scene.png", format!("{pictures}/scene.png")).unwrap();
    world.set("ACETATE__STORE__INPUTS", &format!("[\"file://{pictures}/\"]"));
    for look in ["--dry-run", "--estimate"] {
        let ran = world.run(&["submit", "decompose", "--from", &pictures, "--output", "s3://results/dry/", look]).await;
        assert_eq!(ran.code, Some(0), "{look}: {ran:?}");
        assert!(look == "--estimate" || ran.stdout.contains("1 would be new, 0 already submitted"), "{ran:?}");
    }
    let service = world.service.as_ref().unwrap();
    assert_eq!(tables(&service.schema.url).await, [""; 0]);
    assert!(!store.exists() && !store.parent().unwrap().exists());
    let (connection, channel) = service.vhost.foreign().await;
    let passive = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
    assert!(
        channel.queue_declare("acetate.edit".into(), passive, Default::default()).await.is_err(),
        "it was declared"
    );
    drop(connection);

    world.set("ACETATE__STATUS__MIGRATE", "false");
    let doctor = world.run(&["doctor"]).await;
    assert!(doctor.code == Some(1) && doctor.stdout.contains("status.migrate is off"), "{doctor:?}");
    world.run(&["migrate"]).await;
    let queue = world.service.as_ref().unwrap().vhost.ready().await;
    queue.close().await;
    let doctor = world.run(&["doctor"]).await;
    assert!(doctor.stdout.contains("messages are accepted") && doctor.stdout.contains("no jobs"), "{doctor:?}");
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
}

#[test]
fn commands_that_read_make_no_files() {
    let place = TestDir::new();
    fs::create_dir(place.path("pictures")).unwrap();
    fs::copy("examples/scene.png", place.path("pictures/scene.png")).unwrap();
    for look in ["--dry-run", "--estimate"] {
        let ran = place.run(&["submit", "decompose", "--from", "pictures", "--output", "file:///tmp/out/", look]);
        assert_eq!(ran.code, Some(0), "{look}: {ran:?}");
        assert!(!place.path("data").exists() || fs::read_dir(place.path("data")).unwrap().count() == 0, "{look}");
    }
    for args in [
        &["doctor"][..],
        &["jobs", "list"],
        &["jobs", "list", "--json"],
        &["queue", "status"],
        &["audit", "list"],
        &["jobs", "show", "last"],
    ] {
        let ran = place.run(args);
        assert_eq!(ran.code, Some(if args.contains(&"show") { 2 } else { 0 }), "{args:?}: {ran:?}");
        let said = if args == ["doctor"] { &ran.stdout } else { &ran.stderr };
        assert!(said.contains("acetate.db does not exist"), "{args:?}: {ran:?}");
        assert!(!place.path("data").exists() || fs::read_dir(place.path("data")).unwrap().count() == 0, "{args:?}");
    }
    let listed = place.run(&["jobs", "list"]);
    assert!(listed.stdout.contains("no jobs") && listed.stderr.contains("there are no jobs yet"), "{listed:?}");
}

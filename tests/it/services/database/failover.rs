//! Servers that change their role, go away, or refuse writes; and data that no server takes.

use std::time::{Duration, Instant};

use acetate::{
    database::{Claim, DatabaseUrl, Fenced, JobStore, OutboxMode, SubmitOptions},
    job::{ErrorClass, JobError, JobId, JobState},
};
use lapin::{BasicProperties, options::BasicPublishOptions};
use serde_json::{Value, json};

use super::{
    freezer::Freezer,
    poolers::hears_quickly,
    servers::{Server, server_programs},
    support::*,
};
use crate::{common::until, services::world::World};

async fn open(url: &str) -> JobStore {
    JobStore::open(&DatabaseUrl::parse("test", url).unwrap(), OutboxMode::Service).await.unwrap()
}

async fn refused(url: &str) -> JobError {
    JobStore::open(&DatabaseUrl::parse("test", url).unwrap(), OutboxMode::Service).await.unwrap_err()
}

/// A database of its own on the shared server, gone when the test ends well.
struct OwnDatabase {
    name: String,
    url: String,
}

impl OwnDatabase {
    async fn new(options: &str) -> Self {
        let name = format!("acetate_own_{}", JobId::new().to_string().replace('-', ""));
        admin(&postgres_url(), &format!("CREATE DATABASE {name} {options}")).await;
        let url = postgres_url();
        let (server, _) = url.rsplit_once('/').unwrap();
        Self { url: format!("{server}/{name}"), name }
    }

    async fn demote(&self, read_only: bool) {
        let word = if read_only { "on" } else { "off" };
        admin(&postgres_url(), &format!("ALTER DATABASE {} SET default_transaction_read_only = {word}", self.name))
            .await;
    }

    async fn end_sessions(&self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ";
        admin(&postgres_url(), &format!("{end}'{}'", self.name)).await;
    }

    async fn drop(self) {
        admin(&postgres_url(), &format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }
}

/// The statements wait for each other's rows, which stricter levels refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stricter_isolation_levels_of_the_database_do_not_matter() {
    for level in ["repeatable read", "serializable"] {
        let database = OwnDatabase::new("").await;
        let set = format!("ALTER DATABASE {} SET default_transaction_isolation = '{level}'", database.name);
        admin(&postgres_url(), &set).await;
        let job_store = open(&database.url).await;
        let name = batch("strict");
        let ids = submitted_batch(&job_store, &name, 40).await;
        let mut beats = tokio::task::JoinSet::new();
        for id in ids.iter().take(20).copied() {
            let (job_store, fence) = (job_store.clone(), take(&job_store, id, "one", LEASE).await.fence());
            // Until its job ends, as a worker does.
            beats.spawn(async move {
                while let Fenced::Held(beat) = job_store.heartbeat(id, fence, LEASE, None).await.unwrap() {
                    if beat.cancel_requested {
                        let _ = job_store.cancelled(id, fence).await.unwrap();
                    }
                }
            });
        }
        assert_eq!(job_store.cancel_batch(&name).await.unwrap(), 40, "{level}");
        beats.join_all().await;
        assert_eq!(job_store.count().await.unwrap(), [(JobState::Cancelled, 40)], "{level}");
        drop(job_store);
        database.drop().await;
    }
}

/// What was acknowledged survives a crash of the server, also where the database's default is that it may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_are_durable_whatever_the_default_of_the_database() {
    let database = OwnDatabase::new("").await;
    let set = format!("ALTER DATABASE {} SET synchronous_commit = ", database.name);
    open(&database.url).await.close().await;
    admin(
        &database.url,
        "CREATE TABLE seen (level text);
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$;
         CREATE TRIGGER see BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION see()",
    )
    .await;
    for (default, parameter, used) in [
        ("off", "", "on"),
        ("off", "?pgbouncer=true", "on"),
        ("remote_apply", "?pgbouncer=true", "remote_apply"),
        ("local", "", "local"),
        // Who writes it into the address wants it.
        ("on", "?options=-csynchronous_commit%3Doff", "off"),
    ] {
        admin(&postgres_url(), &format!("{set}{default}")).await;
        let job_store = open(&format!("{}{parameter}", database.url)).await;
        submitted(&job_store).await;
        job_store.close().await;
        let seen =
            value(&database.url, "WITH last AS (DELETE FROM seen RETURNING level) SELECT max(level) FROM last").await;
        assert_eq!(seen, used, "{default}{parameter}");
    }
    database.drop().await;
}

/// Sessions that were opened while the server was read-only stay so after it is the primary again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_on_a_demoted_server_are_left() {
    let database = OwnDatabase::new("").await;
    let job_store = open(&database.url).await;
    let id = submitted(&job_store).await;
    job_store.ping().await.unwrap();

    database.demote(true).await;
    database.end_sessions().await;
    let error = job_store.claim(id, &rules("one", LEASE)).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("target_session_attrs"), "{error}");
    let reset = "ALTER ROLE \"postgres\" RESET default_transaction_read_only";
    assert!(error.to_string().contains(reset), "{error}");
    let said = job_store.ping().await.unwrap_err().to_string();
    assert!(said.contains("read-only transaction"), "{said}");
    assert!(job_store.get(id).await.unwrap().is_some(), "rows can be read");

    database.demote(false).await;
    assert!(matches!(claim(&job_store, id, "one").await, Claim::Taken(_)));
    job_store.ping().await.unwrap();
    assert!(job_store.connection_counts().replaced > 0);
    job_store.close().await;
    database.drop().await;
}

/// A process that only reads must not be told to be ready either, and becomes ready by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_process_notices_it_too() {
    let database = OwnDatabase::new("").await;
    let job_store = open(&database.url).await;
    database.demote(true).await;
    database.end_sessions().await;
    assert!(job_store.ping().await.unwrap_err().to_string().contains("read-only"));
    database.demote(false).await;
    job_store.ping().await.unwrap();
    job_store.close().await;
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_says_what_its_writes_say_and_goes_on_after_a_failover() {
    let database = OwnDatabase::new("").await;
    let mut world = World::service().await;
    world.set("ACETATE__STATUS__URL", &database.url);
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let address = format!("{}/readyz", worker.http().await);
    let ready = async |wanted: bool| {
        until(|| async {
            let address = address.clone();
            let asked = tokio::task::spawn_blocking(move || {
                let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
                agent.get(&address).call().unwrap().body_mut().read_to_string().unwrap()
            });
            let answer: Value = serde_json::from_str(&asked.await.unwrap()).unwrap();
            if answer["ready"] == wanted { Ok(answer) } else { Err(answer) }
        })
        .await
    };
    ready(true).await;
    database.demote(true).await;
    database.end_sessions().await;
    let answer = ready(false).await;
    assert!(answer["checks"]["database"].as_str().unwrap().contains("read-only"), "{answer}");
    let doctor = world.run(&["doctor"]).await;
    assert!(doctor.code == Some(1) && doctor.stdout.contains("BROKEN"), "{doctor:?}");
    assert!(doctor.stdout.contains("read-only transaction"), "{doctor:?}");

    database.demote(false).await;
    let begin = Instant::now();
    let (input, output) = (world.input("a.png", [9, 80, 200, 255]), world.output("a"));
    let submitted = world.json(&["submit", "composite", "--input", &input, "--output", &output, "--json"]).await;
    let id = submitted["id"].as_str().unwrap();
    until(|| async {
        let job = world.show(id).await;
        if job["state"] == "succeeded" { Ok(()) } else { Err(job.to_string()) }
    })
    .await;
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    ready(true).await;
    drop(worker);
    database.drop().await;
}

/// Two servers: the primary dies, and its replica is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_hosts_lead_to_the_one_that_takes_writes() {
    let Some(programs) = server_programs("ACETATE_TEST_POSTGRES_17").or_else(|| server_programs("")) else { return };
    let mut first = Server::start(&programs, "");
    let second = first.replica();
    // The replica is named first.
    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", second.port, first.port);
    let job_store = open(&url).await;
    let id = submitted(&job_store).await;
    let taken = take(&job_store, id, "one", LEASE).await;
    let read_only = refused(&format!("{}?target_session_attrs=read-write", second.url())).await;
    assert!(read_only.is_transient() && read_only.to_string().contains("target_session_attrs"), "{read_only}");
    replayed(&first, &second).await;
    first.kill();
    let error = job_store.heartbeat(id, taken.fence(), LEASE, None).await.unwrap_err().to_string();
    for host in [format!("127.0.0.1:{}", first.port), format!("127.0.0.1:{}", second.port)] {
        assert!(error.contains(&host), "{error}");
    }
    second.promote();
    assert!(matches!(job_store.heartbeat(id, taken.fence(), LEASE, None).await, Ok(Fenced::Held(_))));
    assert!(matches!(job_store.succeed(id, taken.fence(), &result()).await, Ok(Fenced::Held(_))));
    job_store.ping().await.unwrap();
}

/// The rows are on the replica before their server goes.
async fn replayed(primary: &Server, replica: &Server) {
    let written = value(&primary.url(), "SELECT pg_current_wal_lsn()::TEXT").await;
    until(|| async {
        let there = format!("SELECT (pg_last_wal_replay_lsn() >= '{written}'::pg_lsn)::TEXT");
        let there = value(&replica.url(), &there).await;
        if there == "true" { Ok(()) } else { Err(there) }
    })
    .await;
}

/// The old primary comes back without knowing that it is no longer the primary, and is named first.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_primary_that_was_overtaken_gets_no_writes() {
    let Some(programs) = server_programs("ACETATE_TEST_POSTGRES_17").or_else(|| server_programs("")) else { return };
    let mut first = Server::start(&programs, "");
    let second = first.replica();
    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", first.port, second.port);
    let there_before = open(&url).await;
    submitted(&there_before).await;
    assert_eq!(there_before.check().await.unwrap().warnings, [""; 0]);
    replayed(&first, &second).await;
    first.kill();
    second.promote();
    submitted(&there_before).await;
    first.resume();
    let new = open(&url).await;
    for job_store in [&there_before, &new] {
        // More than one connection.
        let ids = futures_util::future::join_all((0..6).map(|_| submitted(job_store))).await;
        for id in ids {
            let there = value(&second.url(), &format!("SELECT count(*)::TEXT FROM jobs WHERE id = '{id}'")).await;
            assert_eq!(there, "1");
        }
        let warnings = job_store.check().await.unwrap().warnings.join("; ");
        assert!(warnings.contains("2 hosts accept writes: ") && warnings.contains("(timeline 2)"), "{warnings}");
    }
}

/// A statement that meets the end of its session is repeated on a new one; no caller notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_may_restart_between_two_statements() {
    let Some(programs) = server_programs("") else { return };
    let mut server = Server::start(&programs, "");
    let job_store = open(&server.url()).await;
    let id = submitted(&job_store).await;
    let taken = take(&job_store, id, "one", LEASE).await;
    for _ in 0..2 {
        server.kill();
        // The session's own process may notice it a moment later.
        until(|| async { if job_store.ping().await.is_ok() { Err("the session goes on") } else { Ok(()) } }).await;
        // It is waited for.
        let (beat, ()) = tokio::join!(job_store.heartbeat(id, taken.fence(), LEASE, None), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            server.resume();
        });
        assert!(matches!(beat, Ok(Fenced::Held(_))), "{beat:?}");
        job_store.ping().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_role_that_may_only_read_is_seen() {
    let Some(programs) = server_programs("") else { return };
    let server = Server::start(&programs, "");
    open(&server.url()).await.close().await;
    let sql = "CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader";
    admin(&server.url(), sql).await;
    let job_store = open(&format!("postgres://reader@127.0.0.1:{}/postgres", server.port)).await;
    let error = job_store.check().await.unwrap_err().to_string();
    assert!(error.contains("permission denied") && error.contains("GRANT") && error.contains("reader"), "{error}");
    assert!(job_store.claim(JobId::new(), &rules("one", LEASE)).await.is_err());
    assert!(job_store.ping().await.unwrap_err().to_string().contains("permission denied"));
    // As soon as it may.
    admin(&server.url(), "GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO reader").await;
    job_store.ping().await.unwrap();
    submitted(&job_store).await;
}

/// Other writes that succeed, such as a worker's sign of life, say nothing about those that fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_fails_counts_until_it_may_succeed_again() {
    on_postgres(failing_writes).await;
}

async fn failing_writes(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let url = database.url().to_owned();
    let alive = async || {
        job_store.record_worker("one", 1).await.unwrap();
        job_store.ping().await
    };
    alive().await.unwrap();
    let full = |code: &str, table: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = 'no room'; END $$;
             CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    };
    // A full tablespace of one table, which a check of all tables may not see.
    for table in ["attempts", "jobs"] {
        admin(&url, &full("53100", table)).await;
        let failed = match table {
            "jobs" => job_store.submit(&request(JobId::new(), "file:///b.png"), &SubmitOptions::default()).await.err(),
            _ => job_store.claim(id, &rules("one", LEASE)).await.err(),
        };
        assert!(failed.as_ref().is_some_and(JobError::is_transient), "{failed:?}");
        for _ in 0..2 {
            assert!(alive().await.unwrap_err().to_string().contains("no room"), "{table}");
        }
        if table == "jobs" {
            assert!(job_store.check().await.unwrap_err().to_string().contains("no room"));
        }
        admin(&url, &format!("DROP TRIGGER refuse ON {table}")).await;
        match table {
            "jobs" => drop(submitted(&job_store).await),
            _ => drop(take(&job_store, id, "one", LEASE).await),
        }
        alive().await.unwrap();
    }

    // Seen although nothing was written yet; and what is there again is seen, too.
    for (gone, again, wanted) in [
        ("ALTER TABLE pauses RENAME TO away", "ALTER TABLE away RENAME TO pauses", "no longer the tables pauses"),
        (
            "CREATE TABLE away AS TABLE lineage; DELETE FROM lineage",
            "INSERT INTO lineage SELECT * FROM away; DROP TABLE away",
            "the table lineage is empty",
        ),
    ] {
        admin(&url, gone).await;
        assert!(alive().await.unwrap_err().to_string().contains(wanted), "{wanted}");
        admin(&url, again).await;
        alive().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rights_that_are_taken_away_are_seen() {
    let Some(programs) = server_programs("") else { return };
    let server = Server::start(&programs, "");
    open(&server.url()).await.close().await;
    admin(&server.url(), "CREATE ROLE works LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO works").await;
    let job_store = open(&format!("postgres://works@127.0.0.1:{}/postgres", server.port)).await;
    submitted(&job_store).await;
    for table in ["jobs", "actions", "attempts"] {
        admin(&server.url(), &format!("REVOKE INSERT, UPDATE, DELETE ON {table} FROM works")).await;
        for _ in 0..2 {
            job_store.record_worker("one", 1).await.unwrap();
            let error = job_store.ping().await.unwrap_err().to_string();
            assert!(error.contains("permission denied") && error.contains(table), "{error}");
        }
        admin(&server.url(), &format!("GRANT ALL ON {table} TO works")).await;
        job_store.ping().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn other_encodings_are_refused_at_once() {
    let database = OwnDatabase::new("ENCODING LATIN1 LOCALE 'C' TEMPLATE template0").await;
    let error = refused(&database.url).await;
    assert_eq!(error.class(), ErrorClass::Invalid);
    let text = error.to_string();
    assert!(text.contains("LATIN1") && text.contains("--encoding=UTF8") && text.contains(&database.name), "{text}");

    let mut world = World::service().await;
    world.set("ACETATE__STATUS__URL", &database.url);
    let begin = Instant::now();
    let mut worker = world.worker();
    assert_eq!(worker.ended().await, Some(2), "{}", worker.log());
    assert!(begin.elapsed() < Duration::from_secs(20) && worker.log().contains("LATIN1"), "{}", worker.log());
    let doctor = world.run(&["doctor"]).await;
    assert!(doctor.code == Some(1) && doctor.stdout.contains("LATIN1"), "{doctor:?}");
    database.drop().await;
}

/// The rows of a message that the database cannot store are refused; the others run.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn data_that_cannot_be_stored_is_the_fault_of_its_message() {
    let world = World::service().await;
    let service = world.service.as_ref().unwrap();
    let worker = world.worker_with(&[("ACETATE__WORKER__SLOTS", "2")]);
    worker.until_said("ready for jobs").await;
    // 23514, as a trigger or a constraint of the database's owner would say it.
    admin(&service.schema.url, "ALTER TABLE jobs ADD CHECK (request NOT LIKE '%forbidden%')").await;
    let (connection, channel) = service.vhost.foreign().await;
    let input = world.input("a.png", [1, 2, 3, 255]);
    let mut ids = Vec::new();
    for label in ["forbidden", "forbidden", "forbidden", "allowed"] {
        let id = JobId::new().to_string();
        let message = json!({ "version": 1, "id": id, "kind": "composite", "input": { "image": input },
                              "output": { "prefix": world.output("a") }, "labels": { "word": label } });
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (body, properties) = (message.to_string(), BasicProperties::default());
        channel
            .basic_publish("acetate.jobs".into(), "composite".into(), options, body.as_bytes(), properties)
            .await
            .unwrap();
        ids.push(id);
    }
    world.once(&ids[3], |row| row.state == acetate::job::JobState::Succeeded).await;
    service.vhost.until_left("acetate.dead-letters", 3).await;
    assert!(worker.log().contains("cannot store"), "{}", worker.log());
    connection.close(0, "".into()).await.unwrap();
}

/// What a job has made and the database cannot store ends it; it is not made again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_result_that_cannot_be_stored_ends_its_job() {
    let world = World::service().await;
    let service = world.service.as_ref().unwrap();
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    admin(&service.schema.url, "ALTER TABLE jobs ADD CHECK (outputs NOT LIKE '%composite.png%')").await;
    let (input, output) = (world.input("a.png", [1, 2, 3, 255]), world.output("a"));
    let id = world.submit(&["composite", "--input", &input, "--output", &output]).await;
    let job = world.until(&id, &["failed", "succeeded"]).await;
    assert_eq!((&job["state"], &job["attempts"]), (&json!("failed"), &json!(1)), "{job:#}");
    assert!(job["error"]["message"].as_str().unwrap().contains("cannot store"), "{job:#}");
}

/// A network that forgets a connection tells neither side.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_listener_that_was_cut_off_silently_is_noticed() {
    on_postgres(cut_off_silently).await;
}

async fn cut_off_silently(database: Database) {
    let url = database.url();
    let upstream: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let network = Freezer::before(upstream.get_port()).await;
    let listen = super::servers::Pooler::url_at(url, network.port);
    let DatabaseUrl::Postgres(listen) = DatabaseUrl::parse("test", &listen).unwrap() else { unreachable!() };
    let options = acetate::database::DatabaseOptions { listen: Some(listen), ..Default::default() };
    let job_store = JobStore::open_with(&database.place, OutboxMode::Service, &options).await.unwrap();
    let other = database.service().await;
    hears_quickly(&job_store, &other).await;
    network.freeze();
    let begin = Instant::now();
    until(|| async {
        let lost = job_store.connection_counts().listener_lost;
        if lost > 0 { Ok(()) } else { Err(format!("{lost} losses")) }
    })
    .await;
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    hears_quickly(&job_store, &other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn notifications_that_do_not_arrive_are_said() {
    on_postgres(elsewhere).await;
}

async fn elsewhere(database: Database) {
    let own = OwnDatabase::new("").await;
    let DatabaseUrl::Postgres(listen) = DatabaseUrl::parse("test", &own.url).unwrap() else { unreachable!() };
    let options = acetate::database::DatabaseOptions { listen: Some(listen), ..Default::default() };
    let job_store = JobStore::open_with(&database.place, OutboxMode::Service, &options).await.unwrap();
    let remarks = job_store.check().await.unwrap().remarks.join("; ");
    assert!(remarks.contains("no notification arrives") && remarks.contains("status.listen_url"), "{remarks}");
    job_store.close().await;
    own.drop().await;
}

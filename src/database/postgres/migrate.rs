//! Migrates the tables once, even if several processes start together, and while older ones work.
//!
//! A new database gets all tables in one transaction. An existing one is migrated step by step: each migration is a
//! transaction that waits only a moment for its locks, because everything else waits behind it meanwhile. Indexes of
//! existing tables are built afterwards, concurrently, outside any transaction.

use std::{pin::pin, time::Duration};

use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{
    connect::{Connector, run},
    fault::{explain, no_answer},
    indexes::{self, Index},
    pool::Connections,
    session::Mode,
    tables::{LINEAGE, MISSING, RESTORED_WITHOUT, lineage_again, tables},
};
use crate::{database::Migrated, job::JobError};

/// The migrations in order; the table `acetate_schema` has the number of those applied.
pub(super) const MIGRATIONS: [&str; 22] = [
    include_str!("../../../migrations/postgres/0001_jobs.sql"),
    include_str!("../../../migrations/postgres/0002_listing.sql"),
    include_str!("../../../migrations/postgres/0003_caption.sql"),
    include_str!("../../../migrations/postgres/0004_api.sql"),
    include_str!("../../../migrations/postgres/0005_tombstones.sql"),
    include_str!("../../../migrations/postgres/0006_fairness.sql"),
    include_str!("../../../migrations/postgres/0007_traces.sql"),
    include_str!("../../../migrations/postgres/0008_actions.sql"),
    include_str!("../../../migrations/postgres/0009_datasets.sql"),
    include_str!("../../../migrations/postgres/0010_batches.sql"),
    include_str!("../../../migrations/postgres/0011_fidelity.sql"),
    include_str!("../../../migrations/postgres/0012_kept_promises.sql"),
    include_str!("../../../migrations/postgres/0013_restored.sql"),
    include_str!("../../../migrations/postgres/0014_turns.sql"),
    include_str!("../../../migrations/postgres/0015_reuse.sql"),
    include_str!("../../../migrations/postgres/0016_undo.sql"),
    include_str!("../../../migrations/postgres/0017_outbox_by_job.sql"),
    include_str!("../../../migrations/postgres/0018_sources.sql"),
    include_str!("../../../migrations/postgres/0019_claims.sql"),
    include_str!("../../../migrations/postgres/0020_order_of_sources.sql"),
    include_str!("../../../migrations/postgres/0021_retired.sql"),
    include_str!("../../../migrations/postgres/0022_deleted_rows.sql"),
];

/// How long a migration waits for its locks. A worker's lease must not end behind it.
const LOCK_TIMEOUT: &str = "3s";
/// How long it is tried again.
const LIMIT: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(2);
/// How often a long wait is logged.
const SAY_EVERY: Duration = Duration::from_secs(30);
/// How long the server may take for a question that needs no lock.
const ANSWER: Duration = Duration::from_secs(40);
/// The pause before looking whether another process has finished.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// The number of migrations applied, absent without the table; the indexes that can be used; and what is missing.
#[derive(Default)]
struct SchemaState {
    version: Option<usize>,
    indexes: Vec<String>,
    /// The tables of this version that are not there.
    lost: Vec<String>,
}

/// Runs the missing migrations.
pub(super) async fn migrate(connections: &Connections) -> Result<Migrated, JobError> {
    let to = MIGRATIONS.len();
    // The usual case takes no lock and needs no permission to create tables.
    let found = schema_state(connections).await?;
    if found.version == Some(to) && missing(&found).is_empty() && found.lost.is_empty() {
        return Ok(Migrated { from: to, to });
    }
    let connector = connections.connector();
    let run = MigrationRun { connector };
    refuse_newer(connector, &found)?;

    // Held until the end, on a connection of its own.
    let mut guard = connector.connect().await.map_err(|error| connector.error(error))?;
    run.wait_for_turn(&mut guard).await?;
    // Another process may have been faster.
    let found = schema_state(connections).await?;
    refuse_newer(connector, &found)?;
    let from = found.version.unwrap_or_default();
    if from == 0 {
        // In the transaction of the lock, which takes fewer sessions of a small pooler.
        run.create_all(&mut guard).await?;
        return Ok(Migrated { from, to });
    }
    let mut work = connector.connect().await.map_err(|error| connector.error(error))?;
    if from == to {
        run.mend(&mut work, &found.lost).await?;
    }
    run.upgrade(&mut work, from).await?;
    let found = schema_state(connections).await?;
    run.build(&mut work, missing(&found)).await?;
    let _ = super::connect::run(&mut guard, "ROLLBACK".into()).await;
    Ok(Migrated { from, to })
}

/// For processes that must not change tables.
pub(super) async fn require_current(connections: &Connections) -> Result<Migrated, JobError> {
    let (to, connector) = (MIGRATIONS.len(), connections.connector());
    let found = schema_state(connections).await?;
    refuse_newer(connector, &found)?;
    match found.version {
        Some(version) if version == to => Ok(Migrated { from: to, to }),
        version => {
            let has = version.map_or("no tables of acetate".to_owned(), |version| format!("schema {version}"));
            Err(JobError::database(format!(
                "{}: has {has}, and this version needs schema {to}; run `acetate migrate` (status.migrate is off)",
                connector.url
            )))
        }
    }
}

/// The version of the tables; absent without any. Those of a newer version are refused.
pub(super) async fn version(connections: &Connections) -> Result<Option<usize>, JobError> {
    let found = schema_state(connections).await?;
    refuse_newer(connections.connector(), &found)?;
    Ok(found.version)
}

fn refuse_newer(connector: &Connector, found: &SchemaState) -> Result<(), JobError> {
    match found.version {
        Some(version) if version > MIGRATIONS.len() => Err(JobError::database(format!(
            "{}: was written by a newer acetate (schema {version}, this one knows {}); update acetate, or name another \
             database with ACETATE__STATUS__URL",
            connector.url,
            MIGRATIONS.len()
        ))),
        _ => Ok(()),
    }
}

async fn schema_state(connections: &Connections) -> Result<SchemaState, JobError> {
    // Only in the schema that would be written to, not in another one further down the search path.
    let known = sqlx::query(
        "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'acetate_schema') AS known,
                ARRAY(SELECT relname::TEXT FROM pg_class JOIN pg_index ON indexrelid = pg_class.oid
                       WHERE relnamespace = TO_REGNAMESPACE(QUOTE_IDENT(current_schema())) AND indisvalid) AS indexes,
                ARRAY(SELECT name FROM UNNEST($1::TEXT[]) AS name WHERE TO_REGCLASS(name) IS NULL) AS lost",
    )
    .bind(tables());
    let wrong = |error: sqlx::Error| JobError::database(error.to_string()).caused_by(error);
    let rows = connections.run(known).await?.rows;
    let Some(row) = rows.first() else { return Ok(SchemaState::default()) };
    let indexes = row.try_get("indexes").map_err(wrong)?;
    let lost = row.try_get("lost").map_err(wrong)?;
    if !row.try_get::<bool, _>("known").map_err(wrong)? {
        return Ok(SchemaState { version: None, indexes, lost });
    }
    let rows = connections.run(sqlx::query("SELECT version FROM acetate_schema")).await?.rows;
    let version = rows.first().map(|row| row.try_get::<i64, _>(0)).transpose().map_err(wrong)?;
    Ok(SchemaState { version: version.map(|version| usize::try_from(version).unwrap_or_default()), indexes, lost })
}

fn missing(found: &SchemaState) -> Vec<Index> {
    let mut indexes = indexes::of(&MIGRATIONS);
    indexes.retain(|index| !found.indexes.contains(&index.name));
    indexes
}

/// Waits as long as it takes, and says so: it may be a large table, or a pooler that does not answer.
async fn with_progress_log<T>(connector: &Connector, what: &str, work: impl Future<Output = T>) -> T {
    let (mut work, begin) = (pin!(work), Instant::now());
    loop {
        match timeout(SAY_EVERY, &mut work).await {
            Ok(done) => return done,
            Err(_) => warn!(
                seconds = begin.elapsed().as_secs(),
                "{}: still waiting to {what}; the server's pg_stat_activity shows whether it works or waits",
                connector.url
            ),
        }
    }
}

/// One run of the migrations.
struct MigrationRun<'a> {
    connector: &'a Connector,
}

impl MigrationRun<'_> {
    /// Takes the lock of migrations in this schema, in a transaction that stays open. It neither queues nor waits in a
    /// transaction, so that nothing waits behind it.
    async fn wait_for_turn(&self, guard: &mut PgConnection) -> Result<(), JobError> {
        let (start, mut told) = (Instant::now(), false);
        loop {
            let asked = async {
                run(guard, self.connector.sessions.begin_unlimited()).await?;
                let asked = sqlx::raw_sql(
                    "SELECT pg_try_advisory_xact_lock(hashtextextended('acetate ' || COALESCE(current_schema(), ''), 0))",
                );
                asked.fetch_one(&mut *guard).await
            };
            let asked = timeout(ANSWER, asked).await.map_err(|_| no_answer(&self.connector.url, ANSWER))?;
            let row = asked.map_err(|error| self.wrong(&error))?;
            if row.try_get::<bool, _>(0).map_err(|error| self.wrong(&error))? {
                return Ok(());
            }
            run(guard, "ROLLBACK".into()).await.map_err(|error| self.wrong(&error))?;
            if start.elapsed() > LIMIT {
                return Err(self.database("another process has been migrating the tables for ten minutes"));
            }
            if !told && start.elapsed() > PAUSE {
                info!("another process is migrating the tables; waiting for it");
                told = true;
            }
            sleep(CHECK_EVERY).await;
        }
    }

    /// Everything at once, in a database that nobody uses yet, in the transaction that holds the lock.
    async fn create_all(&self, guard: &mut PgConnection) -> Result<(), JobError> {
        let table = "CREATE TABLE IF NOT EXISTS acetate_schema (version BIGINT NOT NULL);
                     INSERT INTO acetate_schema SELECT 0 WHERE NOT EXISTS (SELECT FROM acetate_schema)";
        let all = [&[table], MIGRATIONS.as_slice()].concat().join(";\n");
        self.finish(guard, &all, MIGRATIONS.len()).await.map_err(|error| {
            self.database(&format!("cannot create the tables ({})", explain(&self.connector.url, &error)))
        })
    }

    /// Tables that were not restored with the others. Only that of the lineage can be made again, because its one row
    /// says nothing about the jobs; but nobody knows then how old these are.
    async fn mend(&self, work: &mut PgConnection, lost: &[String]) -> Result<(), JobError> {
        if lost.is_empty() {
            return Ok(());
        }
        if lost != [LINEAGE] {
            let names = lost.join(", ");
            return Err(self.database(&format!("{MISSING}{names}; restore them from a backup, or use an empty schema")));
        }
        let sql = format!(
            "{};
             INSERT INTO pauses (scope, name, paused_at, reason) VALUES ('all', '', acetate_now(), '{RESTORED_WITHOUT}')
             ON CONFLICT (scope, name) DO UPDATE SET reason = EXCLUDED.reason",
            lineage_again()
        );
        self.in_transaction(work, &sql, MIGRATIONS.len()).await.map_err(|error| {
            self.database(&format!("cannot make the table lineage again ({})", explain(&self.connector.url, &error)))
        })?;
        warn!("{}: {RESTORED_WITHOUT}", self.connector.url);
        Ok(())
    }

    async fn upgrade(&self, work: &mut PgConnection, from: usize) -> Result<(), JobError> {
        for (number, sql) in MIGRATIONS.iter().enumerate().skip(from) {
            let (sql, version) = (indexes::without(sql), number + 1);
            let begin = Instant::now();
            loop {
                let Err(error) = self.in_transaction(work, &sql, version).await else { break };
                let locked = error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("55P03"));
                let holders = if locked { self.holders(work).await } else { String::new() };
                if !locked || begin.elapsed() > LIMIT {
                    let reason = explain(&self.connector.url, &error);
                    return Err(
                        self.database(&format!("cannot migrate the tables to schema {version} ({reason}{holders})"))
                    );
                }
                warn!("waiting for a lock on the tables to migrate them to schema {version}{holders}");
                sleep(PAUSE).await;
            }
            info!("migrated the tables to schema {version}");
        }
        Ok(())
    }

    /// With the new version's number, in one transaction that does not wait long for locks.
    async fn in_transaction(&self, work: &mut PgConnection, sql: &str, version: usize) -> Result<(), sqlx::Error> {
        let sql = format!(
            "{}; SELECT set_config('lock_timeout', '{LOCK_TIMEOUT}', true); {sql}",
            self.connector.sessions.begin_unlimited()
        );
        self.finish(work, &sql, version).await
    }

    /// Ends a transaction with some statements and the new version's number.
    async fn finish(&self, work: &mut PgConnection, sql: &str, version: usize) -> Result<(), sqlx::Error> {
        let sql = format!("{sql};\nUPDATE acetate_schema SET version = {version}; COMMIT");
        let what = format!("make the tables of schema {version}");
        let done = with_progress_log(self.connector, &what, run(work, sql.into())).await;
        if done.is_err() {
            let _ = run(work, "ROLLBACK".into()).await;
        }
        done
    }

    /// Who is in a transaction that has locked the jobs, for the person who has to end it.
    async fn holders(&self, work: &mut PgConnection) -> String {
        let sql = format!(
            "{}; SELECT STRING_AGG(DISTINCT format('PID %s (%s, %s for %s s)', pid, COALESCE(NULLIF(application_name, ''), usename),
                               state, EXTRACT(EPOCH FROM now() - xact_start)::BIGINT), ', ')
               FROM pg_locks JOIN pg_stat_activity USING (pid)
              WHERE granted AND relation IN (TO_REGCLASS('jobs'), TO_REGCLASS('outbox'), TO_REGCLASS('attempts'))
                AND pid <> pg_backend_pid() AND xact_start < now() - INTERVAL '1 second'; ROLLBACK",
            self.connector.sessions.begin()
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(work).await.unwrap_or_default();
        // The first row is that of the settings.
        match rows.get(1).and_then(|row| row.try_get::<Option<String>, _>(0).ok().flatten()) {
            Some(holders) => format!("; it is held by {holders}: pg_terminate_backend(PID) ends one"),
            None => String::new(),
        }
    }

    /// Builds indexes while others write. What an interrupted build has left is built again.
    async fn build(&self, work: &mut PgConnection, missing: Vec<Index>) -> Result<(), JobError> {
        if missing.is_empty() {
            return Ok(());
        }
        let sessions = &self.connector.sessions;
        if sessions.mode() == Mode::Own {
            // It takes as long as it takes. Of a shared session, the settings are the pooler's.
            run(work, "SELECT set_config('statement_timeout', '0', false)".into())
                .await
                .map_err(|error| self.wrong(&error))?;
        }
        let sql = format!("{}; SELECT QUOTE_IDENT(current_schema()); ROLLBACK", sessions.begin());
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *work).await.map_err(|error| self.wrong(&error))?;
        let schema: String = rows
            .get(1)
            .ok_or(sqlx::Error::RowNotFound)
            .and_then(|row| row.try_get(0))
            .map_err(|error| self.wrong(&error))?;
        for index in missing {
            let begin = Instant::now();
            info!(index = index.name, "building an index; this takes a while in a large table");
            for sql in [index.drop(&schema), index.create(&schema)] {
                let what = format!("build the index {}", index.name);
                with_progress_log(self.connector, &what, run(work, sql.into())).await.map_err(|error| {
                    let reason = explain(&self.connector.url, &error);
                    self.database(&format!("cannot build the index {} ({reason})", index.name))
                })?;
            }
            info!(index = index.name, seconds = begin.elapsed().as_secs(), "the index is built");
        }
        Ok(())
    }

    fn wrong(&self, error: &sqlx::Error) -> JobError {
        self.database(&explain(&self.connector.url, error))
    }

    fn database(&self, reason: &str) -> JobError {
        JobError::database(format!("{}: {reason}", self.connector.url))
    }
}

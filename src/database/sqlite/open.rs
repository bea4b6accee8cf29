//! The SQLite file: opening, migrations and safety between processes.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use sqlx::{
    Row, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{
    shares::Turns,
    writer::{OpenedFile, connect, pool_options},
};
use crate::{
    database::{
        Actor, Changes, DatabaseOptions, DispatchRules, Inspected, JobStore, Migrated, OutboxMode, notify::Signal,
    },
    job::{JobError, JobId},
};

/// The migrations in order; the file's `user_version` is the number of those applied.
const MIGRATIONS: [&str; 22] = [
    include_str!("../../../migrations/sqlite/0001_jobs.sql"),
    include_str!("../../../migrations/sqlite/0002_service.sql"),
    include_str!("../../../migrations/sqlite/0003_listing.sql"),
    include_str!("../../../migrations/sqlite/0004_caption.sql"),
    include_str!("../../../migrations/sqlite/0005_api.sql"),
    include_str!("../../../migrations/sqlite/0006_tombstones.sql"),
    include_str!("../../../migrations/sqlite/0007_fairness.sql"),
    include_str!("../../../migrations/sqlite/0008_traces.sql"),
    include_str!("../../../migrations/sqlite/0009_actions.sql"),
    include_str!("../../../migrations/sqlite/0010_datasets.sql"),
    include_str!("../../../migrations/sqlite/0011_batches.sql"),
    include_str!("../../../migrations/sqlite/0012_fidelity.sql"),
    include_str!("../../../migrations/sqlite/0013_kept_promises.sql"),
    include_str!("../../../migrations/sqlite/0014_restored.sql"),
    include_str!("../../../migrations/sqlite/0015_turns.sql"),
    include_str!("../../../migrations/sqlite/0016_reuse.sql"),
    include_str!("../../../migrations/sqlite/0017_undo.sql"),
    include_str!("../../../migrations/sqlite/0018_sources.sql"),
    include_str!("../../../migrations/sqlite/0019_claims.sql"),
    include_str!("../../../migrations/sqlite/0020_order_of_sources.sql"),
    include_str!("../../../migrations/sqlite/0021_retired.sql"),
    include_str!("../../../migrations/sqlite/0022_deleted_rows.sql"),
];

/// How long a write waits for another process to finish its own.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Job rows in one SQLite file, in WAL mode: one writer, readers that never wait for it.
#[derive(Debug, Clone)]
pub struct SqliteJobStore {
    /// See [`SqliteJobStore::writer`] and [`SqliteJobStore::begin`].
    pub(super) write_pool: SqlitePool,
    pub(super) opened: Option<OpenedFile>,
    pub(super) readers: SqlitePool,
    pub(super) mode: OutboxMode,
    pub(super) signal: Signal,
    /// Whose changes are recorded; absent for a worker.
    pub(super) actor: Option<Actor>,
    pub(super) rules: Arc<DispatchRules>,
    pub(super) turns: Turns,
    migrated: Migrated,
    path: PathBuf,
}

impl SqliteJobStore {
    /// Opens the file, creates it and its folder if needed, and migrates its tables.
    pub async fn open(path: &Path, mode: OutboxMode, options: &DatabaseOptions) -> Result<Self, JobError> {
        let at = |reason: String| at(path, reason);
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder)
                .await
                .map_err(|error| at(format!("cannot create its folder ({error})")))?;
        }
        let file = settings(SqliteConnectOptions::new().filename(path))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let writer = connect(&file).await.map_err(|error| at(explain(&error)))?;
        let migrated = migrate(&writer, options.migrate).await.map_err(at)?;
        Ok(Self::with(writer, file, migrated, path, mode, options))
    }

    /// Opens a file that has the tables, and changes nothing.
    pub async fn inspect(path: &Path, mode: OutboxMode, options: &DatabaseOptions) -> Result<Inspected, JobError> {
        if !path.try_exists().map_err(|error| at(path, error.to_string()))? {
            return Ok(Inspected::Nothing(can_be_made(path)));
        }
        let file = settings(SqliteConnectOptions::new().filename(path));
        let writer = connect(&file).await.map_err(|error| at(path, explain(&error)))?;
        let version = async { user_version(&mut *writer.acquire().await?).await };
        let (has, needs) = (version.await.map_err(|error| at(path, explain(&error)))?, MIGRATIONS.len());
        refuse_newer(has).map_err(|reason| at(path, reason))?;
        if has == needs {
            let migrated = Migrated { from: has, to: needs };
            let store = Self::with(writer, file, migrated, path, mode, options);
            return Ok(Inspected::Tables(JobStore::Sqlite(store)));
        }
        writer.close().await;
        Ok(if has == 0 { Inspected::Nothing(can_be_made(path)) } else { Inspected::Older { has, needs } })
    }

    /// Tables without rows in memory, under the name of a file that does not exist yet.
    pub async fn nothing(path: &Path, mode: OutboxMode, options: &DatabaseOptions) -> Result<Self, JobError> {
        let at = |reason: String| at(path, reason);
        let memory = SqliteConnectOptions::from_str("sqlite::memory:").map_err(|error| at(error.to_string()))?;
        let memory = settings(memory);
        let writer = connect(&memory).await.map_err(|error| at(explain(&error)))?;
        let migrated = migrate(&writer, true).await.map_err(at)?;
        Ok(Self::with(writer, memory, migrated, path, mode, options))
    }

    fn with(
        writer: SqlitePool,
        file: SqliteConnectOptions,
        migrated: Migrated,
        path: &Path,
        mode: OutboxMode,
        options: &DatabaseOptions,
    ) -> Self {
        let readers = pool_options(4).connect_lazy_with(file.create_if_missing(false).pragma("query_only", "on"));
        let rules = Arc::new(options.dispatch.clone());
        let opened = OpenedFile::at(path);
        let path = path.to_owned();
        let (signal, turns) = (Signal::default(), Turns::default());
        Self { write_pool: writer, opened, readers, mode, signal, actor: None, rules, turns, migrated, path }
    }

    pub fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// Writes the log back into the file and closes it.
    pub async fn close(&self) {
        self.readers.close().await;
        self.write_pool.close().await;
    }

    pub fn migrated(&self) -> Migrated {
        self.migrated
    }

    pub fn dispatch_rules(&self) -> &DispatchRules {
        &self.rules
    }

    pub fn changes(&self) -> Changes {
        self.signal.changes()
    }
}

fn at(path: &Path, reason: String) -> JobError {
    JobError::database(format!("{}: {reason}", path.display()))
}

fn settings(file: SqliteConnectOptions) -> SqliteConnectOptions {
    // An accepted job must survive a power failure; a commit per heartbeat is cheap enough.
    file.synchronous(SqliteSynchronous::Full).foreign_keys(true).busy_timeout(BUSY_TIMEOUT)
}

/// Whether the file can be made, or written, later: tried with another one in the nearest folder that exists.
fn can_be_made(path: &Path) -> Result<(), JobError> {
    let Some(folder) = path.ancestors().skip(1).find(|folder| folder.exists()) else { return Ok(()) };
    let name = format!(".acetate-check-{}", JobId::new());
    let probe = folder.join(name);
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&probe);
    made.and_then(|_| std::fs::remove_file(&probe))
        .map_err(|error| at(path, format!("does not exist, and cannot be created in {} ({error})", folder.display())))
}

/// Runs the missing migrations. It takes the write lock first, so two processes never run the same one.
async fn migrate(writer: &SqlitePool, may_migrate: bool) -> Result<Migrated, String> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await.map_err(|error| explain(&error))?;
    let done = user_version(&mut tx).await.map_err(|error| explain(&error))?;
    refuse_newer(done)?;
    if done < MIGRATIONS.len() && !may_migrate {
        return Err(format!(
            "has schema {done}, and this version needs schema {}; run `acetate migrate` (status.migrate is off)",
            MIGRATIONS.len()
        ));
    }
    for sql in &MIGRATIONS[done..] {
        sqlx::raw_sql(*sql).execute(&mut *tx).await.map_err(|error| format!("cannot create the tables ({error})"))?;
    }
    // A pragma accepts no bound values; the number is ours.
    let version = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {}", MIGRATIONS.len()));
    sqlx::raw_sql(version).execute(&mut *tx).await.map_err(|error| explain(&error))?;
    tx.commit().await.map_err(|error| explain(&error))?;
    Ok(Migrated { from: done, to: MIGRATIONS.len() })
}

fn refuse_newer(version: usize) -> Result<(), String> {
    let known = MIGRATIONS.len();
    if version <= known {
        return Ok(());
    }
    Err(format!(
        "was written by a newer acetate (schema {version}, this one knows {known}); update acetate, or name another file \
         with ACETATE__STATUS__URL"
    ))
}

async fn user_version(connection: &mut SqliteConnection) -> Result<usize, sqlx::Error> {
    let row = sqlx::query("PRAGMA user_version").fetch_one(connection).await?;
    Ok(usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default())
}

pub(super) fn database(error: sqlx::Error) -> JobError {
    // The values are at fault; they would be refused again.
    if let sqlx::Error::Database(reason) = &error
        && !matches!(reason.kind(), sqlx::error::ErrorKind::Other)
    {
        return JobError::invalid("request", format!("the job database cannot store it ({})", reason.message()));
    }
    JobError::database(explain(&error)).caused_by(error)
}

/// SQLite's message, with advice for the usual errors.
fn explain(error: &sqlx::Error) -> String {
    let text = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    };
    let hint = match text.as_str() {
        "unable to open database file" => "is it a file, and may this user write into its folder?",
        "attempt to write a readonly database" => "is its disk mounted read-only, or is the file another user's?",
        "database disk image is malformed" => {
            "restore it from a backup, or save what can be read with `sqlite3 FILE .recover`"
        }
        "file is not a database" => "name another file with ACETATE__STATUS__URL, or move this one away",
        "database is locked" => {
            let seconds = BUSY_TIMEOUT.as_secs();
            return format!("{text}; another process has held its write lock for more than {seconds} seconds");
        }
        "database or disk is full" => "free some space and try again",
        _ => return text,
    };
    format!("{text}; {hint}")
}

pub(super) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

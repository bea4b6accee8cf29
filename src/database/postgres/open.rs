//! Opening and closing, and whether the database can be used.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use sqlx::{
    Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use tokio::time::timeout;
use tracing::warn;

use super::{
    balance,
    connect::Connector,
    listen::{self, Listener},
    migrate::{MIGRATIONS, migrate, require_current, version},
    pool::Connections,
    session::Mode,
    tables,
};
use crate::{
    database::{
        Actor, Changes, ConnectionCounts, DatabaseOptions, DatabaseRemarks, DispatchRules, Inspected, JobStore,
        Migrated, OutboxMode, PostgresUrl,
        notify::{AbortOnDrop, Signal},
    },
    job::{JobError, JobId},
};

/// How often connections are looked after.
const CARE_EVERY: Duration = Duration::from_secs(30);

/// How long closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Job rows in a Postgres database, in the first schema of its search path; clones share the connections.
#[derive(Debug, Clone)]
pub struct PostgresJobStore {
    pub(super) connections: Connections,
    pub(super) mode: OutboxMode,
    pub(super) signal: Signal,
    /// Whose changes are recorded; absent for a worker.
    pub(super) actor: Option<Actor>,
    pub(super) rules: Arc<DispatchRules>,
    migrated: Migrated,
    place: Arc<str>,
    listening: Arc<Listener>,
    /// Notifies other processes of our changes, and looks after the connections.
    helpers: Arc<[AbortOnDrop; 2]>,
    /// Listens to their notifications once there is a waiter.
    listener: Arc<OnceLock<AbortOnDrop>>,
}

impl PostgresJobStore {
    /// Connects and migrates the tables.
    pub async fn open(url: &PostgresUrl, mode: OutboxMode, options: &DatabaseOptions) -> Result<Self, JobError> {
        let connections = connected(url, options).await?;
        let migrated =
            if options.migrate { migrate(&connections).await? } else { require_current(&connections).await? };
        Ok(Self::with(connections, migrated, url, mode, options))
    }

    /// Connects to tables that exist, and changes nothing.
    pub async fn inspect(
        url: &PostgresUrl,
        mode: OutboxMode,
        options: &DatabaseOptions,
    ) -> Result<Inspected, JobError> {
        let connections = connected(url, options).await?;
        let needs = MIGRATIONS.len();
        let inspected = match version(&connections).await? {
            Some(has) if has == needs => {
                let migrated = Migrated { from: has, to: needs };
                return Ok(Inspected::Tables(JobStore::Postgres(Self::with(
                    connections,
                    migrated,
                    url,
                    mode,
                    options,
                ))));
            }
            Some(has) => Inspected::Older { has, needs },
            None => {
                let sql = format!("CREATE TABLE \"acetate check {}\" (at BIGINT)", JobId::new());
                Inspected::Nothing(connections.try_to_write(&sql).await)
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, connections.close()).await;
        Ok(inspected)
    }

    fn with(
        connections: Connections,
        migrated: Migrated,
        url: &PostgresUrl,
        mode: OutboxMode,
        options: &DatabaseOptions,
    ) -> Self {
        let signal = Signal::default();
        let helpers = [listen::tell_others(connections.clone(), signal.own()), maintain(connections.clone())];
        let listening = Listener::new(connections.clone(), options.listen.as_ref());
        Self {
            connections,
            mode,
            signal,
            actor: None,
            rules: Arc::new(options.dispatch.clone()),
            migrated,
            place: url.to_string().into(),
            listening: Arc::new(listening),
            helpers: Arc::new(helpers),
            listener: Arc::default(),
        }
    }

    pub fn place(&self) -> String {
        self.place.to_string()
    }

    pub fn migrated(&self) -> Migrated {
        self.migrated
    }

    pub async fn close(&self) {
        for task in self.helpers.iter().chain(self.listener.get()) {
            task.0.abort();
        }
        let _ = timeout(CLOSE_TIMEOUT, self.connections.close()).await;
    }

    /// Checks that the database responds and takes writes. A write that failed counts until one like it succeeds, or
    /// all tables can be written to again.
    pub async fn ping(&self) -> Result<(), JobError> {
        if self.connections.failed_write().is_some() {
            self.check_writes().await?;
            return self.connections.failed_write().map_or(Ok(()), Err);
        }
        let read_only = "SELECT current_setting('transaction_read_only') = 'on' AS read_only";
        let row = self.one(sqlx::query(read_only)).await?;
        match row.is_some_and(|row| row.try_get("read_only").unwrap_or(false)) {
            // It says so itself, on a connection to today's server if there is another one.
            true => self.check_writes().await,
            false => self.connections.try_statements(&tables::check_rights()).await,
        }
    }

    /// Writes, and takes it back; refused if the role lacks a right on one of the tables, or they have no room.
    pub async fn check_writes(&self) -> Result<(), JobError> {
        let room = tables::take_room(&JobId::new().to_string());
        self.connections.try_to_write(&format!("{}; {room}", tables::check_rights())).await
    }

    /// Whether what was written can be read again.
    pub async fn check_reads(&self) -> Result<(), JobError> {
        balance::check(&self.connections).await
    }

    /// [`PostgresJobStore::check_writes`], and what an operator should know of this database.
    pub async fn check(&self) -> Result<DatabaseRemarks, JobError> {
        self.check_writes().await?;
        self.check_reads().await?;
        let mut remarks = Vec::new();
        let mut warnings: Vec<String> = self.connections.connector().compare_hosts().await.into_iter().collect();
        warnings.extend(self.clock_warning().await?);
        match self.connections.mode() {
            Mode::Own => {}
            Mode::Shared => remarks.push("behind a pooler in transaction mode".to_owned()),
            Mode::Unknown => remarks.push("no second connection to find out about poolers".to_owned()),
        }
        match self.listening.check().await {
            Ok(()) => remarks.push("notifications arrive".to_owned()),
            Err(reason) => remarks.push(reason),
        }
        Ok(DatabaseRemarks { remarks, warnings })
    }

    /// Never returns: a server that was replaced is noticed by its rows.
    pub async fn lost(&self) -> JobError {
        std::future::pending().await
    }

    pub fn dispatch_rules(&self) -> &DispatchRules {
        &self.rules
    }

    pub fn changes(&self) -> Changes {
        self.listener.get_or_init(|| listen::listen(self.listening.clone(), self.signal.clone()));
        self.signal.changes()
    }

    pub fn connection_counts(&self) -> ConnectionCounts {
        ConnectionCounts {
            replaced: self.connections.replaced(),
            listener_lost: self.connections.listener_lost().load(Ordering::Relaxed),
        }
    }

    pub(super) fn service(&self) -> bool {
        self.mode == OutboxMode::Service
    }

    /// The first row, if there is one.
    pub(super) async fn one(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Option<PgRow>, JobError> {
        Ok(self.all(query).await?.into_iter().next())
    }

    /// All rows of one statement, which is its own transaction.
    pub(super) async fn all(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, JobError> {
        Ok(self.connections.run(query).await?.rows)
    }

    pub(super) async fn execute(&self, query: Query<'_, Postgres, PgArguments>) -> Result<u64, JobError> {
        Ok(self.connections.run(query).await?.affected)
    }
}

async fn connected(url: &PostgresUrl, options: &DatabaseOptions) -> Result<Connections, JobError> {
    let connections = Connections::new(Connector::new(url), options.max_connections)?;
    // One that was the primary may be the first that accepts writes.
    if let Some(wrong) = connections.connector().compare_hosts().await {
        warn!("{url}: {wrong}");
    }
    connections.find_out().await?;
    Ok(connections)
}

fn maintain(connections: Connections) -> AbortOnDrop {
    AbortOnDrop(tokio::spawn(async move {
        loop {
            tokio::time::sleep(CARE_EVERY).await;
            if let Some(wrong) = connections.connector().compare_hosts().await {
                warn!("{}: {wrong}", connections.connector().url);
            }
            // Statements will say it if the server is away.
            let _ = connections.find_out().await;
            connections.close_idle().await;
        }
    }))
}

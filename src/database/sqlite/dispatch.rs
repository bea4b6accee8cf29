//! The next dispatches, and jobs that must wait.
//!
//! With a broker, what waits is in the outbox. Without one, the rows of queued jobs are the queue.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::{
    open::{database, now_ms},
    shares::{Backlog, ShareSearch, Turns},
    transition::{arrived, send},
};
use crate::{
    database::{
        DispatchRules, Hold, JobRow, OutboxMode, Workers,
        dispatch::{LIMITED_AGAIN, PAUSED_AGAIN, WORKER_LIVES, in_turn},
        outbox::Topic,
        row_mapping::{Columns, after, milliseconds},
    },
    job::{JobError, JobKind},
};

/// A quarter of the window is refilled at a time.
fn least_room(window: i64) -> i64 {
    (window.min(1000) + 3) / 4
}

/// The messages to dispatch next, in order: as many as the window of each kind has room for.
pub(super) async fn next_dispatches(
    tx: &mut SqliteConnection,
    rules: &DispatchRules,
    turns: &Turns,
    now: i64,
    limit: u32,
) -> Result<Vec<i64>, JobError> {
    tidy(tx, now).await?;
    let paused = Paused::read(tx).await?;
    if paused.all {
        return Ok(Vec::new());
    }
    let window = match rules.window_of(live_workers(tx, now).await?) {
        Some(window) => i64::try_from(window).unwrap_or(i64::MAX / 2),
        None => i64::MAX / 2,
    };
    let (mut chosen, limit) = (Vec::new(), i64::from(limit));
    let mut busy = InFlight::read(tx, now).await?;
    for kind in JobKind::ALL {
        let left = limit - i64::try_from(chosen.len()).unwrap_or(limit);
        let room = (window - busy.sent(kind)).min(left);
        if left <= 0 || room < least_room(window).min(left) || paused.kinds.contains(&kind.to_string()) {
            continue;
        }
        let waiting = Backlog::Outbox(kind);
        let (connection, most) = (&mut *tx, room);
        let mut search = ShareSearch { connection, waiting, turns, paused: &paused, busy: &busy, rules, now, most };
        let shares = search.shares().await?;
        for (id, tenant) in in_turn(&shares, &busy.tenants, rules, usize::try_from(room).unwrap_or_default()) {
            *busy.tenants.entry(tenant).or_default() += 1;
            chosen.push(id);
        }
    }
    Ok(chosen)
}

/// Jobs without a broker that may be claimed now, in order.
pub(super) async fn next_jobs(
    reader: &mut SqliteConnection,
    rules: &DispatchRules,
    turns: &Turns,
    now: i64,
    limit: u32,
) -> Result<Vec<String>, JobError> {
    let paused = Paused::read(reader).await?;
    if paused.all {
        return Ok(Vec::new());
    }
    let busy = InFlight::read(reader, now).await?;
    let (connection, waiting, most) = (reader, Backlog::Rows, i64::from(limit));
    let mut search = ShareSearch { connection, waiting, turns, paused: &paused, busy: &busy, rules, now, most };
    let shares = search.shares().await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(in_turn(&shares, &busy.tenants, rules, most).into_iter().map(|(id, _)| id).collect())
}

/// Why a job that is due must wait.
pub(super) async fn hold(
    tx: &mut SqliteConnection,
    row: &JobRow,
    now: i64,
    rules: &DispatchRules,
) -> Result<Option<Hold>, JobError> {
    let paused = Paused::read(tx).await?;
    let batch = row.batch.as_ref().map_or("", |batch| batch.as_str());
    if paused.concerns(row.request.task.kind().as_str(), batch) {
        return Ok(Some(Hold::Paused));
    }
    let Some(tenant) = row.request.tenant() else { return Ok(None) };
    let Some(most) = rules.limit_of(tenant) else { return Ok(None) };
    let running =
        sqlx::query("SELECT COUNT(*) AS jobs FROM jobs WHERE state = 'running' AND lease_until > ?2 AND tenant = ?1")
            .bind(tenant)
            .bind(now)
            .fetch_one(tx)
            .await
            .map_err(database)?;
    Ok(if running.number("jobs")? >= i64::from(most) { Some(Hold::TenantLimit) } else { None })
}

/// Returns the dispatch of a job that must wait to the outbox.
pub(super) async fn put_back(
    tx: &mut SqliteConnection,
    row: &JobRow,
    hold: Hold,
    mode: OutboxMode,
) -> Result<(), JobError> {
    if mode == OutboxMode::Embedded {
        return Ok(());
    }
    let again = match hold {
        Hold::Paused => PAUSED_AGAIN,
        Hold::TenantLimit => LIMITED_AGAIN,
    };
    arrived(tx, row).await?;
    let now = now_ms();
    send(tx, row, Topic::Dispatch, None, after(now, again), now).await
}

/// What is paused.
#[derive(Default)]
pub(super) struct Paused {
    all: bool,
    kinds: Vec<String>,
    batches: Vec<String>,
}

impl Paused {
    async fn read(connection: &mut SqliteConnection) -> Result<Self, JobError> {
        let rows = sqlx::query("SELECT scope, name FROM pauses").fetch_all(connection).await.map_err(database)?;
        let mut paused = Self::default();
        for row in &rows {
            match row.text("scope")?.as_str() {
                "kind" => paused.kinds.push(row.text("name")?),
                "batch" => paused.batches.push(row.text("name")?),
                _ => paused.all = true,
            }
        }
        Ok(paused)
    }

    pub(super) fn kinds_as_json(&self) -> String {
        serde_json::json!(self.kinds).to_string()
    }

    pub(super) fn concerns(&self, kind: &str, batch: &str) -> bool {
        self.all || self.kinds.iter().any(|paused| paused == kind) || self.batches.iter().any(|paused| paused == batch)
    }
}

/// The jobs that are dispatched or running.
#[derive(Default)]
pub(super) struct InFlight {
    /// By kind, tenant and batch.
    shares: BTreeMap<(String, String, String), i64>,
    tenants: BTreeMap<String, i64>,
    /// Dispatched and not started, by kind.
    sent: BTreeMap<String, i64>,
}

impl InFlight {
    async fn read(connection: &mut SqliteConnection, now: i64) -> Result<Self, JobError> {
        let rows = sqlx::query(
            "SELECT kind, IFNULL(tenant, '') AS tenant, IFNULL(batch, '') AS batch, 0 AS sent, COUNT(*) AS jobs FROM jobs
              WHERE state = 'running' AND lease_until > ?1 GROUP BY 1, 2, 3
             UNION ALL
             SELECT kind, tenant, batch, 1, COUNT(*) FROM outbox
              WHERE topic = 'dispatch' AND taken_until IS NOT NULL AND taken_until > ?1 GROUP BY 1, 2, 3",
        )
        .bind(now)
        .fetch_all(connection)
        .await
        .map_err(database)?;
        let mut busy = Self::default();
        for row in &rows {
            let (kind, tenant, jobs) = (row.text("kind")?, row.text("tenant")?, row.number("jobs")?);
            if row.flag("sent")? {
                *busy.sent.entry(kind.clone()).or_default() += jobs;
            }
            *busy.tenants.entry(tenant.clone()).or_default() += jobs;
            *busy.shares.entry((kind, tenant, row.text("batch")?)).or_default() += jobs;
        }
        Ok(busy)
    }

    fn sent(&self, kind: JobKind) -> i64 {
        self.sent.get(kind.as_str()).copied().unwrap_or_default()
    }

    /// The jobs of one tenant and batch, of the kind that waits.
    pub(super) fn of(&self, waiting: &Backlog, tenant: &str, batch: &str) -> i64 {
        let key = |kind: JobKind| (kind.to_string(), tenant.to_owned(), batch.to_owned());
        let jobs = |kind: JobKind| self.shares.get(&key(kind)).copied().unwrap_or_default();
        match waiting {
            Backlog::Outbox(kind) => jobs(*kind),
            Backlog::Rows => JobKind::ALL.into_iter().map(jobs).sum(),
        }
    }

    /// The tenants and batches that have some of the kind that waits.
    pub(super) fn names(&self, waiting: &Backlog) -> impl Iterator<Item = (String, String)> {
        let belongs = |kind: &str| match waiting {
            Backlog::Outbox(this) => this.as_str() == kind,
            Backlog::Rows => true,
        };
        self.shares
            .keys()
            .filter(move |(kind, ..)| belongs(kind))
            .map(|(_, tenant, batch)| (tenant.clone(), batch.clone()))
    }

    pub(super) fn tenant(&self, tenant: &str) -> i64 {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }
}

/// Removes the dispatches of started and ended jobs. What a relay took and neither sent nor gave back waits again, once
/// for each job.
async fn tidy(tx: &mut SqliteConnection, now: i64) -> Result<(), JobError> {
    for sql in [
        "DELETE FROM outbox
          WHERE topic = 'dispatch' AND taken_until IS NOT NULL AND taken_until > ?1
            AND (SELECT state = 'queued' OR (state = 'running' AND lease_until <= ?1) FROM jobs
                  WHERE jobs.id = outbox.job) IS NOT TRUE",
        "DELETE FROM outbox
          WHERE topic = 'dispatch' AND taken_until IS NOT NULL AND taken_until <= ?1
            AND EXISTS (SELECT 1 FROM outbox AS other
                         WHERE other.job = outbox.job AND other.topic = 'dispatch'
                           AND (other.taken_until IS NULL OR other.id > outbox.id))",
        "UPDATE outbox SET taken_until = NULL, sent_at = NULL
          WHERE topic = 'dispatch' AND taken_until IS NOT NULL AND taken_until <= ?1",
    ] {
        sqlx::query(sql).bind(now).execute(&mut *tx).await.map_err(database)?;
    }
    Ok(())
}

pub(super) async fn live_workers(connection: &mut SqliteConnection, now: i64) -> Result<Workers, JobError> {
    let row = sqlx::query("SELECT COUNT(*) AS workers, IFNULL(SUM(slots), 0) AS slots FROM workers WHERE seen_at > ?")
        .bind(now - milliseconds(WORKER_LIVES))
        .fetch_one(connection)
        .await
        .map_err(database)?;
    Ok(Workers { workers: row.small("workers")?, slots: row.small("slots")? })
}

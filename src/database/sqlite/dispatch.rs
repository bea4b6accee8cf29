//! The next dispatches, and jobs that must wait.
//!
//! With a broker, what waits is in the outbox. Without one, the rows of queued jobs are the queue. Both are indexed by
//! priority, tenant and batch, so that finding the first of each share does not read a whole batch.

use std::collections::BTreeMap;

use sqlx::{Sqlite, SqliteConnection, query::Query, sqlite::SqliteArguments};

use super::{
    open::{database, now_ms},
    transition::{arrived, send},
};
use crate::{
    database::{
        DispatchRules, Hold, JobRow, OutboxMode, Workers,
        dispatch::{LIMITED_AGAIN, PAUSED_AGAIN, Share, WORKER_LIVES, in_turn},
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
    let mut busy = Busy::read(tx, now).await?;
    for kind in JobKind::ALL {
        let left = limit - i64::try_from(chosen.len()).unwrap_or(limit);
        let room = (window - busy.sent(kind)).min(left);
        if left <= 0 || room < least_room(window).min(left) || paused.kinds.contains(&kind.to_string()) {
            continue;
        }
        let waiting = Waiting::Outbox(kind);
        let shares = shares(tx, &waiting, &paused, &busy, now, room).await?;
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
    now: i64,
    limit: u32,
) -> Result<Vec<String>, JobError> {
    let paused = Paused::read(reader).await?;
    if paused.all {
        return Ok(Vec::new());
    }
    let busy = Busy::read(reader, now).await?;
    let shares = shares(reader, &Waiting::Rows, &paused, &busy, now, i64::from(limit)).await?;
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
struct Paused {
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

    fn concerns(&self, kind: &str, batch: &str) -> bool {
        self.all || self.kinds.iter().any(|paused| paused == kind) || self.batches.iter().any(|paused| paused == batch)
    }
}

/// The jobs that are dispatched or running.
#[derive(Default)]
struct Busy {
    /// By kind, tenant and batch.
    shares: BTreeMap<(String, String, String), i64>,
    tenants: BTreeMap<String, i64>,
    /// Dispatched and not started, by kind.
    sent: BTreeMap<String, i64>,
}

impl Busy {
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

    fn of(&self, waiting: &Waiting, tenant: &str, batch: &str) -> i64 {
        let belongs = |kind: &str| match waiting {
            Waiting::Outbox(this) => this.as_str() == kind,
            Waiting::Rows => true,
        };
        let jobs = self.shares.iter().filter(|((kind, of, named), _)| belongs(kind) && of == tenant && named == batch);
        jobs.map(|(_, jobs)| jobs).sum()
    }
}

/// Where jobs wait.
enum Waiting {
    /// In the outbox, for the queue of this kind.
    Outbox(JobKind),
    Rows,
}

/// An id and its tenant: the message's number, or the job's id.
trait Id: Clone + Ord {
    fn read(row: &sqlx::sqlite::SqliteRow) -> Result<Self, JobError>;
}

impl Id for i64 {
    fn read(row: &sqlx::sqlite::SqliteRow) -> Result<Self, JobError> {
        row.number("waiting")
    }
}

impl Id for String {
    fn read(row: &sqlx::sqlite::SqliteRow) -> Result<Self, JobError> {
        row.text("waiting")
    }
}

/// The first waiting jobs of each priority, tenant and batch that is not paused.
async fn shares<T: Id>(
    connection: &mut SqliteConnection,
    waiting: &Waiting,
    paused: &Paused,
    busy: &Busy,
    now: i64,
    most: i64,
) -> Result<Vec<Share<(T, String)>>, JobError> {
    let mut shares = Vec::new();
    let mut last: Option<(i64, String, String)> = None;
    while let Some((priority, tenant, batch)) = next_share(connection, waiting, last.as_ref()).await? {
        if !paused.concerns("", &batch) {
            let kinds = serde_json::json!(paused.kinds).to_string();
            let query = match waiting {
                Waiting::Outbox(kind) => sqlx::query(
                    "SELECT id AS waiting, available_at FROM outbox
                      WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = ?6 AND priority = ?1 AND tenant = ?2
                        AND batch = ?3 AND available_at <= ?4
                      ORDER BY available_at, id LIMIT ?5",
                )
                .bind(priority)
                .bind(&tenant)
                .bind(&batch)
                .bind(now)
                .bind(most)
                .bind(kind.as_str()),
                Waiting::Rows => sqlx::query(
                    "SELECT id AS waiting, available_at FROM jobs
                      WHERE state = 'queued' AND priority = ?1 AND IFNULL(tenant, '') = ?2 AND IFNULL(batch, '') = ?3
                        AND available_at <= ?4 AND kind NOT IN (SELECT value FROM json_each(?6))
                      ORDER BY available_at, id LIMIT ?5",
                )
                .bind(priority)
                .bind(&tenant)
                .bind(&batch)
                .bind(now)
                .bind(most)
                .bind(&kinds),
            };
            let rows = query.fetch_all(&mut *connection).await.map_err(database)?;
            let mut heads = Vec::with_capacity(rows.len());
            for row in &rows {
                heads.push(((T::read(row)?, tenant.clone()), row.number("available_at")?));
            }
            let busy = busy.of(waiting, &tenant, &batch);
            shares.push(Share { priority, tenant: tenant.clone(), busy, heads });
        }
        last = Some((priority, tenant, batch));
    }
    Ok(shares)
}

/// The share after `last` in the index, the most urgent first.
async fn next_share(
    connection: &mut SqliteConnection,
    waiting: &Waiting,
    last: Option<&(i64, String, String)>,
) -> Result<Option<(i64, String, String)>, JobError> {
    type Statement<'a> = Query<'a, Sqlite, SqliteArguments>;
    let statement: Statement<'_> = match (waiting, last) {
        (Waiting::Outbox(kind), None) => sqlx::query(
            "SELECT priority, tenant, batch FROM outbox WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = ?1
              ORDER BY priority DESC, tenant DESC, batch DESC LIMIT 1",
        )
        .bind(kind.as_str()),
        (Waiting::Outbox(kind), Some((priority, tenant, batch))) => sqlx::query(
            "SELECT priority, tenant, batch FROM outbox WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = ?1
                AND (priority, tenant, batch) < (?2, ?3, ?4)
              ORDER BY priority DESC, tenant DESC, batch DESC LIMIT 1",
        )
        .bind(kind.as_str())
        .bind(priority)
        .bind(tenant)
        .bind(batch),
        (Waiting::Rows, None) => sqlx::query(
            "SELECT priority, IFNULL(tenant, '') AS tenant, IFNULL(batch, '') AS batch FROM jobs WHERE state = 'queued'
              ORDER BY priority DESC, IFNULL(tenant, '') DESC, IFNULL(batch, '') DESC LIMIT 1",
        ),
        // A comparison of rows would not use the index, which has expressions. The parts are in order.
        (Waiting::Rows, Some((priority, tenant, batch))) => sqlx::query(
            "SELECT * FROM (
                SELECT priority, IFNULL(tenant, '') AS tenant, IFNULL(batch, '') AS batch FROM jobs
                 WHERE state = 'queued' AND priority = ?1 AND IFNULL(tenant, '') = ?2 AND IFNULL(batch, '') < ?3
                 ORDER BY IFNULL(batch, '') DESC LIMIT 1)
             UNION ALL SELECT * FROM (
                SELECT priority, IFNULL(tenant, ''), IFNULL(batch, '') FROM jobs
                 WHERE state = 'queued' AND priority = ?1 AND IFNULL(tenant, '') < ?2
                 ORDER BY IFNULL(tenant, '') DESC, IFNULL(batch, '') DESC LIMIT 1)
             UNION ALL SELECT * FROM (
                SELECT priority, IFNULL(tenant, ''), IFNULL(batch, '') FROM jobs WHERE state = 'queued' AND priority < ?1
                 ORDER BY priority DESC, IFNULL(tenant, '') DESC, IFNULL(batch, '') DESC LIMIT 1)
             LIMIT 1",
        )
        .bind(priority)
        .bind(tenant)
        .bind(batch),
    };
    let Some(row) = statement.fetch_optional(connection).await.map_err(database)? else { return Ok(None) };
    Ok(Some((row.number("priority")?, row.text("tenant")?, row.text("batch")?)))
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

//! Pauses, live workers, and what waits. The choice of the next dispatches is the function `acetate_dispatch` of
//! migration 14, which `outbox_take` calls.

use std::collections::BTreeMap;

use super::{actions::noted_change, open::PostgresJobStore};
use crate::{
    database::{
        Action, Hold, KindCounts, LiveWorker, Pause, Scope, Workers,
        dispatch::{LIMITED_AGAIN, PAUSED_AGAIN, WORKER_LIVES},
        row_mapping::{Columns, is_of_known_kind, milliseconds},
    },
    job::{JobError, JobId},
};

/// How long a worker is remembered.
const WORKER_FORGOTTEN_MS: i64 = 24 * 3600 * 1000;

impl PostgresJobStore {
    /// Whether a job that is due must wait. If so, its dispatch goes back to the outbox.
    pub(super) async fn hold_back(&self, id: JobId) -> Result<Option<Hold>, JobError> {
        let (names, limits) = self.rules.named_limits();
        let query = sqlx::query(
            "WITH job AS (
                SELECT id, kind, priority, tenant, batch,
                       EXISTS (SELECT 1 FROM pauses WHERE scope = 'all' OR (scope = 'kind' AND name = jobs.kind)
                                                       OR (scope = 'batch' AND name = jobs.batch)) AS paused,
                       tenant IS NOT NULL AND NOT acetate_tenant_has_room(tenant, COALESCE(
                         (SELECT own.most FROM UNNEST($3::TEXT[], $4::BIGINT[]) AS own (name, most)
                           WHERE own.name = jobs.tenant), $2)) AS limited
                  FROM jobs WHERE id = $1 AND state || '' IN ('queued', 'running')),
             held AS MATERIALIZED (SELECT * FROM job WHERE paused OR limited),
             arrived AS (
                DELETE FROM outbox USING held
                 WHERE outbox.job = held.id AND topic || '' = 'dispatch' AND taken_until IS NOT NULL),
             waiting AS (
                INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
                SELECT id, 'dispatch', kind, priority, COALESCE(tenant, ''), COALESCE(batch, ''),
                       acetate_now() + CASE WHEN paused THEN $5::BIGINT ELSE $6::BIGINT END, acetate_now()
                  FROM held WHERE $7
                ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING)
             SELECT paused FROM held",
        )
        .bind(id.to_string())
        .bind(i64::from(self.rules.tenant_limit))
        .bind(names)
        .bind(limits)
        .bind(milliseconds(PAUSED_AGAIN))
        .bind(milliseconds(LIMITED_AGAIN))
        .bind(self.service());
        let Some(row) = self.one(query).await? else { return Ok(None) };
        Ok(Some(if row.flag("paused")? { Hold::Paused } else { Hold::TenantLimit }))
    }

    pub async fn pause(&self, scope: &Scope) -> Result<bool, JobError> {
        let note = self.actor.as_ref().map(|actor| actor.note_of_queue(Action::Paused, scope).into_array());
        let (scope, name) = scope.columns();
        let query = sqlx::query(concat!(
            "WITH changed AS (
                INSERT INTO pauses (scope, name, paused_at) VALUES ($1, $2, acetate_now()) ON CONFLICT DO NOTHING
                RETURNING 1), ",
            noted_change!("$3"),
            " SELECT 1 FROM changed"
        ))
        .bind(scope)
        .bind(name)
        .bind(note);
        let new = self.one(query).await?.is_some();
        self.signal.tell();
        Ok(new)
    }

    pub async fn resume(&self, scope: &Scope) -> Result<bool, JobError> {
        let note = self.actor.as_ref().map(|actor| actor.note_of_queue(Action::Resumed, scope).into_array());
        let (scope, name) = scope.columns();
        // What workers returned because of a pause is due at once; a scheduled job keeps its time.
        let query = sqlx::query(concat!(
            "WITH changed AS (DELETE FROM pauses WHERE scope = $1 AND name = $2 RETURNING 1),
             due AS (
                UPDATE outbox SET available_at = acetate_now()
                 WHERE topic = 'dispatch' AND taken_until IS NULL AND available_at > acetate_now()
                   AND available_at <= acetate_now() + $3
                   AND (SELECT jobs.available_at <= acetate_now() FROM jobs WHERE jobs.id = outbox.job)), ",
            noted_change!("$4"),
            " SELECT 1 FROM changed"
        ))
        .bind(scope)
        .bind(name)
        .bind(milliseconds(PAUSED_AGAIN))
        .bind(note);
        let was = self.one(query).await?.is_some();
        self.signal.tell();
        Ok(was)
    }

    pub async fn pauses(&self) -> Result<Vec<Pause>, JobError> {
        let rows =
            self.all(sqlx::query("SELECT scope, name, paused_at, reason FROM pauses ORDER BY scope, name")).await?;
        let mut pauses = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(scope) = Scope::from_columns(&row.text("scope")?, &row.text("name")?) {
                pauses.push(Pause { scope, paused_at: row.time("paused_at")?, reason: row.maybe_text("reason")? });
            }
        }
        Ok(pauses)
    }

    pub async fn record_worker(&self, name: &str, slots: u32) -> Result<(), JobError> {
        let query = sqlx::query(
            "WITH forgotten AS (DELETE FROM workers WHERE seen_at < acetate_now() - $3 AND name <> $1)
             INSERT INTO workers (name, slots, seen_at, version) VALUES ($1, $2, acetate_now(), $4)
             ON CONFLICT (name)
             DO UPDATE SET slots = EXCLUDED.slots, seen_at = EXCLUDED.seen_at, version = EXCLUDED.version",
        )
        .bind(name)
        .bind(i64::from(slots))
        .bind(WORKER_FORGOTTEN_MS)
        .bind(env!("CARGO_PKG_VERSION"));
        self.execute(query).await.map(drop)
    }

    pub async fn remove_worker(&self, name: &str) -> Result<(), JobError> {
        self.execute(sqlx::query("DELETE FROM workers WHERE name = $1").bind(name)).await.map(drop)
    }

    pub async fn workers(&self) -> Result<Workers, JobError> {
        let query = sqlx::query(
            "SELECT COUNT(*) AS workers, COALESCE(SUM(slots), 0)::BIGINT AS slots FROM workers
              WHERE seen_at > acetate_now() - $1",
        )
        .bind(milliseconds(WORKER_LIVES));
        let none = Workers { workers: 0, slots: 0 };
        let count =
            |row: sqlx::postgres::PgRow| Ok(Workers { workers: row.small("workers")?, slots: row.small("slots")? });
        self.one(query).await?.map_or(Ok(none), count)
    }

    pub async fn live_workers(&self, limit: u32) -> Result<Vec<LiveWorker>, JobError> {
        let query = sqlx::query(
            "SELECT name, slots, version FROM workers WHERE seen_at > acetate_now() - $1 ORDER BY name LIMIT $2",
        )
        .bind(milliseconds(WORKER_LIVES))
        .bind(i64::from(limit));
        self.all(query).await?.iter().map(LiveWorker::read).collect()
    }

    pub async fn kind_counts(&self) -> Result<Vec<KindCounts>, JobError> {
        let query = sqlx::query(
            "WITH unfinished AS (
                SELECT kind, COUNT(*) FILTER (WHERE state = 'queued' AND available_at <= acetate_now()
                                          OR state = 'running' AND lease_until <= acetate_now()) AS due,
                       COUNT(*) FILTER (WHERE state = 'queued' AND available_at > acetate_now()) AS scheduled,
                       COUNT(*) FILTER (WHERE state = 'running' AND lease_until > acetate_now()) AS running
                  FROM jobs WHERE state IN ('queued', 'running') GROUP BY kind),
             sent AS (
                SELECT kind, COUNT(DISTINCT job) AS jobs FROM outbox
                 WHERE topic = 'dispatch' AND taken_until > acetate_now()
                   AND (SELECT state = 'queued' OR state = 'running' AND lease_until <= acetate_now()
                          FROM jobs WHERE jobs.id = outbox.job) GROUP BY kind)
             SELECT kind, due, scheduled, running, LEAST(due, COALESCE(sent.jobs, 0)) AS dispatched
               FROM unfinished LEFT JOIN sent USING (kind) ORDER BY kind",
        );
        let rows = self.all(query).await?;
        rows.iter().filter(|row| is_of_known_kind(*row)).map(KindCounts::read).collect()
    }

    pub async fn running_in(&self, scope: &Scope) -> Result<u64, JobError> {
        let (scope, name) = scope.columns();
        let query = sqlx::query(
            "SELECT COUNT(*) AS jobs FROM jobs
              WHERE state = 'running' AND lease_until > acetate_now()
                AND ($1 = 'all' OR ($1 = 'kind' AND kind = $2) OR ($1 = 'batch' AND batch = $2))",
        )
        .bind(scope)
        .bind(name);
        self.one(query).await?.map_or(Ok(0), |row| row.small("jobs"))
    }

    pub async fn abandoned_in(&self, scope: &Scope, limit: u32) -> Result<Vec<JobId>, JobError> {
        let (scope, name) = scope.columns();
        let query = sqlx::query(
            "SELECT id FROM jobs
              WHERE state = 'running' AND lease_until <= acetate_now()
                AND ($1 = 'all' OR ($1 = 'kind' AND kind = $2) OR ($1 = 'batch' AND batch = $2))
              ORDER BY lease_until LIMIT $3",
        )
        .bind(scope)
        .bind(name)
        .bind(i64::from(limit));
        self.all(query).await?.iter().map(|row| row.word("id")).collect()
    }

    pub async fn tenants_running(&self) -> Result<BTreeMap<String, u64>, JobError> {
        let query = sqlx::query(
            "SELECT tenant, COUNT(*) AS jobs FROM jobs
              WHERE state = 'running' AND lease_until > acetate_now() AND tenant IS NOT NULL GROUP BY tenant",
        );
        self.all(query).await?.iter().map(|row| Ok((row.text("tenant")?, row.small("jobs")?))).collect()
    }
}

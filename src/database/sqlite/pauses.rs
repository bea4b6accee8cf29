//! Pauses, live workers, and what waits.

use std::collections::BTreeMap;

use super::{
    actions::write_entry,
    dispatch::live_workers,
    open::{SqliteJobStore, database, now_ms},
};
use crate::{
    database::{
        Action, KindCounts, LiveWorker, Pause, Scope, Workers,
        dispatch::{PAUSED_AGAIN, WORKER_LIVES},
        row_mapping::{Columns, after, is_of_known_kind, milliseconds},
    },
    job::{JobError, JobId},
};

/// How long a worker is remembered.
const WORKER_FORGOTTEN_MS: i64 = 24 * 3600 * 1000;

impl SqliteJobStore {
    pub async fn pause(&self, scope: &Scope) -> Result<bool, JobError> {
        let note = self.actor.as_ref().map(|actor| actor.note_of_queue(Action::Paused, scope));
        let (scope, name) = scope.columns();
        let mut tx = self.begin().await?;
        let new = sqlx::query("INSERT INTO pauses (scope, name, paused_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(scope)
            .bind(name)
            .bind(now_ms())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        let is_new = new.rows_affected() > 0;
        write_entry(&mut tx, note.filter(|_| is_new), 0).await?;
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(is_new)
    }

    pub async fn resume(&self, scope: &Scope) -> Result<bool, JobError> {
        let note = self.actor.as_ref().map(|actor| actor.note_of_queue(Action::Resumed, scope));
        let (scope, name) = scope.columns();
        let now = now_ms();
        let mut tx = self.begin().await?;
        let was = sqlx::query("DELETE FROM pauses WHERE scope = ? AND name = ?")
            .bind(scope)
            .bind(name)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        // What workers returned because of a pause is due at once; a scheduled job keeps its time.
        sqlx::query(
            "UPDATE outbox SET available_at = ?1
              WHERE topic = 'dispatch' AND taken_until IS NULL AND available_at > ?1 AND available_at <= ?2
                AND (SELECT jobs.available_at <= ?1 FROM jobs WHERE jobs.id = outbox.job)",
        )
        .bind(now)
        .bind(after(now, PAUSED_AGAIN))
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        let was_paused = was.rows_affected() > 0;
        write_entry(&mut tx, note.filter(|_| was_paused), 0).await?;
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(was_paused)
    }

    pub async fn pauses(&self) -> Result<Vec<Pause>, JobError> {
        let rows = sqlx::query("SELECT scope, name, paused_at, reason FROM pauses ORDER BY scope, name")
            .fetch_all(&self.readers)
            .await
            .map_err(database)?;
        let mut pauses = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(scope) = Scope::from_columns(&row.text("scope")?, &row.text("name")?) {
                pauses.push(Pause { scope, paused_at: row.time("paused_at")?, reason: row.maybe_text("reason")? });
            }
        }
        Ok(pauses)
    }

    pub async fn record_worker(&self, name: &str, slots: u32) -> Result<(), JobError> {
        let now = now_ms();
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM workers WHERE seen_at < ?")
            .bind(now - WORKER_FORGOTTEN_MS)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        sqlx::query(
            "INSERT INTO workers (name, slots, seen_at, version) VALUES (?, ?, ?, ?)
             ON CONFLICT (name)
             DO UPDATE SET slots = excluded.slots, seen_at = excluded.seen_at, version = excluded.version",
        )
        .bind(name)
        .bind(slots)
        .bind(now)
        .bind(env!("CARGO_PKG_VERSION"))
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        tx.commit().await.map_err(database)
    }

    pub async fn remove_worker(&self, name: &str) -> Result<(), JobError> {
        let gone = sqlx::query("DELETE FROM workers WHERE name = ?").bind(name);
        gone.execute(self.writer()?).await.map_err(database)?;
        Ok(())
    }

    pub async fn workers(&self) -> Result<Workers, JobError> {
        let mut reader = self.readers.acquire().await.map_err(database)?;
        live_workers(&mut reader, now_ms()).await
    }

    pub async fn live_workers(&self, limit: u32) -> Result<Vec<LiveWorker>, JobError> {
        let rows = sqlx::query("SELECT name, slots, version FROM workers WHERE seen_at > ? ORDER BY name LIMIT ?")
            .bind(now_ms() - milliseconds(WORKER_LIVES))
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(database)?;
        rows.iter().map(LiveWorker::read).collect()
    }

    pub async fn kind_counts(&self) -> Result<Vec<KindCounts>, JobError> {
        let rows = sqlx::query(
            "WITH sent AS (
                SELECT kind, COUNT(DISTINCT job) AS jobs FROM outbox
                 WHERE topic = 'dispatch' AND taken_until IS NOT NULL AND taken_until > ?1
                   AND (SELECT state = 'queued' OR state = 'running' AND lease_until <= ?1
                          FROM jobs WHERE jobs.id = outbox.job) GROUP BY kind),
             unfinished AS (
                SELECT kind, COUNT(*) FILTER (WHERE state = 'queued' AND available_at <= ?1
                                          OR state = 'running' AND lease_until <= ?1) AS due,
                       COUNT(*) FILTER (WHERE state = 'queued' AND available_at > ?1) AS scheduled,
                       COUNT(*) FILTER (WHERE state = 'running' AND lease_until > ?1) AS running
                  FROM jobs WHERE state IN ('queued', 'running') GROUP BY kind)
             SELECT kind, due, scheduled, running,
                    MIN(due, IFNULL((SELECT jobs FROM sent WHERE sent.kind = unfinished.kind), 0)) AS dispatched
               FROM unfinished ORDER BY kind",
        )
        .bind(now_ms())
        .fetch_all(&self.readers)
        .await
        .map_err(database)?;
        rows.iter().filter(|row| is_of_known_kind(*row)).map(KindCounts::read).collect()
    }

    pub async fn running_in(&self, scope: &Scope) -> Result<u64, JobError> {
        let (scope, name) = scope.columns();
        let row = sqlx::query(
            "SELECT COUNT(*) AS jobs FROM jobs
              WHERE state = 'running' AND lease_until > ?3
                AND (?1 = 'all' OR (?1 = 'kind' AND kind = ?2) OR (?1 = 'batch' AND batch = ?2))",
        )
        .bind(scope)
        .bind(name)
        .bind(now_ms())
        .fetch_one(&self.readers)
        .await
        .map_err(database)?;
        row.small("jobs")
    }

    pub async fn abandoned_in(&self, scope: &Scope, limit: u32) -> Result<Vec<JobId>, JobError> {
        let (scope, name) = scope.columns();
        let rows = sqlx::query(
            "SELECT id FROM jobs
              WHERE state = 'running' AND lease_until <= ?3
                AND (?1 = 'all' OR (?1 = 'kind' AND kind = ?2) OR (?1 = 'batch' AND batch = ?2))
              ORDER BY lease_until LIMIT ?4",
        )
        .bind(scope)
        .bind(name)
        .bind(now_ms())
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(database)?;
        rows.iter().map(|row| row.word("id")).collect()
    }

    pub async fn tenants_running(&self) -> Result<BTreeMap<String, u64>, JobError> {
        let rows = sqlx::query(
            "SELECT tenant, COUNT(*) AS jobs FROM jobs
              WHERE state = 'running' AND lease_until > ? AND tenant IS NOT NULL GROUP BY tenant",
        )
        .bind(now_ms())
        .fetch_all(&self.readers)
        .await
        .map_err(database)?;
        rows.iter().map(|row| Ok((row.text("tenant")?, row.small("jobs")?))).collect()
    }
}

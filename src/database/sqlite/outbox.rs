//! The outbox, and jobs that seem lost.

use std::time::Duration;

use sqlx::{QueryBuilder, Sqlite};

use super::open::{SqliteJobStore, database, now_ms};
use crate::{
    database::{
        OutboxId, OutboxMode, OutboxRow,
        row_mapping::{after, milliseconds, read_outbox, to_json},
    },
    job::{JobError, JobKind},
};

/// The maximum number of jobs in one round of the reaper; the next round continues.
const REAPED_AT_ONCE: i64 = 1000;

impl SqliteJobStore {
    pub async fn outbox_take(&self, limit: u32, lease: Duration) -> Result<Vec<OutboxRow>, JobError> {
        let now = now_ms();
        let query = sqlx::query(
            "UPDATE outbox SET taken_until = ?3
              WHERE id IN (SELECT id FROM outbox
                            WHERE available_at <= ?1 AND (taken_until IS NULL OR taken_until <= ?1)
                              AND kind IN (SELECT value FROM json_each(?4))
                            ORDER BY available_at, id LIMIT ?2)
          RETURNING id AS message, job AS id, job, topic, kind, priority, available_at, created_at,
                    COALESCE(payload, (SELECT request FROM jobs WHERE jobs.id = outbox.job)) AS payload,
                    COALESCE(traceparent, (SELECT traceparent FROM jobs WHERE jobs.id = outbox.job)) AS traceparent,
                    CASE WHEN traceparent IS NULL THEN (SELECT tracestate FROM jobs WHERE jobs.id = outbox.job)
                         ELSE tracestate END AS tracestate,
                    CASE WHEN topic <> 'dispatch' THEN
                        (SELECT traceparent FROM attempts WHERE attempts.job = outbox.job ORDER BY epoch DESC LIMIT 1)
                    END AS attempt_traceparent",
        )
        .bind(now)
        .bind(limit)
        .bind(after(now, lease));
        // A newer version may have other kinds, and sends their messages itself.
        let query = query.bind(to_json(&JobKind::ALL)?);
        let rows = query.fetch_all(&self.writer).await.map_err(database)?;
        let mut taken = rows.iter().map(read_outbox).collect::<Result<Vec<_>, _>>()?;
        taken.sort_by_key(|row| (row.available_at, row.id));
        Ok(taken)
    }

    pub async fn outbox_done(&self, ids: &[OutboxId]) -> Result<(), JobError> {
        if ids.is_empty() {
            return Ok(());
        }
        let now = now_ms();
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(database)?;
        let mut sent = QueryBuilder::<Sqlite>::new("UPDATE jobs SET quiet_until = MAX(quiet_until, ");
        sent.push_bind(now).push(") WHERE state = 'queued' AND id IN (SELECT job FROM outbox");
        sent.push(" WHERE topic = 'dispatch' AND id IN (");
        push_ids(&mut sent, ids);
        sent.push("))");
        sent.build().execute(&mut *tx).await.map_err(database)?;
        let mut gone = QueryBuilder::<Sqlite>::new("DELETE FROM outbox WHERE id IN (");
        push_ids(&mut gone, ids);
        gone.push(")");
        gone.build().execute(&mut *tx).await.map_err(database)?;
        tx.commit().await.map_err(database)
    }

    pub async fn outbox_release(&self, ids: &[OutboxId], delay: Duration) -> Result<(), JobError> {
        if ids.is_empty() {
            return Ok(());
        }
        let now = now_ms();
        let mut query = QueryBuilder::<Sqlite>::new("UPDATE outbox SET taken_until = ");
        query.push_bind(now).push(", available_at = ").push_bind(after(now, delay)).push(" WHERE id IN (");
        push_ids(&mut query, ids);
        query.push(")");
        query.build().execute(&self.writer).await.map_err(database)?;
        Ok(())
    }

    pub async fn reap(&self, grace: Duration) -> Result<u64, JobError> {
        if self.mode == OutboxMode::Embedded {
            return Ok(0);
        }
        let (now, grace) = (now_ms(), milliseconds(grace));
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(database)?;
        let lost = sqlx::query(
            "INSERT INTO outbox (job, topic, kind, priority, available_at, created_at)
             SELECT id, 'dispatch', kind, priority, ?1, ?1 FROM jobs
              WHERE id IN (SELECT id FROM (SELECT id FROM jobs WHERE state = 'queued' AND quiet_until <= ?1 - ?2
                                            ORDER BY quiet_until LIMIT ?3)
                           UNION ALL
                           SELECT id FROM (SELECT id FROM jobs
                                            WHERE state = 'running' AND lease_until <= ?1 AND quiet_until <= ?1
                                            ORDER BY lease_until LIMIT ?3))
             ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING",
        )
        .bind(now)
        .bind(grace)
        .bind(REAPED_AT_ONCE)
        .execute(&mut *tx)
        .await
        .map_err(database)?
        .rows_affected();
        // These are the same rows, because of the write lock.
        sqlx::query(
            "UPDATE jobs
                SET quiet_until = CASE state WHEN 'queued' THEN 2 * ?1 - available_at
                                             ELSE ?1 + MAX(?2, ?1 - lease_until) END
              WHERE id IN (SELECT id FROM (SELECT id FROM jobs WHERE state = 'queued' AND quiet_until <= ?1 - ?2
                                            ORDER BY quiet_until LIMIT ?3)
                           UNION ALL
                           SELECT id FROM (SELECT id FROM jobs
                                            WHERE state = 'running' AND lease_until <= ?1 AND quiet_until <= ?1
                                            ORDER BY lease_until LIMIT ?3))",
        )
        .bind(now)
        .bind(grace)
        .bind(REAPED_AT_ONCE)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        tx.commit().await.map_err(database)?;
        if lost > 0 {
            self.signal.tell();
        }
        Ok(lost)
    }
}

fn push_ids(query: &mut QueryBuilder<Sqlite>, ids: &[OutboxId]) {
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(id.0);
    }
}

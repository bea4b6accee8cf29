//! The outbox, and jobs that seem lost.

use std::time::Duration;

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{
    dispatch::next_dispatches,
    open::{SqliteJobStore, database, now_ms},
};
use crate::{
    database::{
        OutboxId, OutboxMode, OutboxRow,
        dispatch::IN_BROKER,
        row_mapping::{Columns, after, is_of_known_kind, milliseconds, read_outbox, to_json},
    },
    job::{JobError, JobKind},
};

/// The maximum number of jobs in one round of the reaper; the next round continues.
const REAPED_AT_ONCE: i64 = 1000;

impl SqliteJobStore {
    pub async fn outbox_take(&self, limit: u32, lease: Duration) -> Result<Vec<OutboxRow>, JobError> {
        let now = now_ms();
        let mut tx = self.begin().await?;
        let events = due_events(&mut tx, now, limit).await?;
        let mut taken = take(&mut tx, &events, now, lease).await?;
        if self.mode == OutboxMode::Service {
            let next = next_dispatches(&mut tx, &self.rules, &self.turns, now, limit).await?;
            taken.extend(take(&mut tx, &next, now, lease).await?);
        }
        tx.commit().await.map_err(database)?;
        Ok(taken)
    }

    pub async fn outbox_done(&self, ids: &[OutboxId]) -> Result<(), JobError> {
        if ids.is_empty() {
            return Ok(());
        }
        let now = now_ms();
        let mut tx = self.begin().await?;
        let mut sent = QueryBuilder::<Sqlite>::new("UPDATE outbox SET taken_until = ");
        sent.push_bind(IN_BROKER)
            .push(", refusals = 0, sent_at = ")
            .push_bind(now)
            .push(" WHERE topic = 'dispatch' AND id IN (");
        push_ids(&mut sent, ids);
        sent.push(")");
        sent.build().execute(&mut *tx).await.map_err(database)?;
        let mut gone = QueryBuilder::<Sqlite>::new("DELETE FROM outbox WHERE topic <> 'dispatch' AND id IN (");
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
        query.build().execute(self.writer()?).await.map_err(database)?;
        Ok(())
    }

    pub async fn outbox_refused(&self, ids: &[OutboxId], again: Option<Duration>) -> Result<(), JobError> {
        if ids.is_empty() {
            return Ok(());
        }
        let now = now_ms();
        let ids = to_json(&ids.iter().map(|id| id.0).collect::<Vec<_>>())?;
        let query = match again {
            Some(pause) => sqlx::query(
                "UPDATE outbox SET refusals = refusals + 1, taken_until = ?2, available_at = ?3
                  WHERE id IN (SELECT value FROM json_each(?1))",
            )
            .bind(ids)
            .bind(now)
            .bind(after(now, pause)),
            None => {
                sqlx::query("DELETE FROM outbox WHERE topic <> 'dispatch' AND id IN (SELECT value FROM json_each(?1))")
                    .bind(ids)
            }
        };
        query.execute(self.writer()?).await.map_err(database)?;
        Ok(())
    }

    pub async fn refused_events(&self) -> Result<u64, JobError> {
        let query = sqlx::query("SELECT COUNT(*) AS events FROM outbox WHERE topic <> 'dispatch' AND refusals > 0");
        query.fetch_one(&self.readers).await.map_err(database)?.small("events")
    }

    pub async fn refused_jobs(&self) -> Result<Vec<(JobKind, u64)>, JobError> {
        let rows = sqlx::query(
            "SELECT kind, COUNT(*) AS jobs FROM outbox
              WHERE topic = 'dispatch' AND refusals > 0 AND (taken_until IS NULL OR taken_until <= ?)
              GROUP BY kind ORDER BY kind",
        )
        .bind(now_ms())
        .fetch_all(&self.readers)
        .await
        .map_err(database)?;
        rows.iter()
            .filter(|row| is_of_known_kind(*row))
            .map(|row| Ok((row.word("kind")?, row.small("jobs")?)))
            .collect()
    }

    pub async fn reap(&self, grace: Duration) -> Result<u64, JobError> {
        if self.mode == OutboxMode::Embedded {
            return Ok(0);
        }
        let (now, grace) = (now_ms(), milliseconds(grace));
        let mut tx = self.begin().await?;
        let (late, lost) = lost_jobs(&mut tx, now, grace).await?;
        sqlx::query(
            "UPDATE jobs
                SET quiet_until = CASE state
                        WHEN 'queued' THEN IFNULL(
                            (SELECT 3 * ?2 - 2 * MAX(sent_at) FROM outbox
                              WHERE outbox.job = jobs.id AND topic = 'dispatch' AND taken_until IS NOT NULL),
                            2 * ?2 - available_at)
                        ELSE ?2 + MAX(?3, ?2 - lease_until) END
              WHERE id IN (SELECT value FROM json_each(?1))",
        )
        .bind(to_json(&late)?)
        .bind(now)
        .bind(grace)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        let lost = to_json(&lost)?;
        sqlx::query(
            "DELETE FROM outbox
              WHERE job IN (SELECT value FROM json_each(?1)) AND topic = 'dispatch' AND taken_until = ?2",
        )
        .bind(&lost)
        .bind(IN_BROKER)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        let lost = sqlx::query(
            "INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
             SELECT id, 'dispatch', kind, priority, IFNULL(tenant, ''), IFNULL(batch, ''), ?2, ?2 FROM jobs
              WHERE id IN (SELECT value FROM json_each(?1))
             ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING",
        )
        .bind(&lost)
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(database)?
        .rows_affected();
        tx.commit().await.map_err(database)?;
        if lost > 0 {
            self.signal.tell();
        }
        Ok(lost)
    }
}

/// The jobs that nobody has heard of for too long, and those of them that are lost: their workers are dead, or their
/// messages were sent. A job that waits for its turn is not lost.
async fn lost_jobs(tx: &mut SqliteConnection, now: i64, grace: i64) -> Result<(Vec<String>, Vec<String>), JobError> {
    let rows = sqlx::query(
        "SELECT id, state = 'running' OR NOT EXISTS (
                    SELECT 1 FROM outbox WHERE outbox.job = jobs.id AND topic = 'dispatch' AND taken_until IS NULL) AS lost
           FROM jobs WHERE id IN (
            SELECT id FROM (SELECT id FROM jobs
                             WHERE state = 'queued' AND quiet_until <= ?1 - ?2
                               AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.job = jobs.id AND topic = 'dispatch'
                                                                      AND taken_until IS NOT NULL)
                             ORDER BY quiet_until LIMIT ?3)
            UNION ALL
            SELECT id FROM (SELECT jobs.id FROM outbox AS sent JOIN jobs ON jobs.id = sent.job
                             WHERE sent.topic = 'dispatch' AND sent.taken_until = ?4 AND sent.sent_at <= ?1 - ?2
                               AND jobs.state = 'queued' AND jobs.quiet_until <= ?1 - ?2
                             ORDER BY sent.sent_at LIMIT ?3)
            UNION ALL
            SELECT id FROM (SELECT id FROM jobs
                             WHERE state = 'running' AND lease_until <= ?1 AND quiet_until <= ?1
                             ORDER BY lease_until LIMIT ?3))",
    )
    .bind(now)
    .bind(grace)
    .bind(REAPED_AT_ONCE)
    .bind(IN_BROKER)
    .fetch_all(tx)
    .await
    .map_err(database)?;
    let (mut late, mut lost) = (Vec::new(), Vec::new());
    for row in &rows {
        late.push(row.text("id")?);
        if row.flag("lost")? {
            lost.push(row.text("id")?);
        }
    }
    Ok((late, lost))
}

/// The events that are due, in order.
async fn due_events(tx: &mut SqliteConnection, now: i64, limit: u32) -> Result<Vec<i64>, JobError> {
    // A newer version may have other kinds, and sends their messages itself.
    let query = sqlx::query(
        "SELECT id AS message FROM outbox
          WHERE topic <> 'dispatch' AND available_at <= ?1 AND (taken_until IS NULL OR taken_until <= ?1)
            AND kind IN (SELECT value FROM json_each(?3))
          ORDER BY available_at, id LIMIT ?2",
    )
    .bind(now)
    .bind(limit)
    .bind(to_json(&JobKind::ALL)?);
    query.fetch_all(tx).await.map_err(database)?.iter().map(|row| row.number("message")).collect()
}

/// Takes messages, and returns them in the order of their ids here.
async fn take(tx: &mut SqliteConnection, ids: &[i64], now: i64, lease: Duration) -> Result<Vec<OutboxRow>, JobError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(
        "UPDATE outbox SET taken_until = ?2 WHERE id IN (SELECT value FROM json_each(?1))
      RETURNING id AS message, job AS id, job, topic, kind, priority, available_at, created_at, refusals,
                COALESCE(payload, (SELECT request FROM jobs WHERE jobs.id = outbox.job)) AS payload,
                    COALESCE(traceparent, (SELECT traceparent FROM jobs WHERE jobs.id = outbox.job)) AS traceparent,
                    CASE WHEN traceparent IS NULL THEN (SELECT tracestate FROM jobs WHERE jobs.id = outbox.job)
                         ELSE tracestate END AS tracestate,
                    CASE WHEN topic <> 'dispatch' THEN
                        (SELECT traceparent FROM attempts WHERE attempts.job = outbox.job ORDER BY epoch DESC LIMIT 1)
                    END AS attempt_traceparent",
    )
    .bind(to_json(&ids)?)
    .bind(after(now, lease))
    .fetch_all(tx)
    .await
    .map_err(database)?;
    let mut taken = rows.iter().map(read_outbox).collect::<Result<Vec<_>, _>>()?;
    taken.sort_by_key(|row| ids.iter().position(|id| *id == row.id.0));
    Ok(taken)
}

fn push_ids(query: &mut QueryBuilder<Sqlite>, ids: &[OutboxId]) {
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(id.0);
    }
}

//! Messages that are lost, left to others, or answers to a sender.

use std::time::Duration;

use sqlx::{QueryBuilder, Sqlite};

use super::open::{SqliteJobStore, database, now_ms};
use crate::{
    database::{
        Deferred, OutboxMode,
        dispatch::IN_BROKER,
        outcome::deferred,
        row_mapping::{Columns, after, milliseconds},
    },
    job::{JobError, JobId, JobKind},
};

/// The most jobs in one round; the next round continues.
const AT_ONCE: i64 = 1000;

impl SqliteJobStore {
    pub async fn redispatch(&self, kinds: &[JobKind], grace: Duration) -> Result<u64, JobError> {
        if self.mode == OutboxMode::Embedded || kinds.is_empty() {
            return Ok(0);
        }
        let now = now_ms();
        let last = now.saturating_sub(milliseconds(grace));
        let mut tx = self.begin().await?;
        let mut late = QueryBuilder::<Sqlite>::new(
            "SELECT DISTINCT jobs.id, jobs.priority, jobs.available_at FROM outbox AS sent JOIN jobs ON jobs.id = sent.job
              WHERE sent.topic = 'dispatch' AND sent.taken_until = ",
        );
        late.push_bind(IN_BROKER).push(" AND sent.sent_at <= ").push_bind(last);
        late.push(" AND jobs.state = 'queued' AND jobs.available_at <= ").push_bind(now);
        late.push(" AND jobs.kind IN (");
        let mut list = late.separated(", ");
        for kind in kinds {
            list.push_bind(kind.as_str());
        }
        late.push(") ORDER BY jobs.priority DESC, jobs.available_at, jobs.id LIMIT ").push_bind(AT_ONCE);
        let late = late.build().fetch_all(&mut *tx).await.map_err(database)?;
        for row in &late {
            let id = row.text("id")?;
            sqlx::query("DELETE FROM outbox WHERE job = ?1 AND topic = 'dispatch' AND taken_until = ?2")
                .bind(&id)
                .bind(IN_BROKER)
                .execute(&mut *tx)
                .await
                .map_err(database)?;
            sqlx::query(
                "INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
                 SELECT id, 'dispatch', kind, priority, IFNULL(tenant, ''), IFNULL(batch, ''), ?2, ?2
                   FROM jobs WHERE id = ?1
                 ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING",
            )
            .bind(&id)
            .bind(now)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        }
        tx.commit().await.map_err(database)?;
        if !late.is_empty() {
            self.signal.tell();
        }
        Ok(u64::try_from(late.len()).unwrap_or(u64::MAX))
    }

    pub async fn defer(&self, id: JobId, delay: Duration) -> Result<Deferred, JobError> {
        let now = now_ms();
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM outbox WHERE job = ?1 AND topic = 'dispatch' AND taken_until IS NOT NULL")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        sqlx::query(
            "INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
             SELECT id, 'dispatch', kind, priority, IFNULL(tenant, ''), IFNULL(batch, ''), ?2, ?3
               FROM jobs WHERE id = ?1 AND state IN ('queued', 'running')
             ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING",
        )
        .bind(id.to_string())
        .bind(after(now, delay))
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        let row = sqlx::query("SELECT id, state FROM jobs WHERE id = ?1")
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(database)?;
        tx.commit().await.map_err(database)?;
        Ok(deferred(row.map(|row| row.word("state")).transpose()?))
    }

    pub async fn want_reply(&self, id: JobId, address: &str) -> Result<bool, JobError> {
        let done = sqlx::query(
            "UPDATE jobs SET webhook = COALESCE(webhook, ?2) WHERE id = ?1 AND state IN ('queued', 'running')",
        )
        .bind(id.to_string())
        .bind(address)
        .execute(self.writer()?)
        .await
        .map_err(database)?;
        Ok(done.rows_affected() > 0)
    }
}

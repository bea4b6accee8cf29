//! Messages that are lost, left to others, or answers to a sender.

use std::time::Duration;

use super::open::PostgresJobStore;
use crate::{
    database::{
        Deferred,
        outcome::deferred,
        row_mapping::{Columns, milliseconds},
    },
    job::{JobError, JobId, JobKind},
};

/// The most jobs in one round; the next round continues.
const AT_ONCE: i64 = 1000;

impl PostgresJobStore {
    pub async fn redispatch(&self, kinds: &[JobKind], grace: Duration) -> Result<u64, JobError> {
        if !self.service() || kinds.is_empty() {
            return Ok(0);
        }
        // Between the two times is when the last message was written: see `reap`.
        let query = sqlx::query(
            "WITH late AS (
                SELECT id, kind, priority FROM jobs
                 WHERE state = 'queued' AND kind = ANY($1) AND available_at <= acetate_now() - $2
                   AND (quiet_until + available_at) / 2 <= acetate_now() - $2
                   AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.job = jobs.id AND topic = 'dispatch')
                 ORDER BY priority DESC, available_at, id LIMIT $3 FOR UPDATE SKIP LOCKED),
             noted AS (
                UPDATE jobs SET quiet_until = 2 * acetate_now() - available_at
                 WHERE id = ANY(ARRAY(SELECT id FROM late))),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, available_at, created_at)
                SELECT id, 'dispatch', kind, priority, acetate_now(), acetate_now() FROM late
                ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING
             RETURNING 1)
             SELECT 1 FROM sent",
        )
        .bind(kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>())
        .bind(milliseconds(grace))
        .bind(AT_ONCE);
        let sent = self.all(query).await?.len();
        if sent > 0 {
            self.signal.tell();
        }
        Ok(u64::try_from(sent).unwrap_or(u64::MAX))
    }

    pub async fn defer(&self, id: JobId, delay: Duration) -> Result<Deferred, JobError> {
        let query = sqlx::query(
            "WITH job AS (SELECT id, kind, priority, state FROM jobs WHERE id = $1),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, available_at, created_at)
                SELECT id, 'dispatch', kind, priority, acetate_now() + $2, acetate_now() FROM job
                 WHERE state IN ('queued', 'running')
                ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING)
             SELECT state FROM job",
        )
        .bind(id.to_string())
        .bind(milliseconds(delay));
        Ok(deferred(self.one(query).await?.map(|row| row.word("state")).transpose()?))
    }

    pub async fn want_reply(&self, id: JobId, address: &str) -> Result<bool, JobError> {
        let query = sqlx::query(
            "UPDATE jobs SET webhook = COALESCE(webhook, $2) WHERE id = $1 AND state || '' IN ('queued', 'running')",
        )
        .bind(id.to_string())
        .bind(address);
        self.execute(query).await.map(|rows| rows > 0)
    }
}

//! Messages that are lost, left to others, or answers to a sender.

use std::time::Duration;

use super::open::PostgresJobStore;
use crate::{
    database::{
        Deferred,
        dispatch::IN_BROKER,
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
        let query = sqlx::query(
            "WITH late AS (
                SELECT jobs.id, jobs.kind, jobs.priority, jobs.tenant, jobs.batch
                  FROM outbox AS sent JOIN jobs ON jobs.id = sent.job
                 WHERE sent.topic = 'dispatch' AND sent.taken_until = $4 AND sent.kind = ANY($1)
                   AND sent.sent_at <= acetate_now() - $2
                   AND jobs.state || '' = 'queued' AND jobs.available_at <= acetate_now()
                 ORDER BY jobs.priority DESC, jobs.available_at, jobs.id LIMIT $3 FOR UPDATE OF jobs SKIP LOCKED),
             forgotten AS (
                DELETE FROM outbox
                 WHERE job = ANY(ARRAY(SELECT id FROM late)) AND topic = 'dispatch' AND taken_until = $4),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
                SELECT DISTINCT id, 'dispatch', kind, priority, COALESCE(tenant, ''), COALESCE(batch, ''),
                       acetate_now(), acetate_now()
                  FROM late
                ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING
             RETURNING 1)
             SELECT 1 FROM sent",
        )
        .bind(kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>())
        .bind(milliseconds(grace))
        .bind(AT_ONCE)
        .bind(IN_BROKER);
        let sent = self.all(query).await?.len();
        if sent > 0 {
            self.signal.tell();
        }
        Ok(u64::try_from(sent).unwrap_or(u64::MAX))
    }

    pub async fn defer(&self, id: JobId, delay: Duration) -> Result<Deferred, JobError> {
        let query = sqlx::query(
            "WITH job AS (SELECT id, kind, priority, tenant, batch, state FROM jobs WHERE id = $1),
             arrived AS (
                DELETE FROM outbox WHERE job = $1 AND topic || '' = 'dispatch' AND taken_until IS NOT NULL),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
                SELECT id, 'dispatch', kind, priority, COALESCE(tenant, ''), COALESCE(batch, ''),
                       acetate_now() + $2, acetate_now() FROM job
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

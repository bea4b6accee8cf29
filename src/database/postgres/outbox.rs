//! The outbox, and jobs that seem lost.
//!
//! `id = ANY(ARRAY(...))` instead of a join keeps the planner from reading whole tables while it has no statistics; for
//! `state || ''`, see the parent module.

use std::time::Duration;

use super::open::PostgresJobStore;
use crate::{
    database::{
        OutboxId, OutboxRow,
        row_mapping::{milliseconds, read_outbox},
    },
    job::{JobError, JobKind},
};

/// The maximum number of jobs in one round of the reaper; the next round continues.
const REAPED_AT_ONCE: i64 = 1000;

/// The time, in milliseconds, within which a message is usually sent.
const SOON: i64 = 5000;

impl PostgresJobStore {
    pub async fn outbox_take(&self, limit: u32, lease: Duration) -> Result<Vec<OutboxRow>, JobError> {
        let query = sqlx::query(
            "WITH due AS (
                SELECT id FROM outbox
                 WHERE available_at <= acetate_now() AND (taken_until IS NULL OR taken_until <= acetate_now())
                   AND kind = ANY($3)
                 ORDER BY available_at, id LIMIT $1
                   FOR UPDATE SKIP LOCKED),
             taken AS (
                UPDATE outbox SET taken_until = acetate_now() + $2 WHERE id = ANY(ARRAY(SELECT id FROM due))
             RETURNING *)
             SELECT id AS message, job AS id, job, topic, kind, priority, available_at, created_at,
                    COALESCE(payload, of_job.request) AS payload,
                    COALESCE(taken.traceparent, of_job.traceparent) AS traceparent,
                    CASE WHEN taken.traceparent IS NULL THEN of_job.tracestate ELSE taken.tracestate END AS tracestate,
                    CASE WHEN topic <> 'dispatch' THEN
                        (SELECT traceparent FROM attempts WHERE attempts.job = taken.job ORDER BY epoch DESC LIMIT 1)
                    END AS attempt_traceparent
               FROM taken
               LEFT JOIN LATERAL (SELECT request, traceparent, tracestate FROM jobs WHERE jobs.id = taken.job LIMIT 1)
                    AS of_job ON TRUE
              ORDER BY taken.available_at, taken.id",
        )
        .bind(i64::from(limit))
        .bind(milliseconds(lease))
        // A newer version may have other kinds, and sends their messages itself.
        .bind(JobKind::ALL.map(JobKind::as_str).to_vec());
        self.all(query).await?.iter().map(read_outbox).collect()
    }

    pub async fn outbox_done(&self, ids: &[OutboxId]) -> Result<(), JobError> {
        if ids.is_empty() {
            return Ok(());
        }
        // The time of the dispatch is only a hint for the reaper. So it is not written if the row has nearly the same
        // time, which is the normal case, and rows that another transaction is changing are skipped.
        let query = sqlx::query(
            "WITH gone AS (DELETE FROM outbox WHERE id = ANY($1) RETURNING job, topic),
             sent AS (
                SELECT id FROM jobs
                 WHERE id = ANY(ARRAY(SELECT job FROM gone WHERE topic = 'dispatch'))
                   AND state || '' = 'queued' AND quiet_until < acetate_now() - $2
                   FOR UPDATE SKIP LOCKED)
             UPDATE jobs SET quiet_until = acetate_now() WHERE id = ANY(ARRAY(SELECT id FROM sent))",
        )
        .bind(numbers(ids))
        .bind(SOON);
        self.execute(query).await.map(drop)
    }

    pub async fn outbox_release(&self, ids: &[OutboxId], delay: Duration) -> Result<(), JobError> {
        if ids.is_empty() {
            return Ok(());
        }
        let query = sqlx::query(
            "UPDATE outbox SET taken_until = acetate_now(), available_at = acetate_now() + $2 WHERE id = ANY($1)",
        )
        .bind(numbers(ids))
        .bind(milliseconds(delay));
        self.execute(query).await.map(drop)
    }

    pub async fn reap(&self, grace: Duration) -> Result<u64, JobError> {
        if !self.service() {
            return Ok(0);
        }
        let query = sqlx::query(
            "WITH late AS (
                SELECT id, kind, priority FROM jobs
                 WHERE state = 'queued' AND quiet_until <= acetate_now() - $1
                 ORDER BY quiet_until LIMIT $2 FOR UPDATE SKIP LOCKED),
             dead AS (
                SELECT id, kind, priority FROM jobs
                 WHERE state = 'running' AND lease_until <= acetate_now() AND quiet_until <= acetate_now()
                 ORDER BY lease_until LIMIT $2 FOR UPDATE SKIP LOCKED),
             lost AS (SELECT * FROM late UNION ALL SELECT * FROM dead),
             noted AS (
                UPDATE jobs
                   SET quiet_until = CASE state WHEN 'queued' THEN 2 * acetate_now() - available_at
                                     ELSE acetate_now() + GREATEST($1, acetate_now() - lease_until) END
                 WHERE id = ANY(ARRAY(SELECT id FROM lost))),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, available_at, created_at)
                SELECT id, 'dispatch', kind, priority, acetate_now(), acetate_now() FROM lost
                ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING
             RETURNING 1)
             SELECT 1 FROM sent",
        )
        .bind(milliseconds(grace))
        .bind(REAPED_AT_ONCE);
        let lost = self.all(query).await?.len();
        if lost > 0 {
            self.signal.tell();
        }
        Ok(u64::try_from(lost).unwrap_or(u64::MAX))
    }
}

fn numbers(ids: &[OutboxId]) -> Vec<i64> {
    let mut numbers: Vec<i64> = ids.iter().map(|id| id.0).collect();
    // In this order, two relays that delete the same rows cannot deadlock.
    numbers.sort_unstable();
    numbers
}

//! The outbox, and jobs that seem lost.
//!
//! `id = ANY(ARRAY(...))` instead of a join, and `OFFSET 0` in `EXISTS`, keep the planner from reading whole tables
//! while it has no statistics; for `state || ''`, see the parent module.

use std::time::Duration;

use super::open::PostgresJobStore;
use crate::{
    database::{
        OutboxId, OutboxRow,
        dispatch::IN_BROKER,
        row_mapping::{Columns, is_of_known_kind, milliseconds, read_outbox},
    },
    job::{JobError, JobKind},
};

/// The maximum number of jobs in one round of the reaper; the next round continues.
const REAPED_AT_ONCE: i64 = 1000;

impl PostgresJobStore {
    pub async fn outbox_take(&self, limit: u32, lease: Duration) -> Result<Vec<OutboxRow>, JobError> {
        let (names, limits) = self.rules.named_limits();
        // A newer version may have other kinds, and sends their messages itself.
        let query = sqlx::query(
            "WITH due AS (
                SELECT id FROM outbox
                 WHERE topic <> 'dispatch' AND available_at <= acetate_now()
                   AND (taken_until IS NULL OR taken_until <= acetate_now()) AND kind = ANY($3)
                 ORDER BY available_at, id LIMIT $1
                   FOR UPDATE SKIP LOCKED),
             taken AS (
                UPDATE outbox SET taken_until = acetate_now() + $2 WHERE id = ANY(ARRAY(SELECT id FROM due))
             RETURNING *)
             SELECT message, id, job, topic, kind, priority, available_at, created_at, refusals,
                    COALESCE(payload, of_job.request) AS payload,
                    COALESCE(chosen.traceparent, of_job.traceparent) AS traceparent,
                    CASE WHEN chosen.traceparent IS NULL THEN of_job.tracestate ELSE chosen.tracestate END AS tracestate,
                    CASE WHEN topic <> 'dispatch' THEN
                        (SELECT traceparent FROM attempts WHERE attempts.job = chosen.job ORDER BY epoch DESC LIMIT 1)
                    END AS attempt_traceparent
               FROM (
                SELECT id AS message, job AS id, job, topic, kind, priority, available_at, created_at, payload,
                       traceparent, tracestate, refusals, 0 AS part, ROW_NUMBER() OVER (ORDER BY available_at, id) AS place
                  FROM taken
                UNION ALL
                SELECT message, id, job, topic, kind, priority, available_at, created_at, payload, NULL, NULL, 0, 1, place
                  FROM acetate_dispatch($3, $1, $2, $4, $5, $6, $7) WITH ORDINALITY AS next (
                       message, id, job, topic, kind, priority, available_at, created_at, payload, place)) AS chosen
               LEFT JOIN LATERAL (SELECT request, traceparent, tracestate FROM jobs WHERE jobs.id = chosen.job LIMIT 1)
                    AS of_job ON TRUE
              ORDER BY part, place",
        )
        .bind(i64::from(limit))
        .bind(milliseconds(lease))
        .bind(JobKind::ALL.map(JobKind::as_str).to_vec())
        .bind(self.rules.window_number())
        .bind(i64::from(self.rules.tenant_limit))
        .bind(names)
        .bind(limits);
        self.all(query).await?.iter().map(read_outbox).collect()
    }

    pub async fn outbox_done(&self, ids: &[OutboxId]) -> Result<(), JobError> {
        if ids.is_empty() {
            return Ok(());
        }
        let query = sqlx::query(
            "WITH told AS (DELETE FROM outbox WHERE id = ANY($1) AND topic <> 'dispatch')
             UPDATE outbox SET taken_until = $2, sent_at = acetate_now(), refusals = 0
              WHERE id = ANY($1) AND topic = 'dispatch'",
        )
        .bind(numbers(ids))
        .bind(IN_BROKER);
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

    pub async fn outbox_refused(&self, ids: &[OutboxId], again: Option<Duration>) -> Result<(), JobError> {
        if ids.is_empty() {
            return Ok(());
        }
        let query = match again {
            Some(pause) => sqlx::query(
                "UPDATE outbox SET refusals = refusals + 1, taken_until = acetate_now(), available_at = acetate_now() + $2
                  WHERE id = ANY($1)",
            )
            .bind(numbers(ids))
            .bind(milliseconds(pause)),
            None => sqlx::query("DELETE FROM outbox WHERE id = ANY($1) AND topic <> 'dispatch'").bind(numbers(ids)),
        };
        self.execute(query).await.map(drop)
    }

    pub async fn refused_events(&self) -> Result<u64, JobError> {
        let query = sqlx::query("SELECT COUNT(*) AS events FROM outbox WHERE topic <> 'dispatch' AND refusals > 0");
        self.one(query).await?.map_or(Ok(0), |row| row.small("events"))
    }

    pub async fn refused_jobs(&self) -> Result<Vec<(JobKind, u64)>, JobError> {
        let query = sqlx::query(
            "SELECT kind, COUNT(*) AS jobs FROM outbox
              WHERE topic = 'dispatch' AND refusals > 0 AND (taken_until IS NULL OR taken_until <= acetate_now())
              GROUP BY kind ORDER BY kind",
        );
        let rows = self.all(query).await?;
        rows.iter()
            .filter(|row| is_of_known_kind(*row))
            .map(|row| Ok((row.word("kind")?, row.small("jobs")?)))
            .collect()
    }

    pub async fn reap(&self, grace: Duration) -> Result<u64, JobError> {
        if !self.service() {
            return Ok(0);
        }
        let query = sqlx::query(
            "WITH late AS (
                SELECT id, kind, priority, tenant, batch FROM jobs
                 WHERE state = 'queued' AND quiet_until <= acetate_now() - $1
                   AND NOT EXISTS (
                       SELECT 1 FROM outbox
                        WHERE outbox.job = jobs.id AND topic || '' = 'dispatch' AND taken_until IS NOT NULL OFFSET 0)
                 ORDER BY quiet_until LIMIT $2 FOR UPDATE SKIP LOCKED),
             unheard AS (
                SELECT jobs.id, jobs.kind, jobs.priority, jobs.tenant, jobs.batch
                  FROM outbox AS sent JOIN jobs ON jobs.id = sent.job
                 WHERE sent.topic = 'dispatch' AND sent.taken_until = $3 AND sent.sent_at <= acetate_now() - $1
                   AND jobs.state || '' = 'queued' AND jobs.quiet_until <= acetate_now() - $1
                 ORDER BY sent.sent_at LIMIT $2 FOR UPDATE OF jobs SKIP LOCKED),
             dead AS (
                SELECT id, kind, priority, tenant, batch FROM jobs
                 WHERE state = 'running' AND lease_until <= acetate_now() AND quiet_until <= acetate_now()
                 ORDER BY lease_until LIMIT $2 FOR UPDATE SKIP LOCKED),
             -- A job that waits for its turn is not lost.
             lost AS (
                SELECT * FROM late
                 WHERE NOT EXISTS (
                       SELECT 1 FROM outbox
                        WHERE outbox.job = late.id AND topic || '' = 'dispatch' AND taken_until IS NULL OFFSET 0)
                UNION SELECT * FROM unheard
                UNION SELECT * FROM dead),
             noted AS (
                UPDATE jobs
                   SET quiet_until = CASE state
                           WHEN 'queued' THEN COALESCE(
                               (SELECT 3 * acetate_now() - 2 * MAX(sent_at) FROM outbox
                                 WHERE outbox.job = jobs.id AND topic || '' = 'dispatch' AND taken_until IS NOT NULL),
                               2 * acetate_now() - available_at)
                           ELSE acetate_now() + GREATEST($1, acetate_now() - lease_until) END
                 WHERE id = ANY(ARRAY(
                    SELECT id FROM late UNION SELECT id FROM unheard UNION SELECT id FROM dead))),
             forgotten AS (
                DELETE FROM outbox
                 WHERE job = ANY(ARRAY(SELECT id FROM lost)) AND topic = 'dispatch' AND taken_until = $3),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
                SELECT id, 'dispatch', kind, priority, COALESCE(tenant, ''), COALESCE(batch, ''), acetate_now(),
                       acetate_now()
                  FROM lost
                ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING
             RETURNING 1)
             SELECT 1 FROM sent",
        )
        .bind(milliseconds(grace))
        .bind(REAPED_AT_ONCE)
        .bind(IN_BROKER);
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

//! Cancels and requeues the jobs of a batch, some at a time.

use std::collections::HashSet;

use sqlx::{Postgres, QueryBuilder, postgres::PgRow};

use super::{
    actions::{noted, noted_head, noted_tail},
    open::PostgresJobStore,
    transition::ROUNDS,
};
use crate::{
    database::{
        Action, CancelId, ErrorCount, RetryRules, Subject, SweepCursor, Swept,
        row_mapping::{Columns, job_columns, readable, to_json},
        transitions::Transition,
    },
    job::{BatchId, ErrorRecord, JobError, JobId, JobState},
};

/// The number of rows in one step.
const CHUNK: u32 = 1000;

impl PostgresJobStore {
    pub async fn cancel_queued(
        &self,
        batch: &BatchId,
        cancel: CancelId,
        after: Option<SweepCursor>,
    ) -> Result<Swept, JobError> {
        let mut query = QueryBuilder::<Postgres>::new(concat!(
            "SELECT ",
            job_columns!(),
            ", acetate_now() AS now FROM jobs WHERE state = 'queued' AND batch = "
        ));
        query.push_bind(batch.as_str());
        push_cursor(&mut query, after);
        let mut rows = self.all(query.build()).await?;
        let next = SweepCursor::after(&rows, CHUNK)?;
        let mut jobs = Vec::with_capacity(rows.len());
        for _ in 0..ROUNDS {
            let missed = self.end_queued((batch, cancel), &rows, &mut jobs).await?;
            if missed.is_empty() {
                break;
            }
            // Others have changed them since they were read.
            let query = sqlx::query(concat!(
                "SELECT ",
                job_columns!(),
                ", acetate_now() AS now FROM jobs WHERE id = ANY($1) AND state || '' = 'queued' ORDER BY created_at, id"
            ));
            rows = self.all(query.bind(missed)).await?;
        }
        if !jobs.is_empty() {
            self.signal.tell();
        }
        Ok(Swept { jobs, next })
    }

    /// Asks the workers of running jobs that have not been asked yet.
    pub async fn cancel_running(&self, batch: &BatchId, cancel: CancelId) -> Result<u64, JobError> {
        let query = sqlx::query(concat!(
            "WITH asked AS (
                UPDATE jobs SET cancel_requested = TRUE, cancel_id = $3, updated_at = acetate_now()
                 WHERE id = ANY(ARRAY(
                    SELECT id FROM jobs WHERE batch = $1 AND state = 'running' AND NOT cancel_requested
                     ORDER BY created_at, id FOR UPDATE))
             RETURNING id), ",
            noted!("asked", "$2"),
            " SELECT COUNT(*) AS jobs FROM asked"
        ))
        .bind(batch.as_str())
        .bind(self.note(Action::Cancelled, Subject::Many(Some(batch))))
        .bind(cancel.to_string());
        let asked = self.one(query).await?.map_or(Ok(0), |row| row.small("jobs"))?;
        self.signal.tell();
        Ok(asked)
    }

    pub async fn stopping(&self, batch: &BatchId, cancel: CancelId) -> Result<u64, JobError> {
        let query = "SELECT COUNT(*) AS jobs FROM jobs WHERE batch = $1 AND state = 'running' AND cancel_id = $2";
        let query = sqlx::query(query).bind(batch.as_str()).bind(cancel.to_string());
        self.one(query).await?.map_or(Ok(0), |row| row.small("jobs"))
    }

    /// Cancels the rows that have not changed since they were read, and writes their messages. Returns the ids of the
    /// others.
    async fn end_queued(
        &self,
        (batch, cancel): (&BatchId, CancelId),
        rows: &[PgRow],
        jobs: &mut Vec<JobId>,
    ) -> Result<Vec<String>, JobError> {
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let now = first.number("now")?;
        let (mut ids, mut payloads) = (Vec::new(), Vec::<Option<String>>::new());
        let (mut epochs, mut claims, mut attempts) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows.iter().filter_map(readable) {
            let transition = Transition::end(row, JobState::Cancelled, &JobError::Cancelled, now, self.mode)?;
            ids.push(transition.row.id().to_string());
            epochs.push(transition.seen.fence.epoch.0);
            claims.push(transition.seen.fence.claim_text());
            attempts.push(i64::from(transition.seen.attempts));
            payloads.push(transition.event);
        }
        let query = sqlx::query(concat!(
            "WITH held AS (
                SELECT waiting.id, kind, priority, payload
                  FROM UNNEST($1::TEXT[], $2::BIGINT[], $3::TEXT[], $9::TEXT[], $10::BIGINT[])
                    AS turns (id, epoch, payload, claim, attempts)
                 CROSS JOIN LATERAL (
                    SELECT jobs.id, kind, priority FROM jobs
                     WHERE jobs.id = turns.id AND jobs.epoch = turns.epoch AND state || '' = 'queued'
                       AND jobs.claim IS NOT DISTINCT FROM turns.claim AND jobs.attempts = turns.attempts
                       FOR UPDATE) AS waiting),
             changed AS (
                UPDATE jobs SET state = 'cancelled', error = $4, available_at = $5, updated_at = $5, finished_at = $5,
                       cancel_id = $8
                 WHERE id = ANY(ARRAY(SELECT id FROM held)) RETURNING id, webhook, traceparent, tracestate),
             hooked AS (
                INSERT INTO webhooks (job, url, payload, available_at, created_at, traceparent, tracestate)
                SELECT changed.id, webhook, payload, $5, $5, traceparent, tracestate
                  FROM changed JOIN held ON held.id = changed.id WHERE webhook IS NOT NULL),
             unsent AS (
                DELETE FROM outbox WHERE id = ANY(ARRAY(
                    SELECT waiting.id FROM changed CROSS JOIN LATERAL (
                        SELECT outbox.id FROM outbox
                         WHERE outbox.job = changed.id AND topic || '' = 'dispatch' AND taken_until IS NULL
                           FOR UPDATE) AS waiting))),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, payload, available_at, created_at, traceparent, tracestate)
                SELECT held.id, 'job.cancelled', kind, priority, payload, $5, $5, traceparent, tracestate
                  FROM held JOIN changed ON changed.id = held.id WHERE $6), ",
            noted!("changed", "$7"),
            " SELECT id FROM changed"
        ))
        .bind(ids.clone())
        .bind(epochs)
        .bind(payloads)
        .bind(to_json(&ErrorRecord::from(&JobError::Cancelled))?)
        .bind(now)
        .bind(self.service())
        .bind(self.note(Action::Cancelled, Subject::Many(Some(batch))))
        .bind(cancel.to_string())
        .bind(claims)
        .bind(attempts);
        let mut ended = HashSet::new();
        for row in self.all(query).await? {
            jobs.push(row.word("id")?);
            ended.insert(row.text("id")?);
        }
        Ok(ids.into_iter().filter(|id| !ended.contains(id)).collect())
    }

    pub async fn retry_some(&self, rules: &RetryRules, after: Option<SweepCursor>) -> Result<Swept, JobError> {
        let mut query = QueryBuilder::<Postgres>::new(
            "WITH chosen AS (
                SELECT id, created_at FROM jobs WHERE batch = ",
        );
        query.push_bind(rules.batch.as_str()).push(" AND state = ANY(").push_bind(rules.states()).push(")");
        let beginnings = rules.beginnings();
        if !beginnings.is_empty() {
            query.push(" AND EXISTS (SELECT 1 FROM UNNEST(").push_bind(beginnings);
            query.push("::TEXT[]) AS wanted WHERE starts_with(error, wanted))");
        }
        if let Some(cancel) = rules.cancel {
            query.push(" AND cancel_id = ").push_bind(cancel.to_string());
        }
        push_cursor(&mut query, after);
        query.push(
            " FOR UPDATE),
             changed AS (
                UPDATE jobs
                   SET state = 'queued', attempts = 0, error = NULL, manifest = NULL, result_root = NULL,
                       outputs = NULL, caption = NULL, fidelity = NULL, content_key = NULL, reused_from = NULL,
                       cancel_id = NULL, available_at = acetate_now(), quiet_until = acetate_now(),
                       cancel_requested = FALSE, worker = NULL, lease_until = NULL, updated_at = acetate_now(),
                       finished_at = NULL
                 WHERE id = ANY(ARRAY(SELECT id FROM chosen))
             RETURNING id, created_at, kind, priority, tenant, batch),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
                SELECT id, 'dispatch', kind, priority, COALESCE(tenant, ''), COALESCE(batch, ''), acetate_now(),
                       acetate_now()
                  FROM changed WHERE ",
        );
        query.push_bind(self.service()).push(
            " ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL
                DO UPDATE SET available_at = EXCLUDED.available_at), ",
        );
        let note = self.note(Action::Retried, Subject::Many(Some(&rules.batch)));
        query.push(noted_head!("changed")).push_bind(note).push(noted_tail!());
        query.push(" SELECT id, created_at FROM changed ORDER BY created_at, id");
        let rows = self.all(query.build()).await?;
        if !rows.is_empty() {
            self.signal.tell();
        }
        let jobs = rows.iter().map(|row| row.word("id")).collect::<Result<_, _>>()?;
        // Rows that another process has just changed are missing, so that only an empty step is the last one.
        Ok(Swept { jobs, next: SweepCursor::of_last(&rows)? })
    }

    pub async fn error_counts(&self, batch: &BatchId) -> Result<Vec<ErrorCount>, JobError> {
        // For the text of an error, see `RetryRules::beginnings`.
        let query = sqlx::query(
            "SELECT state, split_part(COALESCE(error, ''), '\"', 4) AS code, COUNT(*) AS jobs FROM jobs
              WHERE batch = $1 AND state IN ('failed', 'cancelled') GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
        )
        .bind(batch.as_str());
        let count = |row: &_| {
            let row: &PgRow = row;
            Ok(ErrorCount { state: row.word("state")?, code: row.text("code")?, jobs: row.small("jobs")? })
        };
        self.all(query).await?.iter().map(count).collect()
    }
}

fn push_cursor(query: &mut QueryBuilder<Postgres>, after: Option<SweepCursor>) {
    if let Some(after) = after {
        query.push(" AND (created_at, id) > (").push_bind(after.created_at);
        query.push(", ").push_bind(after.id.to_string()).push(")");
    }
    query.push(" ORDER BY created_at, id LIMIT ").push_bind(i64::from(CHUNK));
}

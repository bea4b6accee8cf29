//! Many jobs under one name.

use sqlx::{Postgres, QueryBuilder};

use super::open::PostgresJobStore;
use crate::{
    database::{
        BatchSummary, JobRow,
        listing::summary,
        row_mapping::{Columns, job_columns, readable, to_json},
        transitions::Transition,
    },
    job::{BatchId, ErrorRecord, JobError, JobId, JobState},
};

/// The number of rows that are read and cancelled at a time.
const CHUNK: i64 = 500;

impl PostgresJobStore {
    pub async fn batch_summary(&self, batch: &BatchId) -> Result<Option<BatchSummary>, JobError> {
        let query = sqlx::query(
            "SELECT state, COUNT(*) AS jobs, MIN(created_at) AS first_created, MAX(finished_at) AS last_finished,
                    AVG(finished_at - started_at)::FLOAT8 AS mean_ms
               FROM jobs WHERE batch = $1 GROUP BY state ORDER BY state",
        )
        .bind(batch.as_str());
        summary(&self.all(query).await?)
    }

    pub async fn batches(&self, limit: u32) -> Result<Vec<BatchId>, JobError> {
        let query = sqlx::query(
            "SELECT batch, MAX(created_at) AS newest FROM jobs WHERE batch IS NOT NULL
              GROUP BY batch ORDER BY newest DESC LIMIT $1",
        )
        .bind(i64::from(limit));
        self.all(query).await?.iter().map(|row| row.word("batch")).collect()
    }

    pub async fn batch_rows(&self, batch: &BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<JobRow>, JobError> {
        let mut query = QueryBuilder::<Postgres>::new(concat!("SELECT ", job_columns!(), " FROM jobs WHERE batch = "));
        query.push_bind(batch.as_str());
        if let Some(after) = after {
            query.push(" AND (created_at, id) > ((SELECT created_at FROM jobs WHERE id = ");
            query.push_bind(after.to_string()).push("), ").push_bind(after.to_string()).push(")");
        }
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(i64::from(limit));
        Ok(self.all(query.build()).await?.iter().filter_map(readable).collect())
    }

    pub async fn cancel_batch(&self, batch: &BatchId) -> Result<u64, JobError> {
        let (mut cancelled, mut after) = (0, String::new());
        loop {
            let query = sqlx::query(concat!(
                "SELECT ",
                job_columns!(),
                ", acetate_now() AS now FROM jobs WHERE batch = $1 AND state = 'queued' AND id > $2 ORDER BY id LIMIT $3"
            ))
            .bind(batch.as_str())
            .bind(&after)
            .bind(CHUNK);
            let rows = self.all(query).await?;
            let Some(last) = rows.last() else { break };
            after = last.text("id")?;
            let now = last.number("now")?;
            cancelled += self.end_queued(rows.iter().filter_map(readable), now).await?;
        }
        // This includes jobs that a worker has just claimed.
        let query = sqlx::query(
            "UPDATE jobs SET cancel_requested = TRUE, updated_at = acetate_now()
              WHERE id IN (SELECT id FROM jobs WHERE batch = $1 AND state = 'running' ORDER BY id FOR UPDATE)",
        )
        .bind(batch.as_str());
        cancelled += self.execute(query).await?;
        self.signal.tell();
        Ok(cancelled)
    }

    /// Cancels the rows that have not changed since they were read, and writes their messages.
    async fn end_queued(&self, rows: impl Iterator<Item = JobRow>, now: i64) -> Result<u64, JobError> {
        let (mut ids, mut epochs, mut payloads) = (Vec::new(), Vec::new(), Vec::<Option<String>>::new());
        for row in rows {
            let turn = Transition::end(row, JobState::Cancelled, &JobError::Cancelled, now, self.mode)?;
            ids.push(turn.row.id().to_string());
            epochs.push(turn.seen.epoch.0);
            payloads.push(turn.event);
        }
        let query = sqlx::query(
            "WITH held AS (
                SELECT waiting.id, kind, priority, payload
                  FROM UNNEST($1::TEXT[], $2::BIGINT[], $3::TEXT[]) AS asked (id, epoch, payload)
                 CROSS JOIN LATERAL (
                    SELECT jobs.id, kind, priority FROM jobs
                     WHERE jobs.id = asked.id AND jobs.epoch = asked.epoch AND state || '' = 'queued'
                       FOR UPDATE) AS waiting),
             turned AS (
                UPDATE jobs SET state = 'cancelled', error = $4, available_at = $5, updated_at = $5, finished_at = $5
                 WHERE id = ANY(ARRAY(SELECT id FROM held)) RETURNING id, webhook),
             hooked AS (
                INSERT INTO webhooks (job, url, payload, available_at, created_at)
                SELECT turned.id, webhook, payload, $5, $5 FROM turned JOIN held ON held.id = turned.id
                 WHERE webhook IS NOT NULL),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, payload, available_at, created_at)
                SELECT id, 'job.cancelled', kind, priority, payload, $5, $5 FROM held WHERE $6)
             SELECT id FROM turned",
        )
        .bind(ids)
        .bind(epochs)
        .bind(payloads)
        .bind(to_json(&ErrorRecord::from(&JobError::Cancelled))?)
        .bind(now)
        .bind(self.service());
        Ok(u64::try_from(self.all(query).await?.len()).unwrap_or(u64::MAX))
    }
}

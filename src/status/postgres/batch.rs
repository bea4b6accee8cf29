//! Many jobs under one name.

use futures_util::{StreamExt, TryStreamExt, stream};
use sqlx::{Postgres, QueryBuilder};

use super::open::PostgresStatus;
use crate::{
    job::{BatchId, JobError, JobId, JobState},
    status::{
        BatchSummary, JobRow,
        columns::{Columns, job_columns, readable},
        decide::Turn,
        listing::summary,
    },
};

/// Rows that are read at once to be cancelled.
const CHUNK: i64 = 500;

/// Cancelled beside one another, so that they share the server's commits.
const AT_ONCE: usize = 4;

impl PostgresStatus {
    pub async fn batch_summary(&self, batch: &BatchId) -> Result<Option<BatchSummary>, JobError> {
        let query = sqlx::query(
            "SELECT state, COUNT(*) AS jobs, MIN(created_at) AS first_created, MAX(finished_at) AS last_finished,
                    AVG(finished_at - started_at)::FLOAT8 AS mean_ms
               FROM jobs WHERE batch = $1 GROUP BY state ORDER BY state",
        )
        .bind(batch.as_str());
        summary(&self.all(query).await?)
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
            cancelled += stream::iter(rows.iter().filter_map(readable))
                .map(|row| async move {
                    let turn = Turn::end(row, JobState::Cancelled, &JobError::Cancelled, now, self.mode)?;
                    self.write(&turn).await
                })
                .buffer_unordered(AT_ONCE)
                .try_fold(0, async |sum, written| Ok(sum + u64::from(written)))
                .await?;
        }
        // Among them those that a worker has claimed just now.
        let query = sqlx::query(
            "UPDATE jobs SET cancel_requested = TRUE, updated_at = acetate_now()
              WHERE id IN (SELECT id FROM jobs WHERE batch = $1 AND state = 'running' ORDER BY id FOR UPDATE)",
        )
        .bind(batch.as_str());
        cancelled += self.execute(query).await?;
        self.signal.tell();
        Ok(cancelled)
    }
}

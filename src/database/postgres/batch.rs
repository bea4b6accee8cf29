//! Many jobs under one name.

use sqlx::{Postgres, QueryBuilder};

use super::open::PostgresJobStore;
use crate::{
    database::{
        BatchSummary, JobRow,
        listing::summary,
        row_mapping::{Columns, job_columns, readable},
    },
    job::{BatchId, JobError, JobId},
};

/// The jobs that are of no row of their batch's dataset.
const OUTSIDE: &str =
    " AND NOT EXISTS (SELECT 1 FROM dataset_rows WHERE dataset_rows.job = jobs.id AND dataset_rows.batch = jobs.batch)";

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
        self.rows_of_batch(batch, "", after, limit).await
    }

    pub async fn batch_rows_outside(
        &self,
        batch: &BatchId,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobRow>, JobError> {
        self.rows_of_batch(batch, OUTSIDE, after, limit).await
    }

    async fn rows_of_batch(
        &self,
        batch: &BatchId,
        condition: &'static str,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobRow>, JobError> {
        let mut query = QueryBuilder::<Postgres>::new(concat!("SELECT ", job_columns!(), " FROM jobs WHERE batch = "));
        query.push_bind(batch.as_str()).push(condition);
        if let Some(after) = after {
            query.push(" AND (created_at, id) > ((SELECT created_at FROM jobs WHERE id = ");
            query.push_bind(after.to_string()).push("), ").push_bind(after.to_string()).push(")");
        }
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(i64::from(limit));
        Ok(self.all(query.build()).await?.iter().filter_map(readable).collect())
    }
}

//! The rows of datasets.
//!
//! The statement that records rows says `batch || ''`, `OFFSET 0` and `LATERAL`, so that the planner looks up each
//! job by an index, also while it has no statistics; otherwise every chunk of a submission reads the rows of all those
//! before it.

use sqlx::{Postgres, QueryBuilder};

use super::open::PostgresJobStore;
use crate::{
    database::{
        DatasetJob, DatasetRow,
        dataset::{dataset_columns, read_dataset_job},
        row_mapping::job_columns,
    },
    job::{BatchId, JobError, JobId},
};

impl PostgresJobStore {
    pub async fn record_dataset_rows(&self, batch: &BatchId, run: i64, rows: &[DatasetRow]) -> Result<(), JobError> {
        if rows.is_empty() {
            return Ok(());
        }
        let query = sqlx::query(
            "WITH new AS MATERIALIZED (
                SELECT number, job, meta FROM UNNEST($3::BIGINT[], $4::TEXT[], $5::TEXT[]) AS given (number, job, meta)
                 WHERE EXISTS (SELECT 1 FROM jobs WHERE jobs.id = given.job OFFSET 0)),
             old AS MATERIALIZED (
                SELECT ARRAY(
                    SELECT known.ctid FROM (SELECT DISTINCT job FROM new) AS jobs CROSS JOIN LATERAL (
                        SELECT dataset_rows.ctid, number, job FROM dataset_rows
                         WHERE dataset_rows.job = jobs.job AND batch || '' = $1 AND run <> $2 FOR UPDATE) AS known
                     WHERE (known.number, known.job) NOT IN (SELECT number, job FROM new)) AS places),
             replaced AS (
                DELETE FROM dataset_rows
                 WHERE (SELECT CARDINALITY(places) > 0 FROM old) AND ctid = ANY((SELECT places FROM old)::TID[]))
             INSERT INTO dataset_rows (batch, number, job, run, meta)
             SELECT $1, number, job, $2, meta FROM new
             ON CONFLICT (batch, number, job) DO UPDATE SET run = EXCLUDED.run, meta = EXCLUDED.meta",
        )
        .bind(batch.as_str())
        .bind(run)
        .bind(rows.iter().map(DatasetRow::signed_number).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.job.to_string()).collect::<Vec<_>>())
        .bind(rows.iter().map(DatasetRow::meta_json).collect::<Vec<_>>());
        self.execute(query).await.map(drop)
    }

    pub async fn dataset_jobs(
        &self,
        batch: &BatchId,
        after: Option<(u64, JobId)>,
        limit: u32,
    ) -> Result<Vec<DatasetJob>, JobError> {
        let mut query = QueryBuilder::<Postgres>::new(concat!(
            "SELECT ",
            dataset_columns!(),
            " FROM (SELECT number, job, meta FROM dataset_rows WHERE batch = "
        ));
        query.push_bind(batch.as_str());
        if let Some((number, job)) = after {
            query.push(" AND (number, job) > (").push_bind(i64::try_from(number).unwrap_or(i64::MAX));
            query.push(", ").push_bind(job.to_string()).push(")");
        }
        query.push(" ORDER BY number, job LIMIT ").push_bind(i64::from(limit));
        query.push(concat!(
            ") AS listed JOIN (SELECT ",
            job_columns!(),
            " FROM jobs) AS jobs ON jobs.id = listed.job ORDER BY listed.number, listed.job"
        ));
        self.all(query.build()).await?.iter().map(read_dataset_job).collect()
    }
}

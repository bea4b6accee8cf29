//! The rows of datasets.
//!
//! The statement that records rows says `OFFSET 0`, so that the planner looks up each job by an index, also while it
//! has no statistics; otherwise every chunk of a submission reads the rows of all those before it.

use sqlx::{Postgres, QueryBuilder};

use super::open::PostgresJobStore;
use crate::{
    database::{
        DatasetJob, DatasetPlace, DatasetRow, DatasetRun,
        dataset::{dataset_columns, read_dataset_job, signed},
        row_mapping::job_columns,
    },
    job::{BatchId, JobError},
};

impl PostgresJobStore {
    pub async fn record_dataset_rows(
        &self,
        batch: &BatchId,
        run: &DatasetRun,
        rows: &[DatasetRow],
    ) -> Result<(), JobError> {
        if rows.is_empty() {
            return Ok(());
        }
        let query = sqlx::query(
            "INSERT INTO dataset_rows (batch, number, job, source, run, meta)
             SELECT $1, number, job, $2, $3, meta
               FROM UNNEST($4::BIGINT[], $5::TEXT[], $6::TEXT[]) AS given (number, job, meta)
              WHERE EXISTS (SELECT 1 FROM jobs WHERE jobs.id = given.job OFFSET 0)
             ON CONFLICT (batch, number, job, source)
             DO UPDATE SET run = GREATEST(dataset_rows.run, EXCLUDED.run), meta = EXCLUDED.meta",
        )
        .bind(batch.as_str())
        .bind(&run.source)
        .bind(run.began)
        .bind(rows.iter().map(DatasetRow::signed_number).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.job.to_string()).collect::<Vec<_>>())
        .bind(rows.iter().map(DatasetRow::meta_json).collect::<Vec<_>>());
        self.execute(query).await.map(drop)
    }

    pub async fn drop_moved_rows(&self, batch: &BatchId, run: &DatasetRun, is_whole: bool) -> Result<(), JobError> {
        // In a CASE, the lists are hashed once; as conditions of their own they may be read for every row.
        let query = sqlx::query(
            "DELETE FROM dataset_rows
              WHERE batch = $1 AND source IN ($2, '') AND run < $3
                AND CASE WHEN job NOT IN (SELECT job FROM dataset_rows WHERE batch = $1 AND source = $2 AND run = $3)
                         THEN FALSE WHEN $4 THEN TRUE
                         ELSE number IN (SELECT number FROM dataset_rows WHERE batch = $1 AND source = $2 AND run = $3)
                    END",
        );
        let query = query.bind(batch.as_str()).bind(&run.source).bind(run.began).bind(is_whole);
        self.execute(query).await.map(drop)
    }

    pub async fn dataset_jobs(
        &self,
        batch: &BatchId,
        after: Option<&DatasetPlace>,
        limit: u32,
    ) -> Result<Vec<DatasetJob>, JobError> {
        let mut query = QueryBuilder::<Postgres>::new(concat!(
            "SELECT ",
            dataset_columns!(),
            " FROM (SELECT number, job, source, meta FROM dataset_rows WHERE batch = "
        ));
        query.push_bind(batch.as_str());
        if let Some(DatasetPlace { number, job, source }) = after {
            query.push(" AND (number, job, source) > (").push_bind(signed(*number));
            query.push(", ").push_bind(job.to_string()).push(", ").push_bind(source.clone()).push(")");
        }
        query.push(" ORDER BY number, job, source LIMIT ").push_bind(i64::from(limit));
        query.push(concat!(
            ") AS listed JOIN (SELECT ",
            job_columns!(),
            " FROM jobs) AS jobs ON jobs.id = listed.job ORDER BY listed.number, listed.job, listed.source"
        ));
        self.all(query.build()).await?.iter().map(read_dataset_job).collect()
    }
}

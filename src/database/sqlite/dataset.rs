//! The rows of datasets.

use sqlx::{QueryBuilder, Sqlite};

use super::open::{SqliteJobStore, database};
use crate::{
    database::{
        DatasetJob, DatasetRow,
        dataset::{dataset_columns, read_dataset_job},
        row_mapping::{job_columns, to_json},
    },
    job::{BatchId, JobError, JobId},
};

impl SqliteJobStore {
    pub async fn record_dataset_rows(&self, batch: &BatchId, run: i64, rows: &[DatasetRow]) -> Result<(), JobError> {
        if rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<JobId> = rows.iter().map(|row| row.job).collect();
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(database)?;
        sqlx::query(
            "DELETE FROM dataset_rows
              WHERE batch = ?1 AND run <> ?2 AND job IN (SELECT value FROM json_each(?3))",
        )
        .bind(batch.as_str())
        .bind(run)
        .bind(to_json(&ids)?)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        for row in rows {
            sqlx::query(
                "INSERT INTO dataset_rows (batch, number, job, run, meta)
                 SELECT ?1, ?2, id, ?4, ?5 FROM jobs WHERE id = ?3
                 ON CONFLICT (batch, number, job) DO UPDATE SET run = excluded.run, meta = excluded.meta",
            )
            .bind(batch.as_str())
            .bind(row.signed_number())
            .bind(row.job.to_string())
            .bind(run)
            .bind(row.meta_json())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        }
        tx.commit().await.map_err(database)
    }

    pub async fn dataset_jobs(
        &self,
        batch: &BatchId,
        after: Option<(u64, JobId)>,
        limit: u32,
    ) -> Result<Vec<DatasetJob>, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new(concat!(
            "SELECT ",
            dataset_columns!(),
            " FROM (SELECT number, job, meta FROM dataset_rows WHERE batch = "
        ));
        query.push_bind(batch.as_str());
        if let Some((number, job)) = after {
            query.push(" AND (number, job) > (").push_bind(i64::try_from(number).unwrap_or(i64::MAX));
            query.push(", ").push_bind(job.to_string()).push(")");
        }
        query.push(" ORDER BY number, job LIMIT ").push_bind(limit);
        query.push(concat!(
            ") AS listed JOIN (SELECT ",
            job_columns!(),
            " FROM jobs) AS jobs ON jobs.id = listed.job ORDER BY listed.number, listed.job"
        ));
        let rows = query.build().fetch_all(&self.readers).await.map_err(database)?;
        rows.iter().map(read_dataset_job).collect()
    }
}

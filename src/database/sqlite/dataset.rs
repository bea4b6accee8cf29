//! The rows of datasets.

use sqlx::{QueryBuilder, Sqlite};

use super::open::{SqliteJobStore, database};
use crate::{
    database::{
        DatasetJob, DatasetPlace, DatasetRow, DatasetRun,
        dataset::{dataset_columns, read_dataset_job, signed},
        row_mapping::job_columns,
    },
    job::{BatchId, JobError},
};

impl SqliteJobStore {
    pub async fn record_dataset_rows(
        &self,
        batch: &BatchId,
        run: &DatasetRun,
        rows: &[DatasetRow],
    ) -> Result<(), JobError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(database)?;
        for row in rows {
            sqlx::query(
                "INSERT INTO dataset_rows (batch, number, job, source, run, meta)
                 SELECT ?1, ?2, id, ?4, ?5, ?6 FROM jobs WHERE id = ?3
                 ON CONFLICT (batch, number, job, source)
                 DO UPDATE SET run = MAX(run, excluded.run), meta = excluded.meta",
            )
            .bind(batch.as_str())
            .bind(row.signed_number())
            .bind(row.job.to_string())
            .bind(&run.source)
            .bind(run.began)
            .bind(row.meta_json())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        }
        tx.commit().await.map_err(database)
    }

    pub async fn drop_moved_rows(&self, batch: &BatchId, run: &DatasetRun, is_whole: bool) -> Result<(), JobError> {
        let query = sqlx::query(
            "DELETE FROM dataset_rows
              WHERE batch = ?1 AND source IN (?2, '') AND run < ?3
                AND job IN (SELECT job FROM dataset_rows WHERE batch = ?1 AND source = ?2 AND run = ?3)
                AND (?4 OR number IN (SELECT number FROM dataset_rows WHERE batch = ?1 AND source = ?2 AND run = ?3))",
        );
        let query = query.bind(batch.as_str()).bind(&run.source).bind(run.began).bind(is_whole);
        query.execute(&self.writer).await.map(drop).map_err(database)
    }

    pub async fn dataset_jobs(
        &self,
        batch: &BatchId,
        after: Option<&DatasetPlace>,
        limit: u32,
    ) -> Result<Vec<DatasetJob>, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new(concat!(
            "SELECT ",
            dataset_columns!(),
            " FROM (SELECT number, job, source, meta FROM dataset_rows WHERE batch = "
        ));
        query.push_bind(batch.as_str());
        if let Some(DatasetPlace { number, job, source }) = after {
            query.push(" AND (number, job, source) > (").push_bind(signed(*number));
            query.push(", ").push_bind(job.to_string()).push(", ").push_bind(source.clone()).push(")");
        }
        query.push(" ORDER BY number, job, source LIMIT ").push_bind(limit);
        query.push(concat!(
            ") AS listed JOIN (SELECT ",
            job_columns!(),
            " FROM jobs) AS jobs ON jobs.id = listed.job ORDER BY listed.number, listed.job, listed.source"
        ));
        let rows = query.build().fetch_all(&self.readers).await.map_err(database)?;
        rows.iter().map(read_dataset_job).collect()
    }
}

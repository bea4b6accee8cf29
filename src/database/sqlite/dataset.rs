//! The rows of datasets.

use serde_json::json;
use sqlx::{QueryBuilder, Sqlite};

use super::open::{SqliteJobStore, database};
use crate::{
    database::{
        DatasetJob, DatasetRow, DatasetRun, SourceOverlap,
        dataset::{
            DELETED, KINDS, OVERLAPS, SOURCES, dataset_columns, read_dataset_job, read_dataset_row, read_overlap,
            signed,
        },
        row_mapping::{Columns, job_columns},
    },
    job::{BatchId, JobError, JobId, JobKind},
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
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO dataset_sources (batch, source, position)
             SELECT ?1, ?2, COALESCE(MAX(position), 0) + 1 FROM dataset_sources WHERE batch = ?1
             ON CONFLICT (batch, source) DO UPDATE SET position = excluded.position
              WHERE NOT EXISTS (SELECT 1 FROM dataset_rows WHERE batch = ?1 AND source = ?2)",
        )
        .bind(batch.as_str())
        .bind(&run.source)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
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
        query.execute(self.writer()?).await.map(drop).map_err(database)
    }

    pub async fn dataset_sources(&self, batch: &BatchId) -> Result<Vec<String>, JobError> {
        let query = sqlx::query(SOURCES).bind(batch.as_str());
        let rows = query.fetch_all(&self.readers).await.map_err(database)?;
        rows.iter().map(|row| row.text("source")).collect()
    }

    pub async fn source_jobs(
        &self,
        batch: &BatchId,
        source: &str,
        earlier: &[String],
        after: Option<(u64, JobId)>,
        limit: u32,
    ) -> Result<Vec<DatasetJob>, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new(concat!(
            "SELECT ",
            dataset_columns!(),
            " FROM (SELECT number, job, meta,
                           (SELECT COUNT(*) FROM dataset_rows AS other
                             WHERE other.batch = own.batch AND other.number = own.number AND other.job = own.job
                               AND other.source IN (SELECT value FROM json_each("
        ));
        query.push_bind(json!(earlier).to_string()).push("))) AS nth");
        push_rows(&mut query, batch, source, after, limit);
        query.push(concat!(
            ") AS listed JOIN (SELECT ",
            job_columns!(),
            " FROM jobs) AS jobs ON jobs.id = listed.job ORDER BY listed.number, listed.job"
        ));
        let rows = query.build().fetch_all(&self.readers).await.map_err(database)?;
        rows.iter().map(read_dataset_job).collect()
    }

    pub async fn source_rows(
        &self,
        batch: &BatchId,
        source: &str,
        after: Option<(u64, JobId)>,
        limit: u32,
    ) -> Result<Vec<DatasetRow>, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT number, job, meta");
        push_rows(&mut query, batch, source, after, limit);
        let rows = query.build().fetch_all(&self.readers).await.map_err(database)?;
        rows.iter().map(read_dataset_row).collect()
    }

    pub async fn source_overlaps(&self, batch: &BatchId, source: &str) -> Result<Vec<SourceOverlap>, JobError> {
        let query = sqlx::query(OVERLAPS).bind(batch.as_str()).bind(source);
        let rows = query.fetch_all(&self.readers).await.map_err(database)?;
        rows.iter().map(read_overlap).collect()
    }

    pub async fn merge_source(&self, batch: &BatchId, gone: &str, into: &str) -> Result<(), JobError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE dataset_sources AS known
                SET position = MIN(known.position, gone.position)
               FROM dataset_sources AS gone
              WHERE known.batch = ?1 AND known.source = ?3 AND gone.batch = ?1 AND gone.source = ?2",
        )
        .bind(batch.as_str())
        .bind(gone)
        .bind(into)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        for sql in [
            "DELETE FROM dataset_sources WHERE batch = ?1 AND source = ?2",
            "DELETE FROM dataset_rows WHERE batch = ?1 AND source = ?2",
        ] {
            sqlx::query(sql).bind(batch.as_str()).bind(gone).execute(&mut *tx).await.map_err(database)?;
        }
        tx.commit().await.map_err(database)
    }

    pub async fn deleted_rows(&self, batch: &BatchId) -> Result<u64, JobError> {
        let row = sqlx::query(DELETED).bind(batch.as_str()).fetch_one(&self.readers).await.map_err(database)?;
        row.small("gone")
    }

    pub async fn batch_kinds(&self, batch: &BatchId) -> Result<Vec<JobKind>, JobError> {
        let rows = sqlx::query(KINDS).bind(batch.as_str()).fetch_all(&self.readers).await.map_err(database)?;
        Ok(rows.iter().filter_map(|row| row.word("kind").ok()).collect())
    }
}

/// The rows of a source as `own`, after a given one, in their order.
fn push_rows(query: &mut QueryBuilder<Sqlite>, batch: &BatchId, source: &str, after: Option<(u64, JobId)>, limit: u32) {
    query.push(" FROM dataset_rows AS own WHERE batch = ").push_bind(batch.to_string());
    query.push(" AND source = ").push_bind(source.to_owned());
    if let Some((number, job)) = after {
        query.push(" AND (number, job) > (").push_bind(signed(number));
        query.push(", ").push_bind(job.to_string()).push(")");
    }
    query.push(" ORDER BY number, job LIMIT ").push_bind(limit);
}

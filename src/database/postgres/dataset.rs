//! The rows of datasets.
//!
//! The statement that records rows says `OFFSET 0`, so that the planner looks up each job by an index, also while it
//! has no statistics; otherwise every chunk of a submission reads the rows of all those before it.

use sqlx::{Postgres, QueryBuilder};

use super::open::PostgresJobStore;
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
            "WITH known AS (
                INSERT INTO dataset_sources (batch, source, position)
                SELECT $1, $2, COALESCE(MAX(position), 0) + 1 FROM dataset_sources WHERE batch = $1
                ON CONFLICT (batch, source) DO UPDATE SET position = EXCLUDED.position
                 WHERE NOT EXISTS (SELECT 1 FROM dataset_rows WHERE batch = $1 AND source = $2))
             INSERT INTO dataset_rows (batch, number, job, source, run, meta)
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

    pub async fn dataset_sources(&self, batch: &BatchId) -> Result<Vec<String>, JobError> {
        let rows = self.all(sqlx::query(SOURCES).bind(batch.as_str())).await?;
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
        let mut query =
            QueryBuilder::<Postgres>::new(concat!("SELECT ", dataset_columns!(), " FROM (SELECT number, job, meta, "));
        if earlier.is_empty() {
            query.push("0::BIGINT");
        } else {
            query.push(
                "(SELECT COUNT(*) FROM dataset_rows AS other
                   WHERE other.batch = own.batch AND other.number = own.number AND other.job = own.job
                     AND other.source = ANY(",
            );
            query.push_bind(earlier.to_vec()).push("))");
        }
        query.push(" AS nth");
        push_rows(&mut query, batch, source, after, limit);
        query.push(concat!(
            ") AS listed JOIN (SELECT ",
            job_columns!(),
            " FROM jobs) AS jobs ON jobs.id = listed.job ORDER BY listed.number, listed.job"
        ));
        self.all(query.build()).await?.iter().map(read_dataset_job).collect()
    }

    pub async fn source_rows(
        &self,
        batch: &BatchId,
        source: &str,
        after: Option<(u64, JobId)>,
        limit: u32,
    ) -> Result<Vec<DatasetRow>, JobError> {
        let mut query = QueryBuilder::<Postgres>::new("SELECT number, job, meta");
        push_rows(&mut query, batch, source, after, limit);
        self.all(query.build()).await?.iter().map(read_dataset_row).collect()
    }

    pub async fn source_overlaps(&self, batch: &BatchId, source: &str) -> Result<Vec<SourceOverlap>, JobError> {
        let rows = self.all(sqlx::query(OVERLAPS).bind(batch.as_str()).bind(source)).await?;
        rows.iter().map(read_overlap).collect()
    }

    pub async fn merge_source(&self, batch: &BatchId, gone: &str, into: &str) -> Result<(), JobError> {
        let query = sqlx::query(
            "WITH before AS (DELETE FROM dataset_sources WHERE batch = $1 AND source = $2 RETURNING position),
                  moved AS (UPDATE dataset_sources SET position = LEAST(dataset_sources.position, before.position)
                              FROM before WHERE batch = $1 AND source = $3)
             DELETE FROM dataset_rows WHERE batch = $1 AND source = $2",
        );
        self.execute(query.bind(batch.as_str()).bind(gone).bind(into)).await.map(drop)
    }

    pub async fn deleted_rows(&self, batch: &BatchId) -> Result<u64, JobError> {
        let row = self.one(sqlx::query(DELETED).bind(batch.as_str())).await?;
        row.map_or(Ok(0), |row| row.small("gone"))
    }

    pub async fn batch_kinds(&self, batch: &BatchId) -> Result<Vec<JobKind>, JobError> {
        let rows = self.all(sqlx::query(KINDS).bind(batch.as_str())).await?;
        Ok(rows.iter().filter_map(|row| row.word("kind").ok()).collect())
    }
}

/// The rows of a source as `own`, after a given one, in their order.
fn push_rows(
    query: &mut QueryBuilder<Postgres>,
    batch: &BatchId,
    source: &str,
    after: Option<(u64, JobId)>,
    limit: u32,
) {
    query.push(" FROM dataset_rows AS own WHERE batch = ").push_bind(batch.to_string());
    query.push(" AND source = ").push_bind(source.to_owned());
    if let Some((number, job)) = after {
        query.push(" AND (number, job) > (").push_bind(signed(number));
        query.push(", ").push_bind(job.to_string()).push(")");
    }
    query.push(" ORDER BY number, job LIMIT ").push_bind(i64::from(limit));
}

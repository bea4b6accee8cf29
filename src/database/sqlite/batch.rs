//! Many jobs under one name.

use sqlx::{QueryBuilder, Sqlite};

use super::{
    open::{SqliteJobStore, database, now_ms},
    transition::write,
};
use crate::{
    database::{
        BatchSummary, JobRow,
        listing::summary,
        row_mapping::{Columns, job_columns, readable},
        transitions::Transition,
    },
    job::{BatchId, JobError, JobId, JobState},
};

/// How many jobs are cancelled in one transaction, so that workers get a turn in between.
const CHUNK: i64 = 500;

impl SqliteJobStore {
    pub async fn batch_summary(&self, batch: &BatchId) -> Result<Option<BatchSummary>, JobError> {
        let rows = sqlx::query(
            "SELECT state, COUNT(*) AS jobs, MIN(created_at) AS first_created, MAX(finished_at) AS last_finished,
                    AVG(finished_at - started_at) AS mean_ms
               FROM jobs WHERE batch = ? GROUP BY state ORDER BY state",
        )
        .bind(batch.as_str())
        .fetch_all(&self.readers)
        .await
        .map_err(database)?;
        summary(&rows)
    }

    pub async fn batches(&self, limit: u32) -> Result<Vec<BatchId>, JobError> {
        let rows = sqlx::query(
            "SELECT batch, MAX(created_at) AS newest FROM jobs WHERE batch IS NOT NULL
              GROUP BY batch ORDER BY newest DESC LIMIT ?",
        )
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(database)?;
        rows.iter().map(|row| row.word("batch")).collect()
    }

    pub async fn batch_rows(&self, batch: &BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<JobRow>, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new(concat!("SELECT ", job_columns!(), " FROM jobs WHERE batch = "));
        query.push_bind(batch.as_str());
        if let Some(after) = after {
            query.push(" AND (created_at, id) > ((SELECT created_at FROM jobs WHERE id = ");
            query.push_bind(after.to_string()).push("), ").push_bind(after.to_string()).push(")");
        }
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(limit);
        let rows = query.build().fetch_all(&self.readers).await.map_err(database)?;
        Ok(rows.iter().filter_map(readable).collect())
    }

    pub async fn cancel_batch(&self, batch: &BatchId) -> Result<u64, JobError> {
        let (mut cancelled, mut after) = (0, String::new());
        loop {
            let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(database)?;
            let rows = sqlx::query(concat!(
                "SELECT ",
                job_columns!(),
                " FROM jobs WHERE batch = ? AND state = 'queued' AND id > ? ORDER BY id LIMIT ?"
            ))
            .bind(batch.as_str())
            .bind(&after)
            .bind(CHUNK)
            .fetch_all(&mut *tx)
            .await
            .map_err(database)?;
            let Some(last) = rows.last() else { break };
            after = last.text("id")?;
            for row in rows.iter().filter_map(readable) {
                let turn = Transition::end(row, JobState::Cancelled, &JobError::Cancelled, now_ms(), self.mode)?;
                write(&mut tx, &turn).await?;
                cancelled += 1;
            }
            tx.commit().await.map_err(database)?;
        }
        let told =
            sqlx::query("UPDATE jobs SET cancel_requested = 1, updated_at = ?2 WHERE batch = ?1 AND state = 'running'")
                .bind(batch.as_str())
                .bind(now_ms())
                .execute(&self.writer)
                .await
                .map_err(database)?;
        self.signal.tell();
        Ok(cancelled + told.rows_affected())
    }
}

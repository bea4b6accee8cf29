//! Cancels and requeues the jobs of a batch, some at a time.

use sqlx::{QueryBuilder, Sqlite};

use super::{
    actions::write_note,
    open::{SqliteJobStore, database, now_ms},
    transition::write,
};
use crate::{
    database::{
        Action, CancelId, ErrorCount, OutboxMode, RetryRules, Subject, SweepCursor, Swept,
        row_mapping::{Columns, job_columns, readable, to_json},
        transitions::Transition,
    },
    job::{BatchId, JobError, JobId, JobState},
};

/// The number of rows in one transaction, so that workers get a turn in between.
const CHUNK: u32 = 1000;

impl SqliteJobStore {
    pub async fn cancel_queued(
        &self,
        batch: &BatchId,
        cancel: CancelId,
        after: Option<SweepCursor>,
    ) -> Result<Swept, JobError> {
        let mut tx = self.begin().await?;
        let mut query = QueryBuilder::<Sqlite>::new(concat!(
            "SELECT ",
            job_columns!(),
            " FROM jobs WHERE state = 'queued' AND batch = "
        ));
        query.push_bind(batch.as_str());
        push_cursor(&mut query, after);
        let rows = query.build().fetch_all(&mut *tx).await.map_err(database)?;
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows.iter().filter_map(readable) {
            let transition = Transition::end(row, JobState::Cancelled, &JobError::Cancelled, now_ms(), self.mode)?;
            write(&mut tx, &transition).await?;
            jobs.push(transition.row.id());
        }
        let ids = to_json(&jobs)?;
        sqlx::query(
            "DELETE FROM outbox
              WHERE topic = 'dispatch' AND taken_until IS NULL AND job IN (SELECT value FROM json_each(?))",
        )
        .bind(&ids)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        sqlx::query("UPDATE jobs SET cancel_id = ?2 WHERE id IN (SELECT value FROM json_each(?1))")
            .bind(&ids)
            .bind(cancel.to_string())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        let note = self.note(Action::Cancelled, Subject::Many(Some(batch)));
        write_note(&mut tx, note, u64::try_from(jobs.len()).unwrap_or(u64::MAX)).await?;
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(Swept { jobs, next: SweepCursor::after(&rows, CHUNK)? })
    }

    /// Asks the workers of running jobs that have not been asked yet.
    pub async fn cancel_running(&self, batch: &BatchId, cancel: CancelId) -> Result<u64, JobError> {
        let mut tx = self.begin().await?;
        let asked = sqlx::query(
            "UPDATE jobs SET cancel_requested = 1, cancel_id = ?3, updated_at = ?2
              WHERE batch = ?1 AND state = 'running' AND NOT cancel_requested",
        )
        .bind(batch.as_str())
        .bind(now_ms())
        .bind(cancel.to_string())
        .execute(&mut *tx)
        .await
        .map_err(database)?
        .rows_affected();
        write_note(&mut tx, self.note(Action::Cancelled, Subject::Many(Some(batch))), asked).await?;
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(asked)
    }

    pub async fn stopping(&self, batch: &BatchId, cancel: CancelId) -> Result<u64, JobError> {
        let query = "SELECT COUNT(*) AS jobs FROM jobs WHERE batch = ? AND state = 'running' AND cancel_id = ?";
        let query = sqlx::query(query).bind(batch.as_str()).bind(cancel.to_string());
        query.fetch_one(&self.readers).await.map_err(database)?.small("jobs")
    }

    pub async fn retry_some(&self, rules: &RetryRules, after: Option<SweepCursor>) -> Result<Swept, JobError> {
        let mut tx = self.begin().await?;
        let mut query = QueryBuilder::<Sqlite>::new("SELECT id, created_at FROM jobs WHERE batch = ");
        query.push_bind(rules.batch.as_str()).push(" AND state IN (SELECT value FROM json_each(");
        query.push_bind(to_json(&rules.states())?).push("))");
        let beginnings = rules.beginnings();
        if !beginnings.is_empty() {
            query.push(" AND EXISTS (SELECT 1 FROM json_each(").push_bind(to_json(&beginnings)?);
            query.push(") AS wanted WHERE substr(error, 1, length(wanted.value)) = wanted.value)");
        }
        if let Some(cancel) = rules.cancel {
            query.push(" AND cancel_id = ").push_bind(cancel.to_string());
        }
        push_cursor(&mut query, after);
        let rows = query.build().fetch_all(&mut *tx).await.map_err(database)?;
        let jobs = rows.iter().map(|row| row.word("id")).collect::<Result<Vec<JobId>, _>>()?;
        let (ids, now) = (to_json(&jobs)?, now_ms());
        sqlx::query(
            "UPDATE jobs
                SET state = 'queued', attempts = 0, error = NULL, manifest = NULL, result_root = NULL, outputs = NULL,
                    caption = NULL, fidelity = NULL, content_key = NULL, reused_from = NULL, cancel_id = NULL,
                    available_at = ?2, quiet_until = ?2, cancel_requested = 0, worker = NULL, lease_until = NULL,
                    updated_at = ?2, finished_at = NULL
              WHERE id IN (SELECT value FROM json_each(?1))",
        )
        .bind(&ids)
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        if self.mode == OutboxMode::Service {
            sqlx::query(
                "INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
                 SELECT id, 'dispatch', kind, priority, IFNULL(tenant, ''), IFNULL(batch, ''), ?2, ?2 FROM jobs
                  WHERE id IN (SELECT value FROM json_each(?1))
                 ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL
                 DO UPDATE SET available_at = excluded.available_at",
            )
            .bind(&ids)
            .bind(now)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
        }
        let note = self.note(Action::Retried, Subject::Many(Some(&rules.batch)));
        write_note(&mut tx, note, u64::try_from(jobs.len()).unwrap_or(u64::MAX)).await?;
        tx.commit().await.map_err(database)?;
        if !jobs.is_empty() {
            self.signal.tell();
        }
        Ok(Swept { jobs, next: SweepCursor::after(&rows, CHUNK)? })
    }

    pub async fn error_counts(&self, batch: &BatchId) -> Result<Vec<ErrorCount>, JobError> {
        let rows = sqlx::query(
            "SELECT state, COALESCE(json_extract(error, '$.code'), '') AS code, COUNT(*) AS jobs FROM jobs
              WHERE batch = ? AND state IN ('failed', 'cancelled') GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2",
        )
        .bind(batch.as_str())
        .fetch_all(&self.readers)
        .await
        .map_err(database)?;
        rows.iter()
            .map(|row| Ok(ErrorCount { state: row.word("state")?, code: row.text("code")?, jobs: row.small("jobs")? }))
            .collect()
    }
}

fn push_cursor(query: &mut QueryBuilder<Sqlite>, after: Option<SweepCursor>) {
    if let Some(after) = after {
        query.push(" AND (created_at, id) > (").push_bind(after.created_at);
        query.push(", ").push_bind(after.id.to_string()).push(")");
    }
    query.push(" ORDER BY created_at, id LIMIT ").push_bind(CHUNK);
}

//! The ids of deleted jobs.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::SqliteConnection;

use super::{
    actions::write_note,
    open::{SqliteJobStore, database, now_ms},
    submit::submit_in,
};
use crate::{
    database::{
        Action, Admission, Subject, SubmitOptions, Submitted,
        row_mapping::{Columns, milliseconds},
    },
    job::{JobError, JobId, JobRequest},
};

/// The number of tombstones deleted by one statement, so that others get a turn.
const CHUNK: i64 = 5000;

impl SqliteJobStore {
    pub async fn submit_message(&self, request: &JobRequest, options: &SubmitOptions) -> Result<Admission, JobError> {
        let mut tx = self.begin().await?;
        let there = sqlx::query("SELECT id FROM jobs WHERE id = ?").bind(request.id.to_string());
        if there.fetch_optional(&mut *tx).await.map_err(database)?.is_none()
            && let Some(at) = deleted_at(&mut tx, request.id).await?
        {
            return Ok(Admission::Deleted(at));
        }
        if let Submitted::New(_) = submit_in(&mut tx, request, options, self.mode).await? {
            let note = self.note(Action::Submitted, Subject::Job(request.id, options.batch.as_ref()));
            write_note(&mut tx, note, 1).await?;
        }
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(Admission::Job)
    }

    pub async fn deleted_at(&self, id: JobId) -> Result<Option<Timestamp>, JobError> {
        let mut reader = self.readers.acquire().await.map_err(database)?;
        deleted_at(&mut reader, id).await
    }

    pub async fn forget_tombstones(&self, older_than: Duration) -> Result<u64, JobError> {
        let before = now_ms().saturating_sub(milliseconds(older_than));
        let mut forgotten = 0;
        loop {
            let gone = sqlx::query(
                "DELETE FROM tombstones
                  WHERE id IN (SELECT id FROM tombstones WHERE deleted_at < ? ORDER BY deleted_at LIMIT ?)",
            )
            .bind(before)
            .bind(CHUNK)
            .execute(self.writer()?)
            .await
            .map_err(database)?
            .rows_affected();
            forgotten += gone;
            if gone < CHUNK.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }
}

async fn deleted_at(connection: &mut SqliteConnection, id: JobId) -> Result<Option<Timestamp>, JobError> {
    let row = sqlx::query("SELECT id, deleted_at FROM tombstones WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await
        .map_err(database)?;
    row.map(|row| row.time("deleted_at")).transpose()
}

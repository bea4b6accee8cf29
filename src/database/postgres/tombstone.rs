//! The ids of deleted jobs.

use std::time::Duration;

use jiff::Timestamp;

use super::{open::PostgresJobStore, submit::vanished};
use crate::{
    database::{
        Action, Admission, Subject, SubmitOptions,
        row_mapping::{Columns, milliseconds},
        transitions::check_same,
    },
    job::{JobError, JobId, JobRequest},
};

/// The number of tombstones deleted by one statement.
const CHUNK: i64 = 5000;

impl PostgresJobStore {
    pub async fn submit_message(&self, request: &JobRequest, options: &SubmitOptions) -> Result<Admission, JobError> {
        let one = (request, request.to_json());
        let note = self.note(Action::Submitted, Subject::Job(request.id, options.batch.as_ref()));
        if !self.insert(&[&one], options, true, note).await?.is_empty() {
            self.signal.tell();
            return Ok(Admission::Job);
        }
        if let Some(known) = self.get(request.id).await? {
            check_same(&known.request, request)?;
            return Ok(Admission::Job);
        }
        match self.deleted_at(request.id).await? {
            Some(at) => Ok(Admission::Deleted(at)),
            None => Err(vanished(request.id)),
        }
    }

    pub async fn deleted_at(&self, id: JobId) -> Result<Option<Timestamp>, JobError> {
        let query = sqlx::query("SELECT id, deleted_at FROM tombstones WHERE id = $1").bind(id.to_string());
        self.one(query).await?.map(|row| row.time("deleted_at")).transpose()
    }

    pub async fn forget_tombstones(&self, older_than: Duration) -> Result<u64, JobError> {
        let mut forgotten = 0;
        loop {
            // Another worker may be doing the same.
            let query = sqlx::query(
                "DELETE FROM tombstones WHERE id = ANY(ARRAY(
                    SELECT id FROM tombstones WHERE deleted_at < acetate_now() - $1
                     ORDER BY deleted_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
            )
            .bind(milliseconds(older_than))
            .bind(CHUNK);
            let gone = self.execute(query).await?;
            forgotten += gone;
            if gone < CHUNK.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }
}

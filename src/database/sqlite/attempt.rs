//! The spans of attempts.

use super::open::{SqliteJobStore, database};
use crate::{
    database::row_mapping::read_attempt_trace,
    job::{Epoch, JobError, JobId, TraceContext},
};

impl SqliteJobStore {
    pub async fn trace_attempt(
        &self,
        id: JobId,
        epoch: Epoch,
        span: &TraceContext,
    ) -> Result<Option<TraceContext>, JobError> {
        sqlx::query("UPDATE attempts SET traceparent = ?3 WHERE job = ?1 AND epoch = ?2")
            .bind(id.to_string())
            .bind(epoch.0)
            .bind(span.traceparent())
            .execute(self.writer()?)
            .await
            .map_err(database)?;
        let before = sqlx::query(
            "SELECT traceparent AS attempt_traceparent FROM attempts
              WHERE job = ?1 AND epoch < ?2 ORDER BY epoch DESC LIMIT 1",
        )
        .bind(id.to_string())
        .bind(epoch.0)
        .fetch_optional(&self.readers)
        .await
        .map_err(database)?;
        before.as_ref().map_or(Ok(None), read_attempt_trace)
    }
}

//! The spans of attempts.

use super::open::PostgresJobStore;
use crate::{
    database::row_mapping::read_attempt_trace,
    job::{Epoch, JobError, JobId, TraceContext},
};

impl PostgresJobStore {
    pub async fn trace_attempt(
        &self,
        id: JobId,
        epoch: Epoch,
        span: &TraceContext,
    ) -> Result<Option<TraceContext>, JobError> {
        let query = sqlx::query(
            "WITH noted AS (UPDATE attempts SET traceparent = $3 WHERE job = $1 AND epoch = $2)
             SELECT traceparent AS attempt_traceparent FROM attempts
              WHERE job = $1 AND epoch < $2 ORDER BY epoch DESC LIMIT 1",
        )
        .bind(id.to_string())
        .bind(epoch.0)
        .bind(span.traceparent());
        self.one(query).await?.as_ref().map_or(Ok(None), read_attempt_trace)
    }
}

//! Accepts jobs, and stores refused messages.

use jiff::Timestamp;
use sqlx::SqliteConnection;

use super::{
    actions::write_note,
    open::{SqliteJobStore, database, now_ms},
    transition::{select, send},
};
use crate::{
    database::{
        Action, OutboxMode, Rejection, Subject, SubmitOptions, Submitted,
        outbox::Topic,
        row_mapping::{Columns, job_columns, read_job, read_rejection, to_json},
        search,
        transitions::check_same,
    },
    job::{ErrorRecord, JobError, JobId, JobRequest, TraceContext},
};

/// The number of requests in one transaction: enough that the commit does not matter, few enough that others get a
/// turn.
const CHUNK: usize = 1000;

impl SqliteJobStore {
    pub async fn submit(&self, request: &JobRequest, options: &SubmitOptions) -> Result<Submitted, JobError> {
        let mut tx = self.begin().await?;
        let submitted = submit_in(&mut tx, request, options, self.mode).await?;
        let note = self.note(Action::Submitted, Subject::Job(request.id, options.batch.as_ref()));
        write_note(&mut tx, note, u64::from(matches!(submitted, Submitted::New(_)))).await?;
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(submitted)
    }

    pub async fn submit_many(
        &self,
        requests: &[JobRequest],
        options: &SubmitOptions,
    ) -> Vec<Result<Submitted, JobError>> {
        let mut results = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(CHUNK) {
            match self.submit_chunk(chunk, options).await {
                Ok(submitted) => results.extend(submitted),
                Err(error) => {
                    results.resize(requests.len(), Err(error));
                    break;
                }
            }
        }
        self.signal.tell();
        results
    }

    async fn submit_chunk(
        &self,
        chunk: &[JobRequest],
        options: &SubmitOptions,
    ) -> Result<Vec<Result<Submitted, JobError>>, JobError> {
        let mut tx = self.begin().await?;
        let mut results = Vec::with_capacity(chunk.len());
        for request in chunk {
            results.push(match submit_in(&mut tx, request, options, self.mode).await {
                Err(error @ JobError::Database { .. }) => return Err(error),
                other => other,
            });
        }
        let new = results.iter().filter(|result| matches!(result, Ok(Submitted::New(_)))).count();
        let note = self.note(Action::Submitted, Subject::Many(options.batch.as_ref()));
        write_note(&mut tx, note, u64::try_from(new).unwrap_or(u64::MAX)).await?;
        tx.commit().await.map_err(database)?;
        Ok(results)
    }

    pub async fn reject(&self, id: JobId, raw: &str, error: &ErrorRecord) -> Result<bool, JobError> {
        let kept = sqlx::query(
            "INSERT INTO rejections (id, received_at, error, body)
             SELECT ?1, ?2, ?3, ?4
              WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = ?1)
                AND NOT EXISTS (SELECT 1 FROM tombstones WHERE id = ?1)
             ON CONFLICT (id) DO UPDATE
                SET received_at = excluded.received_at, error = excluded.error, body = excluded.body",
        )
        .bind(id.to_string())
        .bind(now_ms())
        .bind(to_json(error)?)
        .bind(Rejection::body_of(raw))
        .execute(self.writer()?)
        .await
        .map_err(database)?;
        Ok(kept.rows_affected() > 0)
    }

    pub async fn may_reject(&self, id: JobId) -> Result<bool, JobError> {
        let query = sqlx::query(
            "SELECT NOT EXISTS (SELECT 1 FROM jobs WHERE id = ?1)
                AND NOT EXISTS (SELECT 1 FROM tombstones WHERE id = ?1) AS free",
        )
        .bind(id.to_string());
        query.fetch_one(&self.readers).await.map_err(database)?.flag("free")
    }

    pub async fn rejection(&self, id: JobId) -> Result<Option<Rejection>, JobError> {
        let row = sqlx::query("SELECT id, received_at, error, body FROM rejections WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(database)?;
        row.as_ref().map(read_rejection).transpose()
    }
}

pub(super) async fn submit_in(
    tx: &mut SqliteConnection,
    request: &JobRequest,
    options: &SubmitOptions,
    mode: OutboxMode,
) -> Result<Submitted, JobError> {
    let now = now_ms();
    let available_at = options.at.map_or(now, Timestamp::as_millisecond);
    let new = sqlx::query(concat!(
        "INSERT INTO jobs (id, fingerprint, kind, request, priority, batch, state, available_at, quiet_until,
                           created_at, updated_at, search, webhook, tenant, traceparent, tracestate, local, reuse)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'queued', ?7, ?7, ?8, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT (id) DO NOTHING RETURNING ",
        job_columns!()
    ))
    .bind(request.id.to_string())
    .bind(request.fingerprint())
    .bind(request.task.kind().as_str())
    .bind(request.to_json())
    .bind(request.priority)
    .bind(options.batch.as_ref().map(|batch| batch.as_str()))
    .bind(available_at)
    .bind(now)
    .bind(search::text(request, options.batch.as_ref()))
    .bind(options.webhook.as_deref())
    .bind(request.tenant())
    .bind(options.trace.as_ref().map(TraceContext::traceparent))
    .bind(options.trace.as_ref().and_then(TraceContext::tracestate))
    .bind(options.local)
    .bind(options.reuse)
    .fetch_optional(&mut *tx)
    .await
    .map_err(database)?;
    if let Some(row) = new {
        let row = read_job(&row)?;
        if mode == OutboxMode::Service {
            send(tx, &row, Topic::Dispatch, None, available_at, now).await?;
        }
        return Ok(Submitted::New(Box::new(row)));
    }
    let known = select(tx, request.id).await?.ok_or_else(|| {
        JobError::database(format!("job {} was deleted while it was submitted; submit it again", request.id))
    })?;
    check_same(&known.request, request)?;
    Ok(Submitted::Known(Box::new(known)))
}

//! Writes decided changes, and the operations that consist of one.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::{
    actions::write_note,
    open::{SqliteJobStore, database, now_ms},
};
use crate::{
    database::{
        Action, CancelOutcome, Fence, Fenced, HeartbeatReply, JobRow, LeaseState, OutboxMode, Published, RetryOutcome,
        Subject,
        outbox::Topic,
        row_mapping::{Columns, after, job_columns, read_job, timestamp, to_json},
        transitions::{Ending, Transition},
    },
    job::{Epoch, ErrorRecord, JobError, JobId, JobState, Progress, TraceContext},
};

impl SqliteJobStore {
    pub async fn succeed(&self, id: JobId, fence: Fence, result: &Published) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, fence, Ending::Succeeded(result)).await
    }

    pub async fn adopt(
        &self,
        id: JobId,
        fence: Fence,
        result: &Published,
        made_at: Epoch,
    ) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, fence, Ending::Adopted(result, made_at)).await
    }

    pub async fn fail(&self, id: JobId, fence: Fence, error: &ErrorRecord) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, fence, Ending::Failed(error)).await
    }

    pub async fn requeue(
        &self,
        id: JobId,
        fence: Fence,
        error: &ErrorRecord,
        delay: Duration,
    ) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, fence, Ending::Requeued(error, delay)).await
    }

    pub async fn postpone(
        &self,
        id: JobId,
        fence: Fence,
        error: &ErrorRecord,
        delay: Duration,
    ) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, fence, Ending::Postponed(error, delay)).await
    }

    pub async fn give_back(&self, id: JobId, fence: Fence) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, fence, Ending::GivenBack).await
    }

    pub async fn cancelled(&self, id: JobId, fence: Fence) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, fence, Ending::Cancelled).await
    }

    async fn settle(&self, id: JobId, fence: Fence, ending: Ending<'_>) -> Result<Fenced<JobRow>, JobError> {
        let mut tx = self.begin().await?;
        let Some(row) = select(&mut tx, id).await? else { return Ok(Fenced::Lost) };
        if row.fence() != fence || row.state != JobState::Running {
            return Ok(if ending.stands(&row, fence) { Fenced::Held(row) } else { Fenced::Lost });
        }
        let transition = Transition::settle(row, ending, now_ms(), self.mode)?;
        write(&mut tx, &transition).await?;
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(Fenced::Held(transition.row))
    }

    pub async fn heartbeat(
        &self,
        id: JobId,
        fence: Fence,
        lease: Duration,
        progress: Option<&Progress>,
    ) -> Result<Fenced<HeartbeatReply>, JobError> {
        let now = now_ms();
        let sequence = progress.map_or(0, |progress| i64::try_from(progress.sequence).unwrap_or(i64::MAX));
        let row = sqlx::query(
            "UPDATE jobs
                SET lease_until = ?3, updated_at = ?4, quiet_until = 0,
                    progress = CASE WHEN ?5 > progress_sequence THEN ?6 ELSE progress END,
                    progress_sequence = MAX(progress_sequence, ?5)
              WHERE id = ?1 AND epoch = ?2 AND claim IS ?7 AND state = 'running'
          RETURNING cancel_requested",
        )
        .bind(id.to_string())
        .bind(fence.epoch.0)
        .bind(after(now, lease))
        .bind(now)
        .bind(sequence)
        .bind(progress.map(to_json).transpose()?)
        .bind(fence.claim_text())
        .fetch_optional(self.writer()?)
        .await
        .map_err(database)?;
        match row {
            Some(row) => Ok(Fenced::Held(HeartbeatReply { cancel_requested: row.flag("cancel_requested")? })),
            None => Ok(Fenced::Lost),
        }
    }

    pub async fn cancel(&self, id: JobId, is_dead: &(dyn Fn(&str) -> bool + Sync)) -> Result<CancelOutcome, JobError> {
        let mut tx = self.begin().await?;
        let Some(row) = select(&mut tx, id).await? else { return Ok(CancelOutcome::Unknown) };
        let now = now_ms();
        let note = self.note(Action::Cancelled, Subject::Job(id, row.batch.as_ref()));
        let outcome = match row.state {
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => CancelOutcome::AlreadyEnded(row.state),
            JobState::Running if row.lease(timestamp(now), is_dead) == LeaseState::Held => {
                sqlx::query("UPDATE jobs SET cancel_requested = 1, updated_at = ?2 WHERE id = ?1")
                    .bind(id.to_string())
                    .bind(now)
                    .execute(&mut *tx)
                    .await
                    .map_err(database)?;
                CancelOutcome::Requested
            }
            JobState::Queued | JobState::Running => {
                let transition = Transition::end(row, JobState::Cancelled, &JobError::Cancelled, now, self.mode)?;
                write(&mut tx, &transition).await?;
                CancelOutcome::Cancelled
            }
        };
        let changed = !matches!(outcome, CancelOutcome::AlreadyEnded(_));
        write_note(&mut tx, note, u64::from(changed)).await?;
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(outcome)
    }

    pub async fn retry(&self, id: JobId) -> Result<RetryOutcome, JobError> {
        let mut tx = self.begin().await?;
        let Some(row) = select(&mut tx, id).await? else { return Ok(RetryOutcome::Unknown) };
        match row.state {
            JobState::Queued | JobState::Running | JobState::Succeeded => return Ok(RetryOutcome::Refused(row.state)),
            JobState::Failed | JobState::Cancelled => {}
        }
        let note = self.note(Action::Retried, Subject::Job(id, row.batch.as_ref()));
        let transition = Transition::retry(row, now_ms(), self.mode)?;
        write(&mut tx, &transition).await?;
        write_note(&mut tx, note, 1).await?;
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(RetryOutcome::Queued(Box::new(transition.row)))
    }
}

pub(super) async fn select(tx: &mut SqliteConnection, id: JobId) -> Result<Option<JobRow>, JobError> {
    let row = sqlx::query(concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = ?"))
        .bind(id.to_string())
        .fetch_optional(tx)
        .await
        .map_err(database)?;
    row.as_ref().map(read_job).transpose()
}

/// Writes a transition: the row, its open attempt and its message. The caller has held the write lock since it read the
/// row.
pub(super) async fn write(tx: &mut SqliteConnection, transition: &Transition) -> Result<(), JobError> {
    let (row, id) = (&transition.row, transition.row.id().to_string());
    let now = row.updated_at.as_millisecond();
    sqlx::query("UPDATE attempts SET ended_at = ?3, outcome = ?4, error = ?5 WHERE job = ?1 AND epoch = ?2 AND ended_at IS NULL")
        .bind(&id)
        .bind(transition.seen.fence.epoch.0)
        .bind(now)
        .bind(transition.outcome)
        .bind(transition.attempt_error.as_ref().map(to_json).transpose()?)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
    sqlx::query(
        "UPDATE jobs
            SET state = ?3, epoch = ?14, attempts = ?4, error = ?5, manifest = ?6, result_root = ?7, outputs = ?8, caption = ?13, fidelity = ?15, content_key = ?16, reused_from = ?17,
                cancel_id = CASE WHEN ?3 = 'queued' THEN NULL ELSE cancel_id END,
                available_at = ?9, quiet_until = ?9, cancel_requested = ?10, worker = NULL, lease_until = NULL,
                updated_at = ?11, finished_at = ?12
          WHERE id = ?1 AND epoch = ?2",
    )
    .bind(&id)
    .bind(transition.seen.fence.epoch.0)
    .bind(row.state.as_str())
    .bind(row.attempts)
    .bind(row.error.as_ref().map(to_json).transpose()?)
    .bind(row.published.as_ref().map(|result| result.manifest.as_str()))
    .bind(row.published.as_ref().and_then(|result| result.root.as_deref()))
    .bind(row.published.as_ref().map(|result| to_json(&result.files)).transpose()?)
    .bind(row.available_at.as_millisecond())
    .bind(row.cancel_requested)
    .bind(now)
    .bind(row.finished_at.map(|at| at.as_millisecond()))
    .bind(row.published.as_ref().and_then(|result| result.caption.as_deref()))
    .bind(row.epoch.0)
    .bind(row.published.as_ref().and_then(|result| result.fidelity.as_ref()).map(to_json).transpose()?)
    .bind(row.published.as_ref().and_then(|result| result.content_key.as_deref()))
    .bind(row.published.as_ref().and_then(|result| result.reused_from).map(|job| job.to_string()))
    .execute(&mut *tx)
    .await
    .map_err(database)?;
    if let Some(event) = &transition.event {
        sqlx::query(
            "INSERT INTO webhooks (job, url, payload, available_at, created_at, traceparent, tracestate)
             SELECT id, webhook, ?2, ?3, ?3, traceparent, tracestate FROM jobs WHERE id = ?1 AND webhook IS NOT NULL",
        )
        .bind(&id)
        .bind(event)
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
    }
    let Some(message) = &transition.message else { return Ok(()) };
    if message.topic.is_event() {
        sqlx::query("DELETE FROM outbox WHERE job = ? AND topic = 'dispatch' AND taken_until IS NULL")
            .bind(&id)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
    }
    send(tx, row, message.topic, message.payload.as_deref(), message.available_at, now).await
}

/// Puts a message into the outbox. A dispatch that is already there gets the new time.
pub(super) async fn send(
    tx: &mut SqliteConnection,
    row: &JobRow,
    topic: Topic,
    payload: Option<&str>,
    available_at: i64,
    now: i64,
) -> Result<(), JobError> {
    sqlx::query(
        "INSERT INTO outbox (job, topic, kind, priority, payload, available_at, created_at, tenant, batch, traceparent,
                             tracestate)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL
         DO UPDATE SET available_at = excluded.available_at",
    )
    .bind(row.id().to_string())
    .bind(topic.as_str())
    .bind(row.request.task.kind().as_str())
    .bind(row.request.priority)
    .bind(payload)
    .bind(available_at)
    .bind(now)
    .bind(row.request.tenant().unwrap_or_default())
    .bind(row.batch.as_ref().map_or("", |batch| batch.as_str()))
    .bind(row.trace.as_ref().map(TraceContext::traceparent))
    .bind(row.trace.as_ref().and_then(TraceContext::tracestate))
    .execute(tx)
    .await
    .map_err(database)?;
    Ok(())
}

/// A job that was requested too early must not depend on the reaper alone.
pub(super) async fn ensure_dispatch(tx: &mut SqliteConnection, row: &JobRow, mode: OutboxMode) -> Result<(), JobError> {
    match mode {
        OutboxMode::Embedded => Ok(()),
        OutboxMode::Service => {
            arrived(tx, row).await?;
            send(tx, row, Topic::Dispatch, None, row.available_at.as_millisecond(), now_ms()).await
        }
    }
}

/// Forgets the dispatch whose message has arrived.
pub(super) async fn arrived(tx: &mut SqliteConnection, row: &JobRow) -> Result<(), JobError> {
    sqlx::query("DELETE FROM outbox WHERE job = ? AND topic = 'dispatch' AND taken_until IS NOT NULL")
        .bind(row.id().to_string())
        .execute(tx)
        .await
        .map_err(database)?;
    Ok(())
}

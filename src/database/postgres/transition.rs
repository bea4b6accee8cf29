//! Writes decided changes, and the operations that consist of one.
//!
//! A row is read, the change is decided, and one statement writes it if the row is still the same. If another process
//! was faster, this starts again with the new row.

use std::time::Duration;

use super::{actions::noted, open::PostgresJobStore};
use crate::{
    database::{
        Action, CancelOutcome, Fence, Fenced, HeartbeatReply, JobRow, LeaseState, Published, RetryOutcome, Subject,
        row_mapping::{Columns, job_columns, milliseconds, read_job, timestamp, to_json},
        transitions::{Ending, Transition, overtaken},
    },
    job::{Epoch, ErrorRecord, JobError, JobId, JobState, Progress},
};

/// How often a change is retried. Each retry means that another process changed the row within that millisecond.
pub(super) const ROUNDS: usize = 10;

impl PostgresJobStore {
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
        for _ in 0..ROUNDS {
            let Some((row, now)) = self.read(id).await? else { return Ok(Fenced::Lost) };
            if row.fence() != fence || row.state != JobState::Running {
                return Ok(if ending.stands(&row, fence) { Fenced::Held(row) } else { Fenced::Lost });
            }
            let transition = Transition::settle(row, ending, now, self.mode)?;
            if self.write(&transition).await? {
                return Ok(Fenced::Held(transition.row));
            }
        }
        Err(overtaken(id))
    }

    pub async fn heartbeat(
        &self,
        id: JobId,
        fence: Fence,
        lease: Duration,
        progress: Option<&Progress>,
    ) -> Result<Fenced<HeartbeatReply>, JobError> {
        let sequence = progress.map_or(0, |progress| i64::try_from(progress.sequence).unwrap_or(i64::MAX));
        let beat = sqlx::query(
            "UPDATE jobs
                SET lease_until = acetate_now() + $3, updated_at = acetate_now(), quiet_until = 0,
                    progress = CASE WHEN $4 > progress_sequence THEN $5 ELSE progress END,
                    progress_sequence = GREATEST(progress_sequence, $4)
              WHERE id = $1 AND epoch = $2 AND claim IS NOT DISTINCT FROM $6 AND state || '' = 'running'
          RETURNING cancel_requested",
        )
        .bind(id.to_string())
        .bind(fence.epoch.0)
        .bind(milliseconds(lease))
        .bind(sequence)
        .bind(progress.map(to_json).transpose()?)
        .bind(fence.claim_text());
        match self.one(beat).await? {
            Some(row) => Ok(Fenced::Held(HeartbeatReply { cancel_requested: row.flag("cancel_requested")? })),
            None => Ok(Fenced::Lost),
        }
    }

    pub async fn cancel(&self, id: JobId, is_dead: &(dyn Fn(&str) -> bool + Sync)) -> Result<CancelOutcome, JobError> {
        for _ in 0..ROUNDS {
            let Some((row, now)) = self.read(id).await? else { return Ok(CancelOutcome::Unknown) };
            match row.state {
                JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
                    return Ok(CancelOutcome::AlreadyEnded(row.state));
                }
                JobState::Running if row.lease(timestamp(now), is_dead) == LeaseState::Held => {
                    let note = self.note(Action::Cancelled, Subject::Job(id, row.batch.as_ref()));
                    let asked = sqlx::query(concat!(
                        "WITH asked AS (
                            UPDATE jobs SET cancel_requested = TRUE, updated_at = acetate_now()
                             WHERE id = $1 AND epoch = $2 AND state || '' = 'running' RETURNING id), ",
                        noted!("asked", "$3"),
                        " SELECT id FROM asked"
                    ))
                    .bind(id.to_string())
                    .bind(row.epoch.0)
                    .bind(note);
                    if self.one(asked).await?.is_some() {
                        self.signal.tell();
                        return Ok(CancelOutcome::Requested);
                    }
                }
                JobState::Queued | JobState::Running => {
                    let note = self.note(Action::Cancelled, Subject::Job(id, row.batch.as_ref()));
                    let transition = Transition::end(row, JobState::Cancelled, &JobError::Cancelled, now, self.mode)?;
                    if self.write_noted(&transition, note).await? {
                        return Ok(CancelOutcome::Cancelled);
                    }
                }
            }
        }
        Err(overtaken(id))
    }

    pub async fn retry(&self, id: JobId) -> Result<RetryOutcome, JobError> {
        for _ in 0..ROUNDS {
            let Some((row, now)) = self.read(id).await? else { return Ok(RetryOutcome::Unknown) };
            match row.state {
                JobState::Queued | JobState::Running | JobState::Succeeded => {
                    return Ok(RetryOutcome::Refused(row.state));
                }
                JobState::Failed | JobState::Cancelled => {}
            }
            let note = self.note(Action::Retried, Subject::Job(id, row.batch.as_ref()));
            let transition = Transition::retry(row, now, self.mode)?;
            if self.write_noted(&transition, note).await? {
                return Ok(RetryOutcome::Queued(Box::new(transition.row)));
            }
        }
        Err(overtaken(id))
    }

    /// The row, and the server's time in milliseconds.
    pub(super) async fn read(&self, id: JobId) -> Result<Option<(JobRow, i64)>, JobError> {
        let query = sqlx::query(concat!("SELECT ", job_columns!(), ", acetate_now() AS now FROM jobs WHERE id = $1"))
            .bind(id.to_string());
        let Some(row) = self.one(query).await? else { return Ok(None) };
        Ok(Some((read_job(&row)?, row.number("now")?)))
    }

    /// Writes a transition if the row has not changed: the row, its open attempt and its message, in one statement.
    pub(super) async fn write(&self, transition: &Transition) -> Result<bool, JobError> {
        self.write_noted(transition, None).await
    }

    /// [`PostgresJobStore::write`], with an entry about who did it.
    async fn write_noted(&self, transition: &Transition, note: Option<Vec<Option<String>>>) -> Result<bool, JobError> {
        let (row, seen, message) = (&transition.row, &transition.seen, transition.message.as_ref());
        let result = row.published.as_ref();
        let query = sqlx::query(concat!(
            "WITH changed AS (
                UPDATE jobs
                   SET state = $6, epoch = $23, attempts = $7, error = $8, manifest = $9, result_root = $10, outputs = $11, caption = $21, fidelity = $25,
                       content_key = $26, reused_from = $27,
                       cancel_id = CASE WHEN $6 = 'queued' THEN NULL ELSE cancel_id END,
                       available_at = $12, quiet_until = $12, cancel_requested = $13, worker = NULL,
                       lease_until = NULL, updated_at = $14, finished_at = $15
                 WHERE id = $1 AND epoch = $2 AND claim IS NOT DISTINCT FROM $28 AND state || '' = $3
                   AND cancel_requested = $4 AND attempts = $29
                   AND ($5::BIGINT IS NULL OR lease_until = $5)
             RETURNING id, kind, priority, tenant, batch, webhook, traceparent, tracestate),
             closed AS (
                UPDATE attempts SET ended_at = $14, outcome = $16, error = $17
                  FROM changed WHERE attempts.job = changed.id AND attempts.epoch = $2 AND attempts.ended_at IS NULL),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, tenant, batch, payload, available_at, created_at,
                                    traceparent, tracestate)
                SELECT id, $18, kind, priority, COALESCE(tenant, ''), COALESCE(batch, ''), $19, $20, $14, traceparent,
                       tracestate
                  FROM changed WHERE $18::TEXT IS NOT NULL
                ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL
                DO UPDATE SET available_at = EXCLUDED.available_at),
             unsent AS (
                DELETE FROM outbox USING changed
                 WHERE outbox.job = changed.id AND topic || '' = 'dispatch' AND taken_until IS NULL
                   AND $18::TEXT <> 'dispatch'),
             hooked AS (
                INSERT INTO webhooks (job, url, payload, available_at, created_at, traceparent, tracestate)
                SELECT id, webhook, $22, $14, $14, traceparent, tracestate FROM changed WHERE $22::TEXT IS NOT NULL AND webhook IS NOT NULL), ",
            noted!("changed", "$24"),
            " SELECT 1 FROM changed"
        ))
        .bind(row.id().to_string())
        .bind(seen.fence.epoch.0)
        .bind(seen.state.as_str())
        .bind(seen.cancel_requested)
        .bind(seen.lease_until)
        .bind(row.state.as_str())
        .bind(i64::from(row.attempts))
        .bind(row.error.as_ref().map(to_json).transpose()?)
        .bind(result.map(|result| result.manifest.as_str()))
        .bind(result.and_then(|result| result.root.as_deref()))
        .bind(result.map(|result| to_json(&result.files)).transpose()?)
        .bind(row.available_at.as_millisecond())
        .bind(row.cancel_requested)
        .bind(row.updated_at.as_millisecond())
        .bind(row.finished_at.map(|at| at.as_millisecond()))
        .bind(transition.outcome)
        .bind(transition.attempt_error.as_ref().map(to_json).transpose()?)
        .bind(message.map(|message| message.topic.as_str()))
        .bind(message.and_then(|message| message.payload.as_deref()))
        .bind(message.map(|message| message.available_at))
        .bind(result.and_then(|result| result.caption.as_deref()))
        .bind(transition.event.as_deref())
        .bind(row.epoch.0)
        .bind(note)
        .bind(result.and_then(|result| result.fidelity.as_ref()).map(to_json).transpose()?)
        .bind(result.and_then(|result| result.content_key.as_deref()))
        .bind(result.and_then(|result| result.reused_from).map(|job| job.to_string()))
        .bind(seen.fence.claim_text())
        .bind(i64::from(seen.attempts));
        let written = self.one(query).await?.is_some();
        if written {
            self.signal.tell();
        }
        Ok(written)
    }
}

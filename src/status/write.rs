//! Every other change of a row: submit, the heartbeat, the ends of an attempt, cancel.

use std::time::Duration;

use super::{
    claim::{close_attempt, end, lease_is_over, select},
    row::{JobRow, Published, get, read_job, to_json},
    sqlite::{SqliteStatus, after, database, now_ms},
};
use crate::job::{Epoch, ErrorRecord, JobError, JobId, JobRequest, JobState, Progress};

#[derive(Debug, Clone, PartialEq)]
pub enum Submitted {
    New(Box<JobRow>),
    /// The same id with the same body came before.
    Known(Box<JobRow>),
}

/// What came of a write that names its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a lost lease means that somebody else works on the job: stop"]
pub enum Fenced<T> {
    /// The epoch was still the row's; the write stands.
    Held(T),
    /// The row has moved on; nothing was written.
    Lost,
}

/// What a heartbeat brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    pub cancel_requested: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CancelOutcome {
    /// Nobody was working on it: it is cancelled.
    Cancelled,
    /// Its worker has been told; it stops within one step.
    Requested,
    AlreadyEnded(JobState),
    Unknown,
}

/// How an attempt ends.
enum Ending<'a> {
    Succeeded(&'a Published),
    Failed(&'a ErrorRecord),
    Requeued(&'a ErrorRecord, Duration),
    Cancelled,
}

impl SqliteStatus {
    /// Accepts a job. The same id twice is one job; the same id with another body is refused.
    pub async fn submit(&self, request: &JobRequest) -> Result<Submitted, JobError> {
        let now = now_ms();
        let fingerprint = request.fingerprint();
        let new = sqlx::query(
            "INSERT INTO jobs (id, fingerprint, kind, request, priority, state, available_at, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, 'queued', ?6, ?6, ?6)
             ON CONFLICT (id) DO NOTHING RETURNING *",
        )
        .bind(request.id.to_string())
        .bind(&fingerprint)
        .bind(request.task.kind().as_str())
        .bind(request.to_json())
        .bind(request.priority)
        .bind(now)
        .fetch_optional(&self.writer)
        .await
        .map_err(database)?;
        if let Some(row) = new {
            return Ok(Submitted::New(Box::new(read_job(&row)?)));
        }
        let known = self.get(request.id).await?.ok_or_else(|| JobError::Database {
            reason: format!("job {} vanished while it was submitted; submit it again", request.id),
        })?;
        if known.request.fingerprint() != fingerprint {
            let there = JobRequest { output: known.request.output.clone(), ..request.clone() };
            if there.fingerprint() == known.request.fingerprint() {
                let reason = format!(
                    "{} is already this job with another output folder, {}; name that one, or take another id",
                    request.id, known.request.output.prefix
                );
                return Err(JobError::invalid("id", reason));
            }
            return Err(JobError::invalid(
                "id",
                format!(
                    "{} is already a {} job with other inputs or parameters; take another id, or none",
                    request.id,
                    known.request.task.kind()
                ),
            ));
        }
        Ok(Submitted::Known(Box::new(known)))
    }

    /// Renews the lease and writes progress, whose sequence never goes back.
    pub async fn heartbeat(
        &self,
        id: JobId,
        epoch: Epoch,
        lease: Duration,
        progress: Option<&Progress>,
    ) -> Result<Fenced<Beat>, JobError> {
        let now = now_ms();
        let sequence = progress.map_or(0, |progress| i64::try_from(progress.sequence).unwrap_or(i64::MAX));
        let row = sqlx::query(
            "UPDATE jobs
                SET lease_until = ?3, updated_at = ?4,
                    progress = CASE WHEN ?5 > progress_sequence THEN ?6 ELSE progress END,
                    progress_sequence = MAX(progress_sequence, ?5)
              WHERE id = ?1 AND epoch = ?2 AND state = 'running'
          RETURNING cancel_requested",
        )
        .bind(id.to_string())
        .bind(epoch.0)
        .bind(after(now, lease))
        .bind(now)
        .bind(sequence)
        .bind(progress.map(to_json).transpose()?)
        .fetch_optional(&self.writer)
        .await
        .map_err(database)?;
        match row {
            Some(row) => Ok(Fenced::Held(Beat { cancel_requested: get(&row, "cancel_requested")? })),
            None => Ok(Fenced::Lost),
        }
    }

    /// Publishes: the move to `succeeded` carries the manifest's key.
    pub async fn succeed(&self, id: JobId, epoch: Epoch, result: &Published) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, epoch, Ending::Succeeded(result)).await
    }

    pub async fn fail(&self, id: JobId, epoch: Epoch, error: &ErrorRecord) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, epoch, Ending::Failed(error)).await
    }

    /// Puts the job back for another attempt, not before `delay` has passed. If somebody asked for it to stop in the
    /// meantime, it is cancelled instead.
    pub async fn requeue(
        &self,
        id: JobId,
        epoch: Epoch,
        error: &ErrorRecord,
        delay: Duration,
    ) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, epoch, Ending::Requeued(error, delay)).await
    }

    pub async fn cancelled(&self, id: JobId, epoch: Epoch) -> Result<Fenced<JobRow>, JobError> {
        self.settle(id, epoch, Ending::Cancelled).await
    }

    /// Asks for a job to stop. One that nobody works on (see [`super::ClaimRules::is_dead`]) stops at once.
    pub async fn cancel(&self, id: JobId, is_dead: &(dyn Fn(&str) -> bool + Sync)) -> Result<CancelOutcome, JobError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(database)?;
        let Some(row) = select(&mut tx, id).await? else { return Ok(CancelOutcome::Unknown) };
        let now = now_ms();
        let outcome = match row.state {
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => CancelOutcome::AlreadyEnded(row.state),
            JobState::Running if !lease_is_over(&row, now) && !row.worker.as_deref().is_some_and(is_dead) => {
                sqlx::query("UPDATE jobs SET cancel_requested = 1, updated_at = ?2 WHERE id = ?1")
                    .bind(id.to_string())
                    .bind(now)
                    .execute(&mut *tx)
                    .await
                    .map_err(database)?;
                CancelOutcome::Requested
            }
            JobState::Queued | JobState::Running => {
                if row.state == JobState::Running {
                    close_attempt(&mut tx, &row, now, "lost", None).await?;
                }
                end(&mut tx, id, now, JobState::Cancelled, &JobError::Cancelled).await?;
                CancelOutcome::Cancelled
            }
        };
        tx.commit().await.map_err(database)?;
        Ok(outcome)
    }

    /// The compare-and-set that every ending goes through, with the attempt's history in the same transaction.
    async fn settle(&self, id: JobId, epoch: Epoch, ending: Ending<'_>) -> Result<Fenced<JobRow>, JobError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(database)?;
        let Some(row) = select(&mut tx, id).await? else { return Ok(Fenced::Lost) };
        if row.epoch != epoch || row.state != JobState::Running {
            return Ok(Fenced::Lost);
        }
        let ending = match ending {
            Ending::Requeued(..) if row.cancel_requested => Ending::Cancelled,
            other => other,
        };

        let now = now_ms();
        let cancelled = ErrorRecord::from(&JobError::Cancelled);
        let (state, outcome, error, result, available_at) = match &ending {
            Ending::Succeeded(result) => (JobState::Succeeded, "succeeded", None, Some(*result), now),
            Ending::Failed(error) => (JobState::Failed, "failed", Some(*error), None, now),
            Ending::Requeued(error, delay) => (JobState::Queued, "requeued", Some(*error), None, after(now, *delay)),
            Ending::Cancelled => (JobState::Cancelled, "cancelled", Some(&cancelled), None, now),
        };
        close_attempt(&mut tx, &row, now, outcome, error).await?;
        let settled = sqlx::query(
            "UPDATE jobs
                SET state = ?3, error = ?4, manifest = ?5, outputs = ?6, available_at = ?7,
                    worker = NULL, lease_until = NULL, updated_at = ?8, finished_at = ?9
              WHERE id = ?1 AND epoch = ?2 AND state = 'running'
          RETURNING *",
        )
        .bind(id.to_string())
        .bind(epoch.0)
        .bind(state.as_str())
        .bind(error.map(to_json).transpose()?)
        .bind(result.map(|result| result.manifest.as_str()))
        .bind(result.map(|result| to_json(&result.files)).transpose()?)
        .bind(available_at)
        .bind(now)
        .bind(state.is_terminal().then_some(now))
        .fetch_one(&mut *tx)
        .await
        .map_err(database)?;
        let settled = read_job(&settled)?;
        tx.commit().await.map_err(database)?;
        Ok(Fenced::Held(settled))
    }
}

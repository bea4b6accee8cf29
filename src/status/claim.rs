//! Taking a job: the one statement that raises its epoch, and what stands in the way of it.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::{
    row::{JobRow, read_job, to_json},
    sqlite::{SqliteStatus, after, database, now_ms},
};
use crate::job::{ErrorRecord, JobError, JobId, JobState};

/// Who claims, for how long, and how often a job may be tried.
pub struct ClaimRules<'a> {
    pub worker: &'a str,
    pub lease: Duration,
    /// A job that has been claimed this often is quarantined instead.
    pub max_attempts: u32,
    /// Whether the worker of this name has certainly died, so that its lease need not run out first.
    pub is_dead: &'a (dyn Fn(&str) -> bool + Sync),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// It is ours, at the row's epoch.
    Taken(Box<JobRow>),
    /// Another worker holds the lease.
    Held {
        worker: String,
        until: Timestamp,
    },
    /// It waits for its next attempt.
    NotBefore(Timestamp),
    /// It has ended: earlier, or just now because it was cancelled or had no attempt left.
    Ended(Box<JobRow>),
    Unknown,
}

impl SqliteStatus {
    /// Takes a queued job, or a running one whose lease has run out or whose worker is dead.
    pub async fn claim(&self, id: JobId, rules: &ClaimRules<'_>) -> Result<Claim, JobError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(database)?;
        let claim = claim_in(&mut tx, id, rules).await?;
        tx.commit().await.map_err(database)?;
        Ok(claim)
    }
}

async fn claim_in(tx: &mut Transaction<'_, Sqlite>, id: JobId, rules: &ClaimRules<'_>) -> Result<Claim, JobError> {
    let Some(row) = select(tx, id).await? else { return Ok(Claim::Unknown) };
    let now = now_ms();
    let dead = row.state == JobState::Running && row.worker.as_deref().is_some_and(rules.is_dead);

    match row.state {
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => return Ok(Claim::Ended(Box::new(row))),
        JobState::Queued if row.available_at.as_millisecond() > now => return Ok(Claim::NotBefore(row.available_at)),
        JobState::Running if !dead && !lease_is_over(&row, now) => {
            let worker = row.worker.unwrap_or_default();
            return Ok(Claim::Held { worker, until: row.lease_until.unwrap_or_default() });
        }
        JobState::Queued | JobState::Running => {}
    }

    if row.state == JobState::Running {
        close_attempt(tx, &row, now, "lost", None).await?;
    }
    if row.cancel_requested {
        return end(tx, id, now, JobState::Cancelled, &JobError::Cancelled).await;
    }
    if row.attempts >= rules.max_attempts {
        let last = row.error.as_ref().map_or("a worker that died", |error| error.message.as_str()).to_owned();
        let error = JobError::AttemptsExhausted { attempts: row.attempts, last };
        return end(tx, id, now, JobState::Failed, &error).await;
    }

    let lease_until = after(now, rules.lease);
    let taken = sqlx::query(
        "UPDATE jobs
            SET state = 'running', epoch = epoch + 1, attempts = attempts + 1,
                worker = ?2, lease_until = ?3, updated_at = ?4
          WHERE id = ?1
            AND ((state = 'queued' AND available_at <= ?4)
              OR (state = 'running' AND (lease_until <= ?4 OR worker = ?5)))
      RETURNING *",
    )
    .bind(id.to_string())
    .bind(rules.worker)
    .bind(lease_until)
    .bind(now)
    .bind(if dead { row.worker.as_deref() } else { None })
    .fetch_one(&mut **tx)
    .await
    .map_err(database)?;
    let taken = read_job(&taken)?;

    sqlx::query("INSERT INTO attempts (job, epoch, attempt, worker, started_at) VALUES (?, ?, ?, ?, ?)")
        .bind(id.to_string())
        .bind(taken.epoch.0)
        .bind(taken.attempts)
        .bind(rules.worker)
        .bind(now)
        .execute(&mut **tx)
        .await
        .map_err(database)?;
    Ok(Claim::Taken(Box::new(taken)))
}

/// Ends a job that nobody holds, without an attempt.
pub(super) async fn end(
    tx: &mut SqliteConnection,
    id: JobId,
    now: i64,
    state: JobState,
    error: &JobError,
) -> Result<Claim, JobError> {
    let ended = sqlx::query(
        "UPDATE jobs
            SET state = ?2, error = ?3, worker = NULL, lease_until = NULL, updated_at = ?4, finished_at = ?4
          WHERE id = ?1 RETURNING *",
    )
    .bind(id.to_string())
    .bind(state.as_str())
    .bind(to_json(&ErrorRecord::from(error))?)
    .bind(now)
    .fetch_one(tx)
    .await
    .map_err(database)?;
    Ok(Claim::Ended(Box::new(read_job(&ended)?)))
}

/// Writes the end of the row's present attempt into its history.
pub(super) async fn close_attempt(
    tx: &mut SqliteConnection,
    row: &JobRow,
    now: i64,
    outcome: &str,
    error: Option<&ErrorRecord>,
) -> Result<(), JobError> {
    sqlx::query("UPDATE attempts SET ended_at = ?3, outcome = ?4, error = ?5 WHERE job = ?1 AND epoch = ?2")
        .bind(row.id().to_string())
        .bind(row.epoch.0)
        .bind(now)
        .bind(outcome)
        .bind(error.map(to_json).transpose()?)
        .execute(tx)
        .await
        .map_err(database)?;
    Ok(())
}

pub(super) async fn select(tx: &mut SqliteConnection, id: JobId) -> Result<Option<JobRow>, JobError> {
    let row = sqlx::query("SELECT * FROM jobs WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(tx)
        .await
        .map_err(database)?;
    row.as_ref().map(read_job).transpose()
}

pub(super) fn lease_is_over(row: &JobRow, now: i64) -> bool {
    row.lease_until.is_none_or(|until| until.as_millisecond() <= now)
}

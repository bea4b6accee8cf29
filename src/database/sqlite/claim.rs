//! Claims a job: the statement that increments its epoch, and the reasons why it may not be claimed.

use sqlx::SqliteConnection;

use super::{
    dispatch::{hold, put_back},
    open::{SqliteJobStore, database, now_ms},
    transition::{ensure_dispatch, select, write},
};
use crate::{
    database::{
        Claim, ClaimId, ClaimRules, JobRow,
        row_mapping::{after, job_columns, read_job},
        transitions::{ClaimRefusal, Transition, exhausted, is_conflict, standing},
    },
    job::{JobError, JobId, JobState},
};

impl SqliteJobStore {
    pub async fn claim(&self, id: JobId, rules: &ClaimRules<'_>) -> Result<Claim, JobError> {
        let mut tx = self.begin().await?;
        let claim = self.claim_in(&mut tx, id, rules).await?;
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(claim)
    }

    async fn claim_in(&self, tx: &mut SqliteConnection, id: JobId, rules: &ClaimRules<'_>) -> Result<Claim, JobError> {
        let Some(row) = select(tx, id).await? else { return Ok(Claim::Unknown) };
        if is_conflict(&row, rules) {
            return Ok(Claim::Conflict(Box::new(row)));
        }
        let now = now_ms();
        let (state, error) = match standing(&row, now, rules) {
            ClaimRefusal::Ended => return Ok(Claim::Ended(Box::new(row))),
            ClaimRefusal::NotYet => {
                ensure_dispatch(tx, &row, self.mode).await?;
                return Ok(Claim::NotBefore(row.available_at));
            }
            ClaimRefusal::Held => {
                let worker = row.worker.unwrap_or_default();
                return Ok(Claim::Held { worker, until: row.lease_until.unwrap_or_default() });
            }
            ClaimRefusal::Free { .. } => {
                return match hold(tx, &row, now, &self.rules).await? {
                    Some(hold) => {
                        put_back(tx, &row, hold, self.mode).await?;
                        Ok(Claim::OnHold(hold))
                    }
                    None => take(tx, &row, now, rules).await,
                };
            }
            ClaimRefusal::Cancelled => (JobState::Cancelled, JobError::Cancelled),
            ClaimRefusal::Exhausted => (JobState::Failed, exhausted(&row)),
        };
        let transition = Transition::end(row, state, &error, now, self.mode)?;
        write(tx, &transition).await?;
        Ok(Claim::Ended(Box::new(transition.row)))
    }
}

/// An id that was another job's goes on after that one's last epoch, so that its files are never taken for this one's.
async fn take(tx: &mut SqliteConnection, row: &JobRow, now: i64, rules: &ClaimRules<'_>) -> Result<Claim, JobError> {
    let id = row.id().to_string();
    sqlx::query(
        "UPDATE attempts SET ended_at = ?3, outcome = 'lost' WHERE job = ?1 AND epoch = ?2 AND ended_at IS NULL",
    )
    .bind(&id)
    .bind(row.epoch.0)
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(database)?;
    let taken = sqlx::query(concat!(
        "UPDATE jobs
            SET state = 'running', claim = ?6, attempts = attempts + 1,
                epoch = MAX(epoch, COALESCE((SELECT gone.epoch FROM tombstones AS gone WHERE gone.id = jobs.id), 0)) + 1,
                worker = ?3, lease_until = ?4, started_at = ?5, updated_at = ?5, quiet_until = 0
          WHERE id = ?1 AND epoch = ?2
      RETURNING ",
        job_columns!()
    ))
    .bind(&id)
    .bind(row.epoch.0)
    .bind(rules.worker)
    .bind(after(now, rules.lease))
    .bind(now)
    .bind(ClaimId::draw().to_string())
    .fetch_one(&mut *tx)
    .await
    .map_err(database)?;
    let taken = read_job(&taken)?;
    // An unsent dispatch would only find that the job is taken, and a sent one has arrived.
    sqlx::query("DELETE FROM outbox WHERE job = ? AND topic = 'dispatch'")
        .bind(&id)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
    sqlx::query("INSERT INTO attempts (job, epoch, attempt, worker, started_at) VALUES (?, ?, ?, ?, ?)")
        .bind(&id)
        .bind(taken.epoch.0)
        .bind(taken.attempts)
        .bind(rules.worker)
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
    Ok(Claim::Taken(Box::new(taken)))
}

//! Claims a job: one statement if nothing is in the way, otherwise the reason.

use super::{open::PostgresJobStore, transition::ROUNDS};
use crate::{
    database::{
        Claim, ClaimId, ClaimRules, JobRow,
        row_mapping::{job_columns, milliseconds, read_job},
        transitions::{ClaimRefusal, Transition, exhausted, is_conflict, overtaken, standing},
    },
    job::{JobError, JobId, JobState},
};

impl PostgresJobStore {
    pub async fn claim(&self, id: JobId, rules: &ClaimRules<'_>) -> Result<Claim, JobError> {
        if let Some(row) = self.take(id, rules, rules.fingerprint, None).await? {
            return Ok(Claim::Taken(row));
        }
        for _ in 0..ROUNDS {
            let Some((row, now)) = self.read(id).await? else { return Ok(Claim::Unknown) };
            if is_conflict(&row, rules) {
                return Ok(Claim::Conflict(Box::new(row)));
            }
            let (state, error) = match standing(&row, now, rules) {
                ClaimRefusal::Ended => return Ok(Claim::Ended(Box::new(row))),
                ClaimRefusal::NotYet => {
                    self.ensure_dispatch(&row).await?;
                    return Ok(Claim::NotBefore(row.available_at));
                }
                ClaimRefusal::Held => {
                    let worker = row.worker.unwrap_or_default();
                    return Ok(Claim::Held { worker, until: row.lease_until.unwrap_or_default() });
                }
                ClaimRefusal::Free { dead } => {
                    // The fingerprint was compared above, with what the request says today.
                    if let Some(hold) = self.hold_back(id).await? {
                        return Ok(Claim::OnHold(hold));
                    }
                    let dead = row.worker.as_deref().filter(|_| dead).map(|worker| (worker, row.epoch.0));
                    if let Some(row) = self.take(id, rules, None, dead).await? {
                        return Ok(Claim::Taken(row));
                    }
                    continue;
                }
                ClaimRefusal::Cancelled => (JobState::Cancelled, JobError::Cancelled),
                ClaimRefusal::Exhausted => (JobState::Failed, exhausted(&row)),
            };
            let transition = Transition::end(row, state, &error, now, self.mode)?;
            if self.write(&transition).await? {
                return Ok(Claim::Ended(Box::new(transition.row)));
            }
        }
        Err(overtaken(id))
    }

    /// Increments the epoch and the attempts, draws the claim's id, sets the lease, adds the attempt to the history,
    /// and removes the job's dispatches; does nothing if the job is not free. An id that was another job's goes on
    /// after that one's last epoch, so that its files are never taken for this one's. `dead` is a worker whose lease
    /// need not have ended, and the epoch at which it died.
    async fn take(
        &self,
        id: JobId,
        rules: &ClaimRules<'_>,
        fingerprint: Option<&str>,
        dead: Option<(&str, i64)>,
    ) -> Result<Option<Box<JobRow>>, JobError> {
        let (names, limits) = self.rules.named_limits();
        let query = sqlx::query(concat!(
            "WITH taken AS (
                UPDATE jobs
                   SET state = 'running', claim = $11,
                       epoch = GREATEST(epoch, (SELECT gone.epoch FROM tombstones AS gone WHERE gone.id = jobs.id)) + 1,
                       attempts = attempts + 1, worker = $2, lease_until = acetate_now() + $3,
                       started_at = acetate_now(), updated_at = acetate_now(), quiet_until = 0
                 WHERE id = $1 AND NOT cancel_requested AND attempts < $4
                   AND ($5::TEXT IS NULL OR fingerprint = $5)
                   AND ((state = 'queued' AND available_at <= acetate_now())
                     OR (state = 'running' AND (lease_until <= acetate_now() OR (worker = $6 AND epoch = $7))))
                   AND NOT EXISTS (SELECT 1 FROM pauses WHERE scope = 'all' OR (scope = 'kind' AND name = jobs.kind)
                                                           OR (scope = 'batch' AND name = jobs.batch))
                   AND (tenant IS NULL OR acetate_tenant_has_room(tenant, COALESCE(
                         (SELECT own.most FROM UNNEST($9::TEXT[], $10::BIGINT[]) AS own (name, most)
                           WHERE own.name = jobs.tenant), $8)))
             RETURNING *),
             lost AS (
                UPDATE attempts SET ended_at = taken.updated_at, outcome = 'lost'
                  FROM taken
                 WHERE attempts.job = taken.id AND attempts.epoch < taken.epoch AND attempts.ended_at IS NULL),
             dispatched AS (
                DELETE FROM outbox USING taken WHERE outbox.job = taken.id AND topic || '' = 'dispatch'),
             begun AS (
                INSERT INTO attempts (job, epoch, attempt, worker, started_at)
                SELECT id, epoch, attempts, worker, started_at FROM taken)
             SELECT ",
            job_columns!(),
            " FROM taken"
        ))
        .bind(id.to_string())
        .bind(rules.worker)
        .bind(milliseconds(rules.lease))
        .bind(i64::from(rules.max_attempts))
        .bind(fingerprint)
        .bind(dead.map(|(worker, _)| worker))
        .bind(dead.map(|(_, epoch)| epoch))
        .bind(i64::from(self.rules.tenant_limit))
        .bind(names)
        .bind(limits)
        .bind(ClaimId::draw().to_string());
        let Some(row) = self.one(query).await? else { return Ok(None) };
        self.signal.tell();
        Ok(Some(Box::new(read_job(&row)?)))
    }

    /// A job that was requested too early must not depend on the reaper alone.
    async fn ensure_dispatch(&self, row: &JobRow) -> Result<(), JobError> {
        if !self.service() {
            return Ok(());
        }
        let query = sqlx::query(
            "WITH arrived AS (
                DELETE FROM outbox WHERE job = $1 AND topic || '' = 'dispatch' AND taken_until IS NOT NULL)
             INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at)
             SELECT id, 'dispatch', kind, priority, COALESCE(tenant, ''), COALESCE(batch, ''), available_at, acetate_now()
               FROM jobs WHERE id = $1 AND state || '' = 'queued'
             ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL DO NOTHING",
        )
        .bind(row.id().to_string());
        self.execute(query).await.map(drop)
    }
}

//! A clock that was set back.

use super::open::PostgresJobStore;
use crate::{
    database::{
        clock::{SLACK, warning},
        row_mapping::Columns,
    },
    job::JobError,
};

impl PostgresJobStore {
    pub async fn mend_due_times(&self) -> Result<u64, JobError> {
        // One look at an index in the usual case.
        let ahead = "SELECT EXISTS (SELECT FROM jobs WHERE created_at > acetate_now() + $1) AS ahead";
        let row = self.one(sqlx::query(ahead).bind(SLACK)).await?;
        if !row.map_or(Ok(false), |row| row.flag("ahead"))? {
            return Ok(0);
        }
        // A time that somebody asked for is later than the submission, and stays until the job was queued again.
        let query = sqlx::query(
            "WITH mended AS (
                UPDATE jobs
                   SET available_at = acetate_now() + GREATEST(0, available_at - updated_at),
                       quiet_until = acetate_now() + GREATEST(0, available_at - updated_at), updated_at = acetate_now()
                 WHERE state = 'queued' AND available_at > acetate_now() AND updated_at > acetate_now() + $1
                   AND (available_at <= created_at OR updated_at > created_at)
             RETURNING id, available_at),
             dispatches AS (
                UPDATE outbox SET available_at = mended.available_at FROM mended
                 WHERE outbox.job = mended.id AND topic || '' = 'dispatch' AND taken_until IS NULL),
             events AS (
                UPDATE outbox SET available_at = acetate_now(), created_at = acetate_now()
                 WHERE topic <> 'dispatch' AND created_at > acetate_now() + $1 AND available_at > acetate_now()),
             calls AS (
                UPDATE webhooks SET available_at = acetate_now(), created_at = acetate_now()
                 WHERE gave_up_at IS NULL AND created_at > acetate_now() + $1 AND available_at > acetate_now())
             SELECT 1 FROM mended",
        )
        .bind(SLACK);
        let mended = self.all(query).await?.len();
        if mended > 0 {
            self.signal.tell();
        }
        Ok(u64::try_from(mended).unwrap_or(u64::MAX))
    }

    pub(super) async fn clock_warning(&self) -> Result<Option<String>, JobError> {
        let query = sqlx::query("SELECT COUNT(*) AS jobs FROM jobs WHERE created_at > acetate_now() + $1").bind(SLACK);
        Ok(warning(self.one(query).await?.map_or(Ok(0), |row| row.small("jobs"))?))
    }
}

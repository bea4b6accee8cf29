//! A clock that was set back.

use super::open::{SqliteJobStore, database, now_ms};
use crate::{
    database::{
        clock::{SLACK, warning},
        row_mapping::{Columns, to_json},
    },
    job::{JobError, JobId},
};

impl SqliteJobStore {
    pub async fn mend_due_times(&self) -> Result<u64, JobError> {
        let now = now_ms();
        // One look at an index in the usual case.
        let ahead = sqlx::query("SELECT EXISTS (SELECT 1 FROM jobs WHERE created_at > ?) AS ahead").bind(now + SLACK);
        if !ahead.fetch_one(&self.readers).await.map_err(database)?.flag("ahead")? {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        // A time that somebody asked for is later than the submission, and stays until the job was queued again.
        let rows = sqlx::query(
            "UPDATE jobs
                SET available_at = ?1 + MAX(0, available_at - updated_at),
                    quiet_until = ?1 + MAX(0, available_at - updated_at), updated_at = ?1
              WHERE state = 'queued' AND available_at > ?1 AND updated_at > ?1 + ?2
                AND (available_at <= created_at OR updated_at > created_at)
          RETURNING id",
        )
        .bind(now)
        .bind(SLACK)
        .fetch_all(&mut *tx)
        .await
        .map_err(database)?;
        let ids = rows.iter().map(|row| row.word("id")).collect::<Result<Vec<JobId>, _>>()?;
        sqlx::query(
            "UPDATE outbox SET available_at = (SELECT jobs.available_at FROM jobs WHERE jobs.id = outbox.job)
              WHERE topic = 'dispatch' AND taken_until IS NULL AND job IN (SELECT value FROM json_each(?))",
        )
        .bind(to_json(&ids)?)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        for events in [
            "UPDATE outbox SET available_at = ?1, created_at = ?1
              WHERE topic <> 'dispatch' AND created_at > ?1 + ?2 AND available_at > ?1",
            "UPDATE webhooks SET available_at = ?1, created_at = ?1
              WHERE gave_up_at IS NULL AND created_at > ?1 + ?2 AND available_at > ?1",
        ] {
            sqlx::query(events).bind(now).bind(SLACK).execute(&mut *tx).await.map_err(database)?;
        }
        tx.commit().await.map_err(database)?;
        if !ids.is_empty() {
            self.signal.tell();
        }
        Ok(u64::try_from(ids.len()).unwrap_or(u64::MAX))
    }

    pub(super) async fn clock_warning(&self) -> Result<Option<String>, JobError> {
        let query = sqlx::query("SELECT COUNT(*) AS jobs FROM jobs WHERE created_at > ?").bind(now_ms() + SLACK);
        Ok(warning(query.fetch_one(&self.readers).await.map_err(database)?.small("jobs")?))
    }
}

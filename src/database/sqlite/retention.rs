//! Deletes old rows.

use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{
    actions::write_note,
    open::{SqliteJobStore, database, now_ms},
};
use crate::{
    database::{
        Action, EndedJob, Forgotten, PrunePage, PruneRules, Subject, SweepCursor,
        actions::AuditEntry,
        retention::{prune_page, pruned_columns},
        row_mapping::{Columns, timestamp, to_json},
    },
    job::{BatchId, Epoch, JobError, JobId, JobState},
};

/// The number of rows deleted in one transaction.
const CHUNK: usize = 1000;
/// The number of requests read at a time.
const REQUESTS: i64 = 1000;

impl SqliteJobStore {
    /// The file has no clock of its own; all processes that use it are on this machine.
    pub async fn now(&self) -> Result<Timestamp, JobError> {
        let row = sqlx::query("SELECT ? AS now").bind(now_ms()).fetch_one(&self.readers).await.map_err(database)?;
        row.number("now").map(timestamp)
    }

    pub async fn count_prunable(&self, rules: &PruneRules) -> Result<u64, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT COUNT(*) AS jobs FROM jobs WHERE ");
        chosen(&mut query, rules);
        query.build().fetch_one(&self.readers).await.map_err(database)?.small("jobs")
    }

    pub async fn prunable(&self, rules: &PruneRules, after: Option<SweepCursor>) -> Result<PrunePage, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new(concat!("SELECT ", pruned_columns!(), " FROM jobs WHERE "));
        chosen(&mut query, rules);
        if let Some(after) = after {
            query.push(" AND (created_at, id) > (").push_bind(after.created_at);
            query.push(", ").push_bind(after.id.to_string()).push(")");
        }
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(rules.limit);
        prune_page(&query.build().fetch_all(&self.readers).await.map_err(database)?, rules.limit)
    }

    pub async fn retire_results(&self, jobs: &[EndedJob]) -> Result<Vec<JobId>, JobError> {
        let mut retired = Vec::with_capacity(jobs.len());
        for chunk in jobs.chunks(CHUNK) {
            let mut tx = self.begin().await?;
            let (ids, _) = as_read(&mut tx, chunk).await?;
            sqlx::query(
                "UPDATE jobs SET retired_epoch = MAX(retired_epoch, epoch)
                  WHERE id IN (SELECT value FROM json_each(?))",
            )
            .bind(to_json(&ids)?)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
            tx.commit().await.map_err(database)?;
            retired.extend(ids);
        }
        Ok(retired)
    }

    pub async fn delete_rows(&self, jobs: &[EndedJob]) -> Result<Forgotten, JobError> {
        let subject = |chunk: &[EndedJob]| match chunk {
            [job] => Subject::Job(job.id, None),
            _ => Subject::Many(None),
        };
        self.remove(jobs, |chunk| self.note(Action::Deleted, subject(chunk))).await
    }

    pub async fn prune_rows(&self, jobs: &[EndedJob], batch: Option<&BatchId>) -> Result<Forgotten, JobError> {
        self.remove(jobs, |_| self.note(Action::Pruned, Subject::Many(batch))).await
    }

    async fn remove(
        &self,
        jobs: &[EndedJob],
        note: impl Fn(&[EndedJob]) -> Option<AuditEntry>,
    ) -> Result<Forgotten, JobError> {
        let mut forgotten = Forgotten::default();
        for chunk in jobs.chunks(CHUNK) {
            let note = note(chunk);
            let mut tx = self.begin().await?;
            let (ids, left) = as_read(&mut tx, chunk).await?;
            let ids = to_json(&ids)?;
            // The last epoch is not always the row's: a result that was found in the store has an earlier one.
            sqlx::query(
                "INSERT INTO tombstones (id, deleted_at, epoch, batch, row_count)
                 SELECT id, ?2, MAX(epoch, COALESCE((SELECT MAX(attempts.epoch) FROM attempts WHERE job = jobs.id), 0)),
                        batch, (SELECT COUNT(*) FROM dataset_rows AS own WHERE own.job = jobs.id AND own.batch = jobs.batch)
                   FROM jobs WHERE id IN (SELECT value FROM json_each(?1))
                 ON CONFLICT (id) DO UPDATE
                    SET deleted_at = excluded.deleted_at, epoch = MAX(tombstones.epoch, excluded.epoch),
                        batch = excluded.batch, row_count = excluded.row_count",
            )
            .bind(&ids)
            .bind(now_ms())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
            let gone = sqlx::query("DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(?1))")
                .bind(&ids)
                .execute(&mut *tx)
                .await
                .map_err(database)?;
            sqlx::query(
                "DELETE FROM outbox
                  WHERE topic = 'dispatch' AND job IN (SELECT value FROM json_each(?1))
                    AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = outbox.job)",
            )
            .bind(&ids)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
            sqlx::query(
                "DELETE FROM webhooks
                  WHERE gave_up_at IS NOT NULL AND job IN (SELECT value FROM json_each(?1))
                    AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = webhooks.job)",
            )
            .bind(&ids)
            .execute(&mut *tx)
            .await
            .map_err(database)?;
            write_note(&mut tx, note, gone.rows_affected()).await?;
            tx.commit().await.map_err(database)?;
            forgotten += Forgotten { deleted: gone.rows_affected(), left };
        }
        self.signal.tell();
        Ok(forgotten)
    }

    pub async fn requests(&self, after: Option<SweepCursor>) -> Result<(Vec<String>, Option<SweepCursor>), JobError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT id, created_at, request FROM jobs");
        if let Some(after) = after {
            query.push(" WHERE (created_at, id) > (").push_bind(after.created_at);
            query.push(", ").push_bind(after.id.to_string()).push(")");
        }
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(REQUESTS);
        let rows = query.build().fetch_all(&self.readers).await.map_err(database)?;
        let texts = rows.iter().map(|row| row.text("request")).collect::<Result<_, _>>()?;
        Ok((texts, SweepCursor::of_last(&rows)?))
    }

    pub async fn forget_rejections(&self, before: Timestamp) -> Result<u64, JobError> {
        let gone = sqlx::query("DELETE FROM rejections WHERE received_at < ?")
            .bind(before.as_millisecond())
            .execute(self.writer()?)
            .await
            .map_err(database)?;
        Ok(gone.rows_affected())
    }
}

/// The jobs that are still as they were read, and the number of the others.
async fn as_read(tx: &mut SqliteConnection, jobs: &[EndedJob]) -> Result<(Vec<JobId>, u64), JobError> {
    let (mut ids, mut left) = (Vec::new(), 0);
    for job in jobs {
        let row = sqlx::query("SELECT id, state, epoch, claim, finished_at FROM jobs WHERE id = ?")
            .bind(job.id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(database)?;
        let Some(row) = row else { continue };
        let found = EndedJob {
            id: row.word("id")?,
            epoch: Epoch(row.number("epoch")?),
            claim: row.maybe_word("claim")?,
            finished_at: row.maybe_time("finished_at")?,
        };
        match row.word::<JobState>("state")?.is_terminal() && found == *job {
            true => ids.push(job.id),
            false => left += 1,
        }
    }
    Ok((ids, left))
}

fn chosen(query: &mut QueryBuilder<Sqlite>, rules: &PruneRules) {
    query.push("state IN (");
    let mut states = query.separated(", ");
    for state in rules.states.iter().filter(|state| state.is_terminal()) {
        states.push_bind(state.as_str());
    }
    let before = rules.before.as_millisecond();
    // A job that ended before a time was created before it, which limits the index scan.
    query.push(") AND created_at < ").push_bind(before).push(" AND finished_at < ").push_bind(before);
    if let Some(batch) = &rules.batch {
        query.push(" AND batch = ").push_bind(batch.to_string());
    }
}

//! Deletes old rows.

use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite};

use super::{
    actions::write_note,
    open::{SqliteJobStore, database, now_ms},
};
use crate::{
    database::{
        Action, PrunePage, PruneRules, Subject, SweepCursor,
        actions::AuditEntry,
        retention::{prune_page, pruned_columns},
        row_mapping::{Columns, timestamp, to_json},
    },
    job::{BatchId, JobError, JobId},
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

    pub async fn delete_rows(&self, ids: &[JobId]) -> Result<u64, JobError> {
        let subject = |chunk: &[JobId]| match chunk {
            [id] => Subject::Job(*id, None),
            _ => Subject::Many(None),
        };
        self.remove(ids, |chunk| self.note(Action::Deleted, subject(chunk))).await
    }

    pub async fn prune_rows(&self, ids: &[JobId], batch: Option<&BatchId>) -> Result<u64, JobError> {
        self.remove(ids, |_| self.note(Action::Pruned, Subject::Many(batch))).await
    }

    async fn remove(&self, ids: &[JobId], note: impl Fn(&[JobId]) -> Option<AuditEntry>) -> Result<u64, JobError> {
        let mut forgotten = 0;
        for chunk in ids.chunks(CHUNK) {
            let note = note(chunk);
            let ids = to_json(&chunk)?;
            let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(database)?;
            sqlx::query(
                "INSERT INTO tombstones (id, deleted_at)
                 SELECT id, ?2 FROM jobs
                  WHERE id IN (SELECT value FROM json_each(?1)) AND state IN ('succeeded', 'failed', 'cancelled')
                 ON CONFLICT (id) DO UPDATE SET deleted_at = excluded.deleted_at",
            )
            .bind(&ids)
            .bind(now_ms())
            .execute(&mut *tx)
            .await
            .map_err(database)?;
            let gone = sqlx::query(
                "DELETE FROM jobs
                  WHERE id IN (SELECT value FROM json_each(?1)) AND state IN ('succeeded', 'failed', 'cancelled')",
            )
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
            forgotten += gone.rows_affected();
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
            .execute(&self.writer)
            .await
            .map_err(database)?;
        Ok(gone.rows_affected())
    }
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

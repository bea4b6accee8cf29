//! Who did what.

use std::time::Duration;

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::open::{SqliteJobStore, database, now_ms};
use crate::{
    database::{
        Action, ActionFilter, ActionPage, Actor, Subject, Submissions,
        actions::{ACTION_COLUMNS, AuditEntry, action_page, read_submissions},
        row_mapping::milliseconds,
    },
    job::{JobError, JobId},
};

/// The number of entries deleted by one statement, so that others get a turn.
const CHUNK: i64 = 5000;

impl SqliteJobStore {
    pub fn by(&self, actor: Actor) -> Self {
        let mut store = self.clone();
        store.actor = Some(actor);
        store
    }

    /// The entry of an action; absent without an actor.
    pub(super) fn note(&self, action: Action, subject: Subject<'_>) -> Option<AuditEntry> {
        self.actor.as_ref().map(|actor| actor.note(action, subject, None))
    }

    pub async fn record(
        &self,
        action: Action,
        subject: Subject<'_>,
        jobs: u64,
        detail: &serde_json::Value,
    ) -> Result<(), JobError> {
        let Some(actor) = &self.actor else { return Ok(()) };
        let note = actor.note(action, subject, Some(detail.to_string()));
        let mut tx = self.begin().await?;
        write_note(&mut tx, Some(note), jobs).await?;
        tx.commit().await.map_err(database)
    }

    pub async fn list_actions(&self, filter: &ActionFilter) -> Result<ActionPage, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new(ACTION_COLUMNS);
        query.push("TRUE");
        if let Some(since) = filter.since {
            query.push(" AND at >= ").push_bind(since.as_millisecond());
        }
        for (column, wanted) in [
            (" AND actor = ", filter.actor.clone()),
            (" AND action = ", filter.action.clone()),
            (" AND job = ", filter.job.map(|job| job.to_string())),
            (" AND batch = ", filter.batch.as_ref().map(ToString::to_string)),
        ] {
            if let Some(wanted) = wanted {
                query.push(column).push_bind(wanted);
            }
        }
        if let Some(after) = filter.after {
            query.push(" AND id < ").push_bind(after);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(filter.limit) + 1);
        action_page(&query.build().fetch_all(&self.readers).await.map_err(database)?, filter.limit)
    }

    pub async fn submissions(&self, actor: &str, within: Duration) -> Result<Submissions, JobError> {
        let now = now_ms();
        let row = sqlx::query(
            "SELECT COALESCE(SUM(jobs), 0) AS jobs, COALESCE(?3 - MIN(at), 0) AS age FROM actions
              WHERE actor = ?1 AND action = 'submitted' AND at > ?3 - ?2",
        )
        .bind(actor)
        .bind(milliseconds(within))
        .bind(now)
        .fetch_optional(&self.readers)
        .await
        .map_err(database)?;
        read_submissions(row.as_ref())
    }

    pub async fn is_submitted_by(&self, id: JobId, actor: &str) -> Result<bool, JobError> {
        let row = sqlx::query(
            "SELECT id FROM actions
              WHERE job = ?1 AND actor = ?2 AND action = 'submitted'
                AND at >= (SELECT created_at FROM jobs WHERE jobs.id = ?1) LIMIT 1",
        )
        .bind(id.to_string())
        .bind(actor)
        .fetch_optional(&self.readers)
        .await
        .map_err(database)?;
        Ok(row.is_some())
    }

    pub async fn forget_actions(&self, older_than: Duration) -> Result<u64, JobError> {
        let before = now_ms().saturating_sub(milliseconds(older_than));
        let mut forgotten = 0;
        loop {
            let gone = sqlx::query(
                "DELETE FROM actions WHERE id IN (SELECT id FROM actions WHERE at < ? ORDER BY at, id LIMIT ?)",
            )
            .bind(before)
            .bind(CHUNK)
            .execute(self.writer()?)
            .await
            .map_err(database)?
            .rows_affected();
            forgotten += gone;
            if gone < CHUNK.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }
}

/// Writes the entry of a change of so many jobs, if there were any, in the transaction of the change.
pub(super) async fn write_note(tx: &mut SqliteConnection, note: Option<AuditEntry>, jobs: u64) -> Result<(), JobError> {
    write_entry(tx, note.filter(|_| jobs > 0), jobs).await
}

/// Like [`write_note`], for actions that are not about jobs.
pub(super) async fn write_entry(
    tx: &mut SqliteConnection,
    note: Option<AuditEntry>,
    jobs: u64,
) -> Result<(), JobError> {
    let Some(note) = note else { return Ok(()) };
    let mut query = sqlx::query(
        "INSERT INTO actions (operation, actor, address, action, job, batch, detail, at, jobs)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (operation) DO UPDATE SET jobs = jobs + excluded.jobs",
    );
    for text in note.into_array() {
        query = query.bind(text);
    }
    query.bind(now_ms()).bind(i64::try_from(jobs).unwrap_or(i64::MAX)).execute(tx).await.map_err(database)?;
    Ok(())
}

//! Who did what.

use std::time::Duration;

use sqlx::{Postgres, QueryBuilder};

use super::open::PostgresJobStore;
use crate::{
    database::{
        Action, ActionFilter, ActionPage, Actor, Subject, Submissions,
        actions::{ACTION_COLUMNS, action_page, read_submissions},
        row_mapping::{Columns, milliseconds},
    },
    job::{JobError, JobId},
};

/// The number of entries deleted by one statement.
const CHUNK: i64 = 5000;

/// The parts of a `WITH` query that writes an entry about the rows of another one, if there are any. The parameter in
/// between is what [`PostgresJobStore::note`] returns; without an actor it is null, and nothing is written.
macro_rules! noted_head {
    ($rows:literal) => {
        concat!(
            "noted AS (
                INSERT INTO actions (operation, at, actor, address, action, job, batch, detail, jobs)
                SELECT note[1], acetate_now(), note[2], note[3], note[4], note[5], note[6], note[7], COUNT(*)
                  FROM ",
            $rows,
            ", (SELECT "
        )
    };
}
macro_rules! noted_tail {
    () => {
        "::TEXT[] AS note) AS given WHERE note IS NOT NULL GROUP BY note
                ON CONFLICT (operation) DO UPDATE SET jobs = actions.jobs + EXCLUDED.jobs)"
    };
}
macro_rules! noted {
    ($rows:literal, $parameter:literal) => {
        concat!(
            $crate::database::postgres::actions::noted_head!($rows),
            $parameter,
            $crate::database::postgres::actions::noted_tail!()
        )
    };
}
/// The part of a `WITH` query that writes an entry, not about jobs, if the query `changed` changed anything.
macro_rules! noted_change {
    ($parameter:literal) => {
        concat!(
            "noted AS (
                INSERT INTO actions (operation, at, actor, address, action, job, batch, detail, jobs)
                SELECT note[1], acetate_now(), note[2], note[3], note[4], note[5], note[6], note[7], 0
                  FROM changed, (SELECT ",
            $parameter,
            "::TEXT[] AS note) AS given WHERE note IS NOT NULL
                ON CONFLICT (operation) DO NOTHING)"
        )
    };
}
pub(super) use {noted, noted_change, noted_head, noted_tail};

impl PostgresJobStore {
    pub fn by(&self, actor: Actor) -> Self {
        let mut store = self.clone();
        store.actor = Some(actor);
        store
    }

    /// The parameter of an entry; absent without an actor.
    pub(super) fn note(&self, action: Action, subject: Subject<'_>) -> Option<Vec<Option<String>>> {
        self.actor.as_ref().map(|actor| actor.note(action, subject, None).into_array())
    }

    pub async fn record(
        &self,
        action: Action,
        subject: Subject<'_>,
        jobs: u64,
        detail: &serde_json::Value,
    ) -> Result<(), JobError> {
        let Some(actor) = &self.actor else { return Ok(()) };
        let note = actor.note(action, subject, Some(detail.to_string())).into_array();
        let query = sqlx::query(
            "INSERT INTO actions (operation, at, actor, address, action, job, batch, detail, jobs)
             SELECT note[1], acetate_now(), note[2], note[3], note[4], note[5], note[6], note[7], $2
               FROM (SELECT $1::TEXT[] AS note) AS given
             ON CONFLICT (operation) DO UPDATE SET jobs = actions.jobs + EXCLUDED.jobs",
        )
        .bind(note)
        .bind(i64::try_from(jobs).unwrap_or(i64::MAX));
        self.execute(query).await.map(drop)
    }

    pub async fn list_actions(&self, filter: &ActionFilter) -> Result<ActionPage, JobError> {
        let mut query = QueryBuilder::<Postgres>::new(ACTION_COLUMNS);
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
        action_page(&self.all(query.build()).await?, filter.limit)
    }

    pub async fn submissions(&self, actor: &str, within: Duration) -> Result<Submissions, JobError> {
        let query = sqlx::query(
            "SELECT COALESCE(SUM(jobs), 0)::BIGINT AS jobs, COALESCE(acetate_now() - MIN(at), 0) AS age FROM actions
              WHERE actor = $1 AND action = 'submitted' AND at > acetate_now() - $2",
        )
        .bind(actor)
        .bind(milliseconds(within));
        read_submissions(self.one(query).await?.as_ref())
    }

    pub async fn is_submitted_by(&self, id: JobId, actor: &str) -> Result<bool, JobError> {
        let query = sqlx::query(
            "SELECT id AS entry FROM actions
              WHERE job = $1 AND actor = $2 AND action = 'submitted'
                AND at >= (SELECT created_at FROM jobs WHERE jobs.id = $1) LIMIT 1",
        )
        .bind(id.to_string())
        .bind(actor);
        self.one(query).await?.map_or(Ok(false), |row| row.number("entry").map(|_| true))
    }

    pub async fn forget_actions(&self, older_than: Duration) -> Result<u64, JobError> {
        let mut forgotten = 0;
        loop {
            // Another worker may be doing the same.
            let query = sqlx::query(
                "DELETE FROM actions WHERE id = ANY(ARRAY(
                    SELECT id FROM actions WHERE at < acetate_now() - $1
                     ORDER BY at, id LIMIT $2 FOR UPDATE SKIP LOCKED))",
            )
            .bind(milliseconds(older_than))
            .bind(CHUNK);
            let gone = self.execute(query).await?;
            forgotten += gone;
            if gone < CHUNK.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }
}

//! Deletes old rows.

use jiff::Timestamp;
use sqlx::{Postgres, QueryBuilder};

use super::{actions::noted, open::PostgresJobStore};
use crate::{
    database::{
        Action, PrunePage, PruneRules, Subject, SweepCursor,
        retention::{prune_page, pruned_columns},
        row_mapping::Columns,
    },
    job::{BatchId, JobError, JobId},
};

/// The number of rows deleted by one statement.
const CHUNK: usize = 1000;
/// The number of requests read at a time.
const REQUESTS: i64 = 1000;

impl PostgresJobStore {
    pub async fn now(&self) -> Result<Timestamp, JobError> {
        let row = self.one(sqlx::query("SELECT acetate_now() AS now")).await?;
        row.ok_or_else(|| JobError::database("it does not say what time it is"))?.time("now")
    }

    pub async fn count_prunable(&self, rules: &PruneRules) -> Result<u64, JobError> {
        let mut query = QueryBuilder::<Postgres>::new("SELECT COUNT(*) AS jobs FROM jobs WHERE ");
        chosen(&mut query, rules);
        self.one(query.build()).await?.map_or(Ok(0), |row| row.small("jobs"))
    }

    pub async fn prunable(&self, rules: &PruneRules, after: Option<SweepCursor>) -> Result<PrunePage, JobError> {
        let mut query = QueryBuilder::<Postgres>::new(concat!("SELECT ", pruned_columns!(), " FROM jobs WHERE "));
        chosen(&mut query, rules);
        if let Some(after) = after {
            query.push(" AND (created_at, id) > (").push_bind(after.created_at);
            query.push(", ").push_bind(after.id.to_string()).push(")");
        }
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(i64::from(rules.limit));
        prune_page(&self.all(query.build()).await?, rules.limit)
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

    async fn remove(
        &self,
        ids: &[JobId],
        note: impl Fn(&[JobId]) -> Option<Vec<Option<String>>>,
    ) -> Result<u64, JobError> {
        let mut forgotten = 0;
        for chunk in ids.chunks(CHUNK) {
            // Locked in the order of sweeps, so that none of them waits for each other.
            let query = sqlx::query(concat!(
                "WITH ended AS (
                    SELECT id FROM jobs
                     WHERE id = ANY($1) AND state || '' IN ('succeeded', 'failed', 'cancelled')
                     ORDER BY created_at, id FOR UPDATE),
                 gone AS (DELETE FROM jobs WHERE id = ANY(ARRAY(SELECT id FROM ended)) RETURNING id),
                 remembered AS (
                    INSERT INTO tombstones (id, deleted_at) SELECT id, acetate_now() FROM gone
                    ON CONFLICT (id) DO UPDATE SET deleted_at = EXCLUDED.deleted_at),
                 undispatched AS (
                    DELETE FROM outbox WHERE id = ANY(ARRAY(
                        SELECT sent.id FROM gone CROSS JOIN LATERAL (
                            SELECT outbox.id FROM outbox
                             WHERE outbox.job = gone.id AND topic || '' = 'dispatch' FOR UPDATE) AS sent))),
                 given_up AS (
                    DELETE FROM webhooks USING gone WHERE webhooks.job = gone.id AND gave_up_at IS NOT NULL), ",
                noted!("gone", "$2"),
                " SELECT id FROM gone"
            ))
            .bind(chunk.iter().map(JobId::to_string).collect::<Vec<_>>())
            .bind(note(chunk));
            forgotten += u64::try_from(self.all(query).await?.len()).unwrap_or(u64::MAX);
        }
        self.signal.tell();
        Ok(forgotten)
    }

    pub async fn requests(&self, after: Option<SweepCursor>) -> Result<(Vec<String>, Option<SweepCursor>), JobError> {
        let mut query = QueryBuilder::<Postgres>::new("SELECT id, created_at, request FROM jobs");
        if let Some(after) = after {
            query.push(" WHERE (created_at, id) > (").push_bind(after.created_at);
            query.push(", ").push_bind(after.id.to_string()).push(")");
        }
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(REQUESTS);
        let rows = self.all(query.build()).await?;
        let texts = rows.iter().map(|row| row.text("request")).collect::<Result<_, _>>()?;
        Ok((texts, SweepCursor::of_last(&rows)?))
    }

    pub async fn forget_rejections(&self, before: Timestamp) -> Result<u64, JobError> {
        let query = sqlx::query("DELETE FROM rejections WHERE received_at < $1").bind(before.as_millisecond());
        self.execute(query).await
    }
}

fn chosen(query: &mut QueryBuilder<Postgres>, rules: &PruneRules) {
    let states: Vec<&'static str> =
        rules.states.iter().filter(|state| state.is_terminal()).map(|state| state.as_str()).collect();
    let before = rules.before.as_millisecond();
    // A job that ended before a time was created before it, which limits the index scan.
    query.push("state = ANY(").push_bind(states).push(") AND created_at < ").push_bind(before);
    query.push(" AND finished_at < ").push_bind(before);
    if let Some(batch) = &rules.batch {
        query.push(" AND batch = ").push_bind(batch.to_string());
    }
}

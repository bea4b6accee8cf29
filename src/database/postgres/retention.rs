//! Deletes old rows.

use jiff::Timestamp;
use sqlx::{Postgres, QueryBuilder};

use super::open::PostgresJobStore;
use crate::{
    database::{PruneRules, Pruned, listing::pruned, row_mapping::job_columns},
    job::{JobError, JobId},
};

/// The number of rows deleted by one statement.
const CHUNK: usize = 1000;

impl PostgresJobStore {
    pub async fn prunable(&self, rules: &PruneRules) -> Result<Vec<Pruned>, JobError> {
        let states: Vec<&str> =
            rules.states.iter().filter(|state| state.is_terminal()).map(|state| state.as_str()).collect();
        let before = rules.before.as_millisecond();
        let mut query = QueryBuilder::<Postgres>::new(concat!(
            "SELECT ",
            job_columns!(),
            ", (SELECT STRING_AGG(epoch::TEXT, ',') FROM attempts WHERE attempts.job = jobs.id) AS epochs
               FROM jobs WHERE state = ANY("
        ));
        // A job that ended before a time was created before it, which limits the index scan.
        query.push_bind(states).push(") AND created_at < ").push_bind(before);
        query.push(" AND finished_at < ").push_bind(before);
        if let Some(batch) = &rules.batch {
            query.push(" AND batch = ").push_bind(batch.to_string());
        }
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(i64::from(rules.limit));
        Ok(self.all(query.build()).await?.iter().filter_map(pruned).collect())
    }

    pub async fn forget(&self, ids: &[JobId]) -> Result<u64, JobError> {
        let mut forgotten = 0;
        for chunk in ids.chunks(CHUNK) {
            let query = sqlx::query(
                "WITH gone AS (
                    DELETE FROM jobs WHERE state IN ('succeeded', 'failed', 'cancelled') AND id = ANY($1) RETURNING id),
                 unsent AS (DELETE FROM outbox USING gone WHERE outbox.job = gone.id AND topic = 'dispatch')
                 SELECT id FROM gone",
            )
            .bind(chunk.iter().map(JobId::to_string).collect::<Vec<_>>());
            forgotten += u64::try_from(self.all(query).await?.len()).unwrap_or(u64::MAX);
        }
        self.signal.tell();
        Ok(forgotten)
    }

    pub async fn forget_rejections(&self, before: Timestamp) -> Result<u64, JobError> {
        let query = sqlx::query("DELETE FROM rejections WHERE received_at < $1").bind(before.as_millisecond());
        self.execute(query).await
    }
}

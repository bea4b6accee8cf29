//! Deletes old rows.

use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite};

use super::open::{SqliteJobStore, database};
use crate::{
    database::{PruneRules, Pruned, listing::pruned, row_mapping::job_columns},
    job::{JobError, JobId},
};

/// The number of rows deleted by one statement.
const CHUNK: usize = 500;

impl SqliteJobStore {
    pub async fn prunable(&self, rules: &PruneRules) -> Result<Vec<Pruned>, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new(concat!(
            "SELECT ",
            job_columns!(),
            ", (SELECT GROUP_CONCAT(epoch) FROM attempts WHERE attempts.job = jobs.id) AS epochs
               FROM jobs WHERE state IN ("
        ));
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
        query.push(" ORDER BY created_at, id LIMIT ").push_bind(rules.limit);
        let rows = query.build().fetch_all(&self.readers).await.map_err(database)?;
        Ok(rows.iter().filter_map(pruned).collect())
    }

    pub async fn forget(&self, ids: &[JobId]) -> Result<u64, JobError> {
        let mut forgotten = 0;
        for chunk in ids.chunks(CHUNK) {
            let mut query = QueryBuilder::<Sqlite>::new(
                "DELETE FROM jobs WHERE state IN ('succeeded', 'failed', 'cancelled') AND id IN (",
            );
            let mut list = query.separated(", ");
            for id in chunk {
                list.push_bind(id.to_string());
            }
            query.push(")");
            forgotten += query.build().execute(&self.writer).await.map_err(database)?.rows_affected();
        }
        sqlx::query("DELETE FROM outbox WHERE topic = 'dispatch' AND job NOT IN (SELECT id FROM jobs)")
            .execute(&self.writer)
            .await
            .map_err(database)?;
        self.signal.tell();
        Ok(forgotten)
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

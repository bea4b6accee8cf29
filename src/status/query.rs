//! Reading rows.

use sqlx::{QueryBuilder, Sqlite, sqlite::SqliteRow};
use tracing::warn;

use super::{
    row::{Attempt, JobRow, get, read_attempt, read_job},
    sqlite::{SqliteStatus, database},
};
use crate::job::{JobError, JobId, JobKind, JobState};

/// Which rows of a listing; the newest come first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub state: Option<JobState>,
    pub kind: Option<JobKind>,
    pub limit: u32,
    /// The last job of the page before.
    pub after: Option<JobId>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub jobs: Vec<JobRow>,
    /// Where the next page starts; absent on the last one.
    pub next: Option<JobId>,
}

impl SqliteStatus {
    pub async fn get(&self, id: JobId) -> Result<Option<JobRow>, JobError> {
        let row = sqlx::query("SELECT * FROM jobs WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(database)?;
        row.as_ref().map(read_job).transpose()
    }

    pub async fn list(&self, filter: &Filter) -> Result<Page, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM jobs WHERE TRUE");
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state.as_str());
        }
        if let Some(kind) = filter.kind {
            query.push(" AND kind = ").push_bind(kind.as_str());
        }
        if let Some(after) = filter.after {
            query.push(" AND (created_at, id) < (SELECT created_at, id FROM jobs WHERE id = ");
            query.push_bind(after.to_string()).push(")");
        }
        let limit = filter.limit.max(1);
        // One more than asked for tells whether there is another page.
        query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit) + 1);
        let rows = query.build().fetch_all(&self.readers).await.map_err(database)?;
        let more = rows.len() > limit as usize;
        let shown = &rows[..rows.len().min(limit as usize)];
        let next = if more { shown.last().and_then(|row| get::<String>(row, "id").ok()?.parse().ok()) } else { None };
        // One row that cannot be read, of another version say, must not hide the others.
        let jobs = shown.iter().filter_map(readable).collect();
        Ok(Page { jobs, next })
    }

    /// The newest job of this body that has not ended: the wish of somebody whose process was killed.
    pub async fn find_unfinished(&self, fingerprint: &str) -> Result<Option<JobRow>, JobError> {
        let row = sqlx::query(
            "SELECT * FROM jobs WHERE fingerprint = ? AND state IN ('queued', 'running')
              ORDER BY created_at DESC, id DESC LIMIT 1",
        )
        .bind(fingerprint)
        .fetch_optional(&self.readers)
        .await
        .map_err(database)?;
        Ok(row.as_ref().and_then(readable))
    }

    /// The history of a job, oldest attempt first.
    pub async fn attempts(&self, id: JobId) -> Result<Vec<Attempt>, JobError> {
        let rows = sqlx::query("SELECT * FROM attempts WHERE job = ? ORDER BY epoch")
            .bind(id.to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(database)?;
        rows.iter().map(read_attempt).collect()
    }

    /// How many jobs are in each state that occurs.
    pub async fn count(&self) -> Result<Vec<(JobState, i64)>, JobError> {
        let rows = sqlx::query("SELECT state, COUNT(*) AS jobs FROM jobs GROUP BY state ORDER BY state")
            .fetch_all(&self.readers)
            .await
            .map_err(database)?;
        rows.iter()
            .map(|row| {
                let state: String = get(row, "state")?;
                let state = state.parse().map_err(|reason| JobError::Database { reason })?;
                Ok((state, get(row, "jobs")?))
            })
            .collect()
    }
}

/// The row, or a line in the log about why it is left out.
fn readable(row: &SqliteRow) -> Option<JobRow> {
    read_job(row).inspect_err(|error| warn!("left out: {error}")).ok()
}

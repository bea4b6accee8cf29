//! Reading rows.

use jiff::Timestamp;
use sqlx::{QueryBuilder, Sqlite};

use super::{
    dispatch::next_jobs,
    open::{SqliteJobStore, database, now_ms},
};
use crate::{
    database::{
        Attempt, Cursor, Depth, Filter, JobRow, Page,
        listing::page,
        row_mapping::{
            Columns, JOB_WITH_ATTEMPTS, is_of_known_kind, job_columns, read_job, read_with_attempts, readable, to_json,
        },
    },
    job::{JobError, JobId, JobState},
};

impl SqliteJobStore {
    pub async fn get(&self, id: JobId) -> Result<Option<JobRow>, JobError> {
        let row = sqlx::query(concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = ?"))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(database)?;
        row.as_ref().map(read_job).transpose()
    }

    pub async fn get_with_attempts(&self, id: JobId) -> Result<Option<(JobRow, Vec<Attempt>)>, JobError> {
        let query = sqlx::query(JOB_WITH_ATTEMPTS).bind(id.to_string());
        read_with_attempts(&query.fetch_all(&self.readers).await.map_err(database)?)
    }

    pub async fn get_many(&self, ids: &[JobId]) -> Result<Vec<JobRow>, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new(concat!("SELECT ", job_columns!(), " FROM jobs WHERE id IN ("));
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(id.to_string());
        }
        query.push(")");
        let rows = query.build().fetch_all(&self.readers).await.map_err(database)?;
        Ok(rows.iter().filter_map(readable).collect())
    }

    pub async fn results_of(&self, content_key: &str, limit: u32) -> Result<Vec<JobRow>, JobError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            job_columns!(),
            " FROM jobs WHERE content_key = ? ORDER BY finished_at DESC, id DESC LIMIT ?"
        ));
        let rows = query.bind(content_key).bind(i64::from(limit)).fetch_all(&self.readers).await.map_err(database)?;
        Ok(rows.iter().filter_map(readable).collect())
    }

    pub async fn list(&self, filter: &Filter) -> Result<Page, JobError> {
        let mut query = QueryBuilder::<Sqlite>::new(concat!("SELECT ", job_columns!(), " FROM jobs WHERE TRUE"));
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state.as_str());
        }
        if let Some(kind) = filter.kind {
            query.push(" AND kind = ").push_bind(kind.as_str());
        }
        if let Some(batch) = &filter.batch {
            query.push(" AND batch = ").push_bind(batch.to_string());
        }
        // A row of an older version has no search words.
        for needle in filter.needles() {
            query.push(" AND instr(COALESCE(search, lower(request)), ").push_bind(needle).push(") > 0");
        }
        if let Some(after) = filter.after {
            query.push(" AND (created_at, id) < (").push_bind(self.time_of(after).await?);
            query.push(", ").push_bind(after.id.to_string()).push(")");
        }
        let limit = filter.limit.max(1);
        // One row more than the limit shows whether there is another page.
        query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit) + 1);
        let rows = query.build().fetch_all(&self.readers).await.map_err(database)?;
        Ok(page(&rows, limit))
    }

    pub async fn last_job(&self) -> Result<Option<JobId>, JobError> {
        let row = sqlx::query("SELECT id FROM jobs ORDER BY created_at DESC, id DESC LIMIT 1")
            .fetch_optional(&self.readers)
            .await
            .map_err(database)?;
        row.map(|row| row.word("id")).transpose()
    }

    pub async fn jobs_starting_with(&self, beginning: &str, limit: u32) -> Result<Vec<JobId>, JobError> {
        // After every digit and dash, and in the index's order.
        let end = format!("{beginning}~");
        let rows = sqlx::query("SELECT id FROM jobs WHERE id >= ? AND id < ? ORDER BY id LIMIT ?")
            .bind(beginning)
            .bind(end)
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(database)?;
        rows.iter().map(|row| row.word("id")).collect()
    }

    async fn time_of(&self, cursor: Cursor) -> Result<i64, JobError> {
        if let Some(created_at) = cursor.created_at {
            return Ok(created_at);
        }
        let row = sqlx::query("SELECT created_at FROM jobs WHERE id = ?")
            .bind(cursor.id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(database)?;
        row.ok_or_else(|| cursor.unknown())?.number("created_at")
    }

    pub async fn find_unfinished(&self, fingerprint: &str) -> Result<Option<JobRow>, JobError> {
        let row = sqlx::query(concat!(
            "SELECT ",
            job_columns!(),
            " FROM jobs WHERE fingerprint = ? AND state IN ('queued', 'running')
              ORDER BY created_at DESC, id DESC LIMIT 1"
        ))
        .bind(fingerprint)
        .fetch_optional(&self.readers)
        .await
        .map_err(database)?;
        Ok(row.as_ref().and_then(readable))
    }

    pub async fn count(&self) -> Result<Vec<(JobState, i64)>, JobError> {
        let rows = sqlx::query("SELECT state, COUNT(*) AS jobs FROM jobs GROUP BY state ORDER BY state")
            .fetch_all(&self.readers)
            .await
            .map_err(database)?;
        rows.iter().map(|row| Ok((row.word("state")?, row.number("jobs")?))).collect()
    }

    pub async fn queue_depth(&self) -> Result<Vec<Depth>, JobError> {
        let rows = sqlx::query(
            "SELECT kind, COUNT(*) AS jobs, MIN(available_at) AS oldest FROM jobs WHERE state = 'queued'
              GROUP BY kind ORDER BY kind",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(database)?;
        rows.iter()
            .filter(|row| is_of_known_kind(*row))
            .map(|row| Ok(Depth { kind: row.word("kind")?, queued: row.small("jobs")?, oldest: row.time("oldest")? }))
            .collect()
    }

    pub async fn due(&self, limit: u32) -> Result<Vec<(JobId, u8, Timestamp)>, JobError> {
        let mut reader = self.readers.acquire().await.map_err(database)?;
        let now = now_ms();
        let next = next_jobs(&mut reader, &self.rules, &self.turns, now, limit).await?;
        // After those whose worker is dead; within a priority, the order of the list stays.
        let rows = sqlx::query(
            "SELECT id, priority, lease_until AS at, 0 AS place FROM jobs
              WHERE state = 'running' AND lease_until <= ?1
                AND NOT EXISTS (SELECT 1 FROM pauses WHERE scope = 'all' OR (scope = 'kind' AND name = jobs.kind)
                                                        OR (scope = 'batch' AND name = jobs.batch))
             UNION ALL
             SELECT jobs.id, priority, available_at, 1 + next.key FROM json_each(?2) AS next
               JOIN jobs ON jobs.id = next.value
              ORDER BY priority DESC, place, at LIMIT ?3",
        )
        .bind(now)
        .bind(to_json(&next)?)
        .bind(limit)
        .fetch_all(&mut *reader)
        .await
        .map_err(database)?;
        rows.iter().map(|row| Ok((row.word("id")?, row.small("priority")?, row.time("at")?))).collect()
    }
}

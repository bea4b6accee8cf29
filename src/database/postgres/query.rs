//! Reading rows.

use jiff::Timestamp;
use sqlx::{Postgres, QueryBuilder};

use super::open::PostgresJobStore;
use crate::{
    database::{
        Attempt, Cursor, Depth, Filter, JobRow, Page,
        listing::page,
        row_mapping::{
            Columns, JOB_WITH_ATTEMPTS, is_of_known_kind, job_columns, read_job, read_with_attempts, readable,
        },
    },
    job::{JobError, JobId, JobState},
};

impl PostgresJobStore {
    pub async fn get(&self, id: JobId) -> Result<Option<JobRow>, JobError> {
        let query = sqlx::query(concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = $1")).bind(id.to_string());
        self.one(query).await?.as_ref().map(read_job).transpose()
    }

    pub async fn get_with_attempts(&self, id: JobId) -> Result<Option<(JobRow, Vec<Attempt>)>, JobError> {
        read_with_attempts(&self.all(sqlx::query(JOB_WITH_ATTEMPTS).bind(id.to_string())).await?)
    }

    pub async fn get_many(&self, ids: &[JobId]) -> Result<Vec<JobRow>, JobError> {
        let query = sqlx::query(concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = ANY($1)"))
            .bind(ids.iter().map(JobId::to_string).collect::<Vec<_>>());
        Ok(self.all(query).await?.iter().filter_map(readable).collect())
    }

    pub async fn results_of(&self, content_key: &str, limit: u32) -> Result<Vec<JobRow>, JobError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            job_columns!(),
            " FROM jobs WHERE content_key = $1 ORDER BY finished_at DESC, id DESC LIMIT $2"
        ));
        let rows = self.all(query.bind(content_key).bind(i64::from(limit))).await?;
        Ok(rows.iter().filter_map(readable).collect())
    }

    pub async fn list(&self, filter: &Filter) -> Result<Page, JobError> {
        let mut query = QueryBuilder::<Postgres>::new(concat!("SELECT ", job_columns!(), " FROM jobs WHERE TRUE"));
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
            query.push(" AND strpos(COALESCE(search, lower(request)), ").push_bind(needle).push(") > 0");
        }
        if let Some(after) = filter.after {
            query.push(" AND (created_at, id) < (").push_bind(self.time_of(after).await?);
            query.push(", ").push_bind(after.id.to_string()).push(")");
        }
        let limit = filter.limit.max(1);
        // One row more than the limit shows whether there is another page.
        query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit) + 1);
        Ok(page(&self.all(query.build()).await?, limit))
    }

    pub async fn last_job(&self) -> Result<Option<JobId>, JobError> {
        let query = sqlx::query("SELECT id FROM jobs ORDER BY created_at DESC, id DESC LIMIT 1");
        self.one(query).await?.map(|row| row.word("id")).transpose()
    }

    pub async fn jobs_starting_with(&self, beginning: &str, limit: u32) -> Result<Vec<JobId>, JobError> {
        // After every digit and dash, and in the index's order.
        let query = sqlx::query("SELECT id FROM jobs WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $3")
            .bind(beginning.to_owned())
            .bind(format!("{beginning}~"))
            .bind(i64::from(limit));
        self.all(query).await?.iter().map(|row| row.word("id")).collect()
    }

    async fn time_of(&self, cursor: Cursor) -> Result<i64, JobError> {
        if let Some(created_at) = cursor.created_at {
            return Ok(created_at);
        }
        let query = sqlx::query("SELECT created_at FROM jobs WHERE id = $1").bind(cursor.id.to_string());
        self.one(query).await?.ok_or_else(|| cursor.unknown())?.number("created_at")
    }

    pub async fn find_unfinished(&self, fingerprint: &str) -> Result<Option<JobRow>, JobError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            job_columns!(),
            " FROM jobs WHERE fingerprint = $1 AND state IN ('queued', 'running')
              ORDER BY created_at DESC, id DESC LIMIT 1"
        ))
        .bind(fingerprint);
        Ok(self.one(query).await?.as_ref().and_then(readable))
    }

    pub async fn count(&self) -> Result<Vec<(JobState, i64)>, JobError> {
        let query = sqlx::query("SELECT state, COUNT(*) AS jobs FROM jobs GROUP BY state ORDER BY state");
        self.all(query).await?.iter().map(|row| Ok((row.word("state")?, row.number("jobs")?))).collect()
    }

    pub async fn queue_depth(&self) -> Result<Vec<Depth>, JobError> {
        let query = sqlx::query(
            "SELECT kind, COUNT(*) AS jobs, MIN(available_at) AS oldest FROM jobs WHERE state = 'queued'
              GROUP BY kind ORDER BY kind",
        );
        let depth = |row: &_| {
            let row: &sqlx::postgres::PgRow = row;
            Ok(Depth { kind: row.word("kind")?, queued: row.small("jobs")?, oldest: row.time("oldest")? })
        };
        self.all(query).await?.iter().filter(|row| is_of_known_kind(*row)).map(depth).collect()
    }

    pub async fn due(&self, limit: u32) -> Result<Vec<(JobId, u8, Timestamp)>, JobError> {
        let (names, limits) = self.rules.named_limits();
        // The order of `acetate_dispatch`. This is for a single process without a broker, so it may look at all rows.
        let query = sqlx::query(
            "WITH active AS (
                SELECT COALESCE(tenant, '') AS tenant, COALESCE(batch, '') AS batch FROM jobs
                 WHERE state = 'running' AND lease_until > acetate_now()),
             busy AS (SELECT tenant, batch, COUNT(*) AS jobs FROM active GROUP BY 1, 2),
             tenants AS (SELECT tenant, COUNT(*) AS jobs FROM active GROUP BY 1),
             claimable AS (
                SELECT id, priority, COALESCE(tenant, '') AS tenant, COALESCE(batch, '') AS batch, available_at AS at,
                       state
                  FROM jobs
                 WHERE (state = 'queued' AND available_at <= acetate_now()
                     OR state = 'running' AND lease_until <= acetate_now())
                   AND NOT EXISTS (SELECT 1 FROM pauses WHERE scope = 'all' OR (scope = 'kind' AND name = jobs.kind)
                                                           OR (scope = 'batch' AND name = jobs.batch))),
             heads AS (
                SELECT claimable.*, CASE state WHEN 'running' THEN 0 ELSE COALESCE(busy.jobs, 0) + ROW_NUMBER() OVER (
                           PARTITION BY priority, claimable.tenant, claimable.batch, state ORDER BY at, id) END AS turn
                  FROM claimable
                  LEFT JOIN busy ON busy.tenant = claimable.tenant AND busy.batch = claimable.batch),
             limited AS (
                SELECT heads.*, COALESCE(tenants.jobs, 0) + ROW_NUMBER() OVER (
                           PARTITION BY heads.tenant ORDER BY priority DESC, turn, at, id) AS nth,
                       CASE heads.tenant WHEN '' THEN 0 ELSE COALESCE(
                           (SELECT own.most FROM UNNEST($3::TEXT[], $4::BIGINT[]) AS own (name, most)
                             WHERE own.name = heads.tenant), $2) END AS most
                  FROM heads LEFT JOIN tenants ON tenants.tenant = heads.tenant)
             SELECT id, priority, at FROM limited WHERE most = 0 OR nth <= most
              ORDER BY priority DESC, turn, at, id LIMIT $1",
        )
        .bind(i64::from(limit))
        .bind(i64::from(self.rules.tenant_limit))
        .bind(names)
        .bind(limits);
        let rows = self.all(query).await?;
        rows.iter().map(|row| Ok((row.word("id")?, row.small("priority")?, row.time("at")?))).collect()
    }
}

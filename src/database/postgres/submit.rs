//! Accepts jobs, and stores refused messages.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::{actions::noted, open::PostgresJobStore};
use crate::{
    database::{
        Action, JobRow, Rejection, Subject, SubmitOptions, Submitted,
        row_mapping::{Columns, job_columns, read_job, read_rejection, to_json},
        search,
        transitions::check_same,
    },
    job::{Epoch, ErrorRecord, JobError, JobId, JobRequest, JobState, TraceContext},
};

/// The number of requests in one statement.
const CHUNK: usize = 1000;

/// The approximate number of request bytes in one statement.
const CHUNK_BYTES: usize = 8 << 20;

impl PostgresJobStore {
    pub async fn submit(&self, request: &JobRequest, options: &SubmitOptions) -> Result<Submitted, JobError> {
        let note = self.note(Action::Submitted, Subject::Job(request.id, options.batch.as_ref()));
        let mut results = self.submit_chunk(&[(request, request.to_json())], options, note).await?;
        results.pop().unwrap_or_else(|| Err(vanished(request.id)))
    }

    pub async fn submit_many(
        &self,
        requests: &[JobRequest],
        options: &SubmitOptions,
    ) -> Vec<Result<Submitted, JobError>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut chunk = Vec::new();
            let mut bytes = 0;
            for request in rest.iter().take(CHUNK) {
                let json = request.to_json();
                bytes += json.len();
                chunk.push((request, json));
                if bytes > CHUNK_BYTES {
                    break;
                }
            }
            let note = self.note(Action::Submitted, Subject::Many(options.batch.as_ref()));
            match self.submit_chunk(&chunk, options, note).await {
                Ok(submitted) => results.extend(submitted),
                Err(error) => {
                    results.resize(requests.len(), Err(error));
                    break;
                }
            }
            rest = &rest[chunk.len()..];
        }
        results
    }

    /// One statement for all of them; then the existing rows with the same ids.
    async fn submit_chunk(
        &self,
        chunk: &[(&JobRequest, String)],
        options: &SubmitOptions,
        note: Option<Vec<Option<String>>>,
    ) -> Result<Vec<Result<Submitted, JobError>>, JobError> {
        // If an id occurs twice, the first one counts. Sorted by id, so that two submitters of the same jobs wait for
        // each other instead of deadlocking.
        let mut seen = HashSet::new();
        let mut unique: Vec<_> = chunk.iter().filter(|(request, _)| seen.insert(request.id)).collect();
        unique.sort_by_key(|(request, _)| request.id);
        let mut new = self.insert(&unique, options, false, note).await?;
        if !new.is_empty() {
            self.signal.tell();
        }

        let mut answers = Vec::with_capacity(chunk.len());
        let mut others = Vec::new();
        for (request, _) in chunk {
            let row = new.remove(&request.id).map(|(created_at, available_at)| {
                Submitted::New(Box::new(JobRow { available_at, ..fresh(request, options, created_at) }))
            });
            if row.is_none() {
                others.push(request.id.to_string());
            }
            answers.push(row);
        }
        let known = if others.is_empty() { HashMap::new() } else { self.read_many(&others).await? };
        let answer = |((request, _), new): (&(&JobRequest, String), Option<Submitted>)| match new {
            Some(submitted) => Ok(submitted),
            None => {
                let row = known.get(&request.id).ok_or_else(|| vanished(request.id))?;
                check_same(&row.request, request)?;
                Ok(Submitted::Known(Box::new(row.clone())))
            }
        };
        Ok(chunk.iter().zip(answers).map(answer).collect())
    }

    /// The ids of the new rows, with their creation times and the times when they may be claimed. A message does not
    /// create the job of a tombstone again; a client that submits it now does.
    pub(super) async fn insert(
        &self,
        requests: &[&(&JobRequest, String)],
        options: &SubmitOptions,
        from_message: bool,
        note: Option<Vec<Option<String>>>,
    ) -> Result<HashMap<JobId, (Timestamp, Timestamp)>, JobError> {
        let texts = |text: &dyn Fn(&JobRequest) -> String| -> Vec<String> {
            requests.iter().map(|(request, _)| text(request)).collect()
        };
        let query = sqlx::query(concat!(
            "WITH new AS (
                INSERT INTO jobs (id, fingerprint, kind, request, priority, batch, state, available_at, quiet_until,
                                  created_at, updated_at, search, webhook, tenant, traceparent, tracestate, local,
                                  reuse)
                SELECT id, fingerprint, kind, request, priority, $6, 'queued', COALESCE($7, acetate_now()),
                       COALESCE($7, acetate_now()), acetate_now(), acetate_now(), search, $10, NULLIF(tenant, ''),
                       $14, $15, $16, $17
                  FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::BIGINT[], $9::TEXT[], $12::TEXT[])
                    AS requests (id, fingerprint, kind, request, priority, search, tenant)
                 WHERE NOT ($11 AND EXISTS (SELECT 1 FROM tombstones WHERE tombstones.id = requests.id))
                ON CONFLICT (id) DO NOTHING
             RETURNING id, kind, priority, tenant, batch, created_at, available_at, traceparent, tracestate),
             sent AS (
                INSERT INTO outbox (job, topic, kind, priority, tenant, batch, available_at, created_at, traceparent,
                                    tracestate)
                SELECT id, 'dispatch', kind, priority, COALESCE(tenant, ''), COALESCE(batch, ''), available_at,
                       created_at, traceparent, tracestate
                  FROM new WHERE $8
                ON CONFLICT (job) WHERE topic = 'dispatch' AND taken_until IS NULL
                DO UPDATE SET available_at = EXCLUDED.available_at), ",
            noted!("new", "$13"),
            " SELECT id, created_at, available_at FROM new"
        ))
        .bind(texts(&|request| request.id.to_string()))
        .bind(texts(&JobRequest::fingerprint))
        .bind(texts(&|request| request.task.kind().to_string()))
        .bind(requests.iter().map(|(_, json)| json.as_str()).collect::<Vec<_>>())
        .bind(requests.iter().map(|(request, _)| i64::from(request.priority)).collect::<Vec<_>>())
        .bind(options.batch.as_ref().map(|batch| batch.as_str()))
        .bind(options.at.map(Timestamp::as_millisecond))
        .bind(self.service())
        .bind(texts(&|request| search::text(request, options.batch.as_ref())))
        .bind(options.webhook.as_deref())
        .bind(from_message)
        .bind(texts(&|request| request.tenant().unwrap_or_default().to_owned()))
        .bind(note)
        .bind(options.trace.as_ref().map(TraceContext::traceparent))
        .bind(options.trace.as_ref().and_then(TraceContext::tracestate))
        .bind(options.local)
        .bind(options.reuse);
        let rows = self.all(query).await?;
        rows.iter().map(|row| Ok((row.word("id")?, (row.time("created_at")?, row.time("available_at")?)))).collect()
    }

    async fn read_many(&self, ids: &[String]) -> Result<HashMap<JobId, JobRow>, JobError> {
        let query = sqlx::query(concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = ANY($1)")).bind(ids);
        let rows = self.all(query).await?;
        rows.iter().map(|row| read_job(row).map(|row| (row.id(), row))).collect()
    }

    pub async fn reject(&self, id: JobId, raw: &str, error: &ErrorRecord) -> Result<bool, JobError> {
        let query = sqlx::query(
            "INSERT INTO rejections (id, received_at, error, body)
             SELECT $1, acetate_now(), $2, $3
              WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = $1)
                AND NOT EXISTS (SELECT 1 FROM tombstones WHERE id = $1)
             ON CONFLICT (id) DO UPDATE
                SET received_at = EXCLUDED.received_at, error = EXCLUDED.error, body = EXCLUDED.body",
        )
        .bind(id.to_string())
        .bind(to_json(error)?)
        .bind(Rejection::body_of(raw));
        self.execute(query).await.map(|kept| kept > 0)
    }

    pub async fn may_reject(&self, id: JobId) -> Result<bool, JobError> {
        let query = sqlx::query(
            "SELECT NOT EXISTS (SELECT 1 FROM jobs WHERE id = $1)
                AND NOT EXISTS (SELECT 1 FROM tombstones WHERE id = $1) AS free",
        )
        .bind(id.to_string());
        self.one(query).await?.map_or(Ok(false), |row| row.flag("free"))
    }

    pub async fn rejection(&self, id: JobId) -> Result<Option<Rejection>, JobError> {
        let query =
            sqlx::query("SELECT id, received_at, error, body FROM rejections WHERE id = $1").bind(id.to_string());
        self.one(query).await?.as_ref().map(read_rejection).transpose()
    }
}

/// The row that the statement created.
fn fresh(request: &JobRequest, options: &SubmitOptions, created_at: Timestamp) -> JobRow {
    JobRow {
        request: request.clone(),
        batch: options.batch.clone(),
        state: JobState::Queued,
        attempts: 0,
        epoch: Epoch(0),
        claim: None,
        retired: Epoch(0),
        progress: None,
        error: None,
        cancel_requested: false,
        local: options.local,
        reuse: options.reuse,
        worker: None,
        lease_until: None,
        available_at: created_at,
        trace: options.trace.clone(),
        published: None,
        created_at,
        started_at: None,
        updated_at: created_at,
        finished_at: None,
    }
}

pub(super) fn vanished(id: JobId) -> JobError {
    JobError::database(format!("job {id} was deleted while it was submitted; submit it again"))
}

//! Deletes old rows.

use jiff::Timestamp;
use sqlx::{Postgres, QueryBuilder, postgres::PgArguments, query::Query};

use super::{actions::noted, open::PostgresJobStore};
use crate::{
    database::{
        Action, EndedJob, Forgotten, PrunePage, PruneRules, Subject, SweepCursor,
        retention::{prune_page, pruned_columns},
        row_mapping::Columns,
    },
    job::{BatchId, JobError, JobId},
};

/// The number of rows deleted by one statement.
const CHUNK: usize = 1000;
/// The number of requests read at a time.
const REQUESTS: i64 = 1000;

/// The parts of a `WITH` query that lock the ended jobs that are still as they were read ([`bind_as_read`]), in the
/// order of sweeps, so that none of them waits for each other.
macro_rules! as_read {
    () => {
        "seen AS (
            SELECT * FROM UNNEST($1::TEXT[], $2::BIGINT[], $3::TEXT[], $4::BIGINT[])
                AS seen (id, epoch, claim, finished_at)),
         ended AS (
            SELECT jobs.id FROM jobs JOIN seen ON seen.id = jobs.id
             WHERE jobs.id = ANY($1) AND state || '' IN ('succeeded', 'failed', 'cancelled')
               AND jobs.epoch = seen.epoch AND jobs.claim IS NOT DISTINCT FROM seen.claim
               AND jobs.finished_at = seen.finished_at
             ORDER BY created_at, jobs.id FOR UPDATE OF jobs)"
    };
}

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

    pub async fn retire_results(&self, jobs: &[EndedJob]) -> Result<Vec<JobId>, JobError> {
        let mut retired = Vec::with_capacity(jobs.len());
        for chunk in jobs.chunks(CHUNK) {
            let query = sqlx::query(concat!(
                "WITH ",
                as_read!(),
                " UPDATE jobs SET retired_epoch = GREATEST(retired_epoch, epoch)
                   WHERE id = ANY(ARRAY(SELECT id FROM ended)) RETURNING id"
            ));
            for row in self.all(bind_as_read(query, chunk)).await? {
                retired.push(row.word("id")?);
            }
        }
        Ok(retired)
    }

    pub async fn delete_rows(&self, jobs: &[EndedJob]) -> Result<Forgotten, JobError> {
        let subject = |chunk: &[EndedJob]| match chunk {
            [job] => Subject::Job(job.id, None),
            _ => Subject::Many(None),
        };
        self.remove(jobs, |chunk| self.note(Action::Deleted, subject(chunk))).await
    }

    pub async fn prune_rows(&self, jobs: &[EndedJob], batch: Option<&BatchId>) -> Result<Forgotten, JobError> {
        self.remove(jobs, |_| self.note(Action::Pruned, Subject::Many(batch))).await
    }

    async fn remove(
        &self,
        jobs: &[EndedJob],
        note: impl Fn(&[EndedJob]) -> Option<Vec<Option<String>>>,
    ) -> Result<Forgotten, JobError> {
        let mut forgotten = Forgotten::default();
        for chunk in jobs.chunks(CHUNK) {
            // The last epoch is not always the row's: a result that was found in the store has an earlier one.
            let query = sqlx::query(concat!(
                "WITH ",
                as_read!(),
                ", gone AS (DELETE FROM jobs WHERE id = ANY(ARRAY(SELECT id FROM ended)) RETURNING id, epoch, batch),
                 remembered AS (
                    INSERT INTO tombstones (id, deleted_at, epoch, batch, row_count)
                    SELECT id, acetate_now(), GREATEST(epoch, (SELECT MAX(attempts.epoch) FROM attempts WHERE job = gone.id)),
                           batch,
                           (SELECT COUNT(*) FROM dataset_rows AS own WHERE own.job = gone.id AND own.batch = gone.batch)
                      FROM gone
                    ON CONFLICT (id) DO UPDATE
                       SET deleted_at = EXCLUDED.deleted_at, epoch = GREATEST(tombstones.epoch, EXCLUDED.epoch),
                           batch = EXCLUDED.batch, row_count = EXCLUDED.row_count),
                 undispatched AS (
                    DELETE FROM outbox WHERE id = ANY(ARRAY(
                        SELECT sent.id FROM gone CROSS JOIN LATERAL (
                            SELECT outbox.id FROM outbox
                             WHERE outbox.job = gone.id AND topic || '' = 'dispatch' FOR UPDATE) AS sent))),
                 given_up AS (
                    DELETE FROM webhooks USING gone WHERE webhooks.job = gone.id AND gave_up_at IS NOT NULL), ",
                noted!("gone", "$5"),
                " SELECT (SELECT COUNT(*) FROM gone) AS deleted,
                         (SELECT COUNT(*) FROM jobs WHERE id = ANY($1)) - (SELECT COUNT(*) FROM gone) AS remaining"
            ));
            let row = self.one(bind_as_read(query, chunk).bind(note(chunk))).await?;
            let row = row.ok_or_else(|| JobError::database("it does not say what it deleted"))?;
            forgotten += Forgotten { deleted: row.small("deleted")?, left: row.small("remaining")? };
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

fn bind_as_read<'q>(query: Query<'q, Postgres, PgArguments>, jobs: &[EndedJob]) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(jobs.iter().map(|job| job.id.to_string()).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.epoch.0).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.claim.map(|claim| claim.to_string())).collect::<Vec<_>>())
        .bind(jobs.iter().map(|job| job.finished_at.map(Timestamp::as_millisecond)).collect::<Vec<_>>())
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

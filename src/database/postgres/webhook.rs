//! Due webhook calls and answers to senders, and their outcomes.

use std::time::Duration;

use super::open::PostgresJobStore;
use crate::{
    database::{
        WebhookId, WebhookLimits, WebhookRow,
        row_mapping::{Columns, milliseconds},
        webhook::{WINDOW, read_webhook},
    },
    job::{BatchId, JobError},
};

/// Scheme, host and port of a call's address, without the default port.
macro_rules! origin {
    () => {
        "REGEXP_REPLACE(LOWER(COALESCE(SUBSTRING(url FROM '^[^:]+://[^/?#]*'), url)), '^(https://.*):443$|^(http://.*):80$', \
         '\\1\\2')"
    };
}

macro_rules! returning {
    () => {
        concat!(
            "RETURNING id AS call, job AS id, url, payload, attempts, created_at, ",
            origin!(),
            " AS origin,
                    COALESCE(traceparent, (SELECT traceparent FROM jobs WHERE jobs.id = webhooks.job)) AS traceparent,
                    CASE WHEN traceparent IS NULL THEN (SELECT tracestate FROM jobs WHERE jobs.id = webhooks.job)
                         ELSE tracestate END AS tracestate,
                    (SELECT traceparent FROM attempts WHERE attempts.job = webhooks.job ORDER BY epoch DESC LIMIT 1)
                        AS attempt_traceparent"
        )
    };
}

impl PostgresJobStore {
    pub async fn watch_batch(&self, batch: &BatchId, url: &str, again: bool) -> Result<(), JobError> {
        let query = sqlx::query(
            "INSERT INTO batch_webhooks (batch, url, created_at) VALUES ($1, $2, acetate_now())
             ON CONFLICT (batch, url) DO UPDATE SET ended_at = NULL WHERE $3",
        )
        .bind(batch.as_str())
        .bind(url)
        .bind(again);
        self.execute(query).await.map(drop)
    }

    pub async fn ended_batches(&self) -> Result<Vec<BatchId>, JobError> {
        let query = sqlx::query(
            "SELECT DISTINCT batch FROM batch_webhooks AS hook
              WHERE ended_at IS NULL AND EXISTS (SELECT 1 FROM jobs WHERE jobs.batch = hook.batch)
                AND NOT EXISTS (SELECT 1 FROM jobs
                                 WHERE jobs.batch = hook.batch AND jobs.state IN ('queued', 'running'))
              LIMIT 100",
        );
        self.all(query).await?.iter().map(|row| row.word("batch")).collect()
    }

    pub async fn call_batch_webhooks(&self, batch: &BatchId, payload: &str) -> Result<u64, JobError> {
        // The calls of a batch name one of its jobs. Of two servers, the second finds nothing to end.
        let query = sqlx::query(
            "WITH ended AS (
                UPDATE batch_webhooks SET ended_at = acetate_now()
                 WHERE batch = $1 AND ended_at IS NULL AND EXISTS (SELECT 1 FROM jobs WHERE batch = $1)
                   AND NOT EXISTS (SELECT 1 FROM jobs WHERE batch = $1 AND state IN ('queued', 'running'))
             RETURNING url)
             INSERT INTO webhooks (job, url, payload, available_at, created_at)
             SELECT (SELECT id FROM jobs WHERE batch = $1 LIMIT 1), url, $2, acetate_now(), acetate_now() FROM ended",
        )
        .bind(batch.as_str())
        .bind(payload);
        self.execute(query).await
    }

    pub async fn webhooks_take(&self, limits: &WebhookLimits, lease: Duration) -> Result<Vec<WebhookRow>, JobError> {
        let (origins, in_use): (Vec<&str>, Vec<i64>) =
            limits.in_use.iter().map(|(origin, calls)| (origin.as_str(), i64::from(*calls))).unzip();
        let query = sqlx::query(concat!(
            "WITH oldest AS (
                SELECT id, available_at, ",
            origin!(),
            " AS origin FROM webhooks
                 WHERE gave_up_at IS NULL AND available_at <= acetate_now() AND url NOT LIKE 'amqp-reply:%'
                   AND (taken_until IS NULL OR taken_until <= acetate_now()) AND NOT ",
            origin!(),
            " = ANY($4)
                 ORDER BY available_at, id LIMIT $5),
             turns AS (
                SELECT id, available_at, origin,
                       ROW_NUMBER() OVER (PARTITION BY origin ORDER BY available_at, id) + COALESCE(calls, 0) AS turn
                  FROM oldest LEFT JOIN UNNEST($6::TEXT[], $7::BIGINT[]) AS in_use (origin, calls) USING (origin)),
             next AS (SELECT id FROM turns WHERE turn <= $3 ORDER BY turn, available_at, id LIMIT $1),
             due AS (
                SELECT id FROM webhooks
                 WHERE id = ANY(ARRAY(SELECT id FROM next))
                   AND (taken_until IS NULL OR taken_until <= acetate_now())
                   FOR UPDATE SKIP LOCKED)
             UPDATE webhooks SET taken_until = acetate_now() + $2 WHERE id = ANY(ARRAY(SELECT id FROM due)) ",
            returning!(),
        ))
        .bind(i64::from(limits.calls))
        .bind(milliseconds(lease))
        .bind(i64::from(limits.of_origin))
        .bind(limits.full())
        .bind(i64::from(WINDOW))
        .bind(origins)
        .bind(in_use);
        self.all(query).await?.iter().map(read_webhook).collect()
    }

    pub async fn replies_take(&self, limit: u32, lease: Duration) -> Result<Vec<WebhookRow>, JobError> {
        let query = sqlx::query(concat!(
            "WITH due AS (
                SELECT id FROM webhooks
                 WHERE gave_up_at IS NULL AND available_at <= acetate_now() AND url LIKE 'amqp-reply:%'
                   AND (taken_until IS NULL OR taken_until <= acetate_now())
                 ORDER BY available_at, id LIMIT $1
                   FOR UPDATE SKIP LOCKED)
             UPDATE webhooks SET taken_until = acetate_now() + $2 WHERE id = ANY(ARRAY(SELECT id FROM due)) ",
            returning!(),
        ))
        .bind(i64::from(limit))
        .bind(milliseconds(lease));
        self.all(query).await?.iter().map(read_webhook).collect()
    }

    pub async fn webhook_done(&self, id: WebhookId) -> Result<(), JobError> {
        self.execute(sqlx::query("DELETE FROM webhooks WHERE id = $1").bind(id.0)).await.map(drop)
    }

    pub async fn webhook_failed(&self, id: WebhookId, error: &str, again: Option<Duration>) -> Result<(), JobError> {
        // What is given up is kept only as long as its job.
        let query = sqlx::query(
            "WITH call AS (
                SELECT id, $3::BIGINT IS NOT NULL OR EXISTS (SELECT 1 FROM jobs WHERE jobs.id = webhooks.job) AS stays
                  FROM webhooks WHERE id = $1),
             gone AS (DELETE FROM webhooks USING call WHERE webhooks.id = call.id AND NOT stays)
             UPDATE webhooks
                SET attempts = attempts + 1, last_error = $2, taken_until = NULL,
                    available_at = COALESCE(acetate_now() + $3, available_at),
                    gave_up_at = CASE WHEN $3::BIGINT IS NULL THEN acetate_now() END
               FROM call WHERE webhooks.id = call.id AND stays",
        )
        .bind(id.0)
        .bind(error)
        .bind(again.map(milliseconds));
        self.execute(query).await.map(drop)
    }
}

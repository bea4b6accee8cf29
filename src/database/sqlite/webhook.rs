//! Due webhook calls and answers to senders, and their outcomes.

use std::time::Duration;

use super::open::{SqliteJobStore, database, now_ms};
use crate::{
    database::{
        WebhookId, WebhookLimits, WebhookRow,
        row_mapping::{Columns, after, to_json},
        webhook::{WINDOW, read_webhook},
    },
    job::{BatchId, JobError},
};

/// Scheme, host and port of a call's address, without the default port. The address without its scheme ends at the
/// first `/`, `?` or `#`.
macro_rules! origin {
    () => {
        "(SELECT CASE WHEN origin LIKE 'https://%:443' THEN SUBSTR(origin, 1, LENGTH(origin) - 4)
                      WHEN origin LIKE 'http://%:80' THEN SUBSTR(origin, 1, LENGTH(origin) - 3) ELSE origin END
            FROM (SELECT LOWER(SUBSTR(url, 1, start - 1
                               + INSTR(REPLACE(REPLACE(SUBSTR(url, start), '?', '/'), '#', '/') || '/', '/') - 1)) AS origin
                    FROM (SELECT INSTR(url, '://') + 3 AS start)))"
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

impl SqliteJobStore {
    pub async fn watch_batch(&self, batch: &BatchId, url: &str, again: bool) -> Result<(), JobError> {
        sqlx::query(
            "INSERT INTO batch_webhooks (batch, url, created_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (batch, url) DO UPDATE SET ended_at = NULL WHERE ?4",
        )
        .bind(batch.as_str())
        .bind(url)
        .bind(now_ms())
        .bind(again)
        .execute(self.writer()?)
        .await
        .map_err(database)?;
        Ok(())
    }

    pub async fn ended_batches(&self) -> Result<Vec<BatchId>, JobError> {
        let rows = sqlx::query(
            "SELECT DISTINCT batch FROM batch_webhooks AS hook
              WHERE ended_at IS NULL AND EXISTS (SELECT 1 FROM jobs WHERE jobs.batch = hook.batch)
                AND NOT EXISTS (SELECT 1 FROM jobs
                                 WHERE jobs.batch = hook.batch AND jobs.state IN ('queued', 'running'))
              LIMIT 100",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(database)?;
        rows.iter().map(|row| row.word("batch")).collect()
    }

    pub async fn call_batch_webhooks(&self, batch: &BatchId, payload: &str) -> Result<u64, JobError> {
        let now = now_ms();
        let mut tx = self.begin().await?;
        // The calls of a batch name one of its jobs.
        let made = sqlx::query(
            "INSERT INTO webhooks (job, url, payload, available_at, created_at)
             SELECT (SELECT id FROM jobs WHERE batch = ?1 LIMIT 1), url, ?2, ?3, ?3
               FROM batch_webhooks
              WHERE batch = ?1 AND ended_at IS NULL AND EXISTS (SELECT 1 FROM jobs WHERE batch = ?1)
                AND NOT EXISTS (SELECT 1 FROM jobs WHERE batch = ?1 AND state IN ('queued', 'running'))",
        )
        .bind(batch.as_str())
        .bind(payload)
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(database)?
        .rows_affected();
        if made > 0 {
            sqlx::query("UPDATE batch_webhooks SET ended_at = ?2 WHERE batch = ?1 AND ended_at IS NULL")
                .bind(batch.as_str())
                .bind(now)
                .execute(&mut *tx)
                .await
                .map_err(database)?;
        }
        tx.commit().await.map_err(database)?;
        Ok(made)
    }

    pub async fn webhooks_take(&self, limits: &WebhookLimits, lease: Duration) -> Result<Vec<WebhookRow>, JobError> {
        let now = now_ms();
        if !self.is_any_due(now, false).await? {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(concat!(
            "WITH due AS (
                SELECT id, available_at, ",
            origin!(),
            " AS origin FROM webhooks
                 WHERE gave_up_at IS NULL AND available_at <= ?1 AND url NOT LIKE 'amqp-reply:%'
                   AND (taken_until IS NULL OR taken_until <= ?1)),
             oldest AS (
                SELECT * FROM due WHERE origin NOT IN (SELECT value FROM json_each(?5))
                 ORDER BY available_at, id LIMIT ?6),
             turns AS (
                SELECT id, available_at,
                       ROW_NUMBER() OVER (PARTITION BY origin ORDER BY available_at, id)
                       + COALESCE((SELECT value FROM json_each(?7) WHERE key = origin), 0) AS turn
                  FROM oldest)
             UPDATE webhooks SET taken_until = ?3
              WHERE id IN (SELECT id FROM turns WHERE turn <= ?4 ORDER BY turn, available_at, id LIMIT ?2) ",
            returning!(),
        ))
        .bind(now)
        .bind(limits.calls)
        .bind(after(now, lease))
        .bind(limits.of_origin)
        .bind(to_json(&limits.full())?)
        .bind(WINDOW)
        .bind(to_json(&limits.in_use)?)
        .fetch_all(self.writer()?)
        .await
        .map_err(database)?;
        rows.iter().map(read_webhook).collect()
    }

    pub async fn replies_take(&self, limit: u32, lease: Duration) -> Result<Vec<WebhookRow>, JobError> {
        let now = now_ms();
        if !self.is_any_due(now, true).await? {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(concat!(
            "UPDATE webhooks SET taken_until = ?3
              WHERE id IN (SELECT id FROM webhooks
                            WHERE gave_up_at IS NULL AND available_at <= ?1 AND url LIKE 'amqp-reply:%'
                              AND (taken_until IS NULL OR taken_until <= ?1)
                            ORDER BY available_at, id LIMIT ?2) ",
            returning!(),
        ))
        .bind(now)
        .bind(limit)
        .bind(after(now, lease))
        .fetch_all(self.writer()?)
        .await
        .map_err(database)?;
        rows.iter().map(read_webhook).collect()
    }

    /// Taking calls does not use the write connection unless there is something to do.
    async fn is_any_due(&self, now: i64, are_replies: bool) -> Result<bool, JobError> {
        let due = sqlx::query(
            "SELECT 1 FROM webhooks
              WHERE gave_up_at IS NULL AND available_at <= ? AND (url LIKE 'amqp-reply:%') = ? LIMIT 1",
        )
        .bind(now)
        .bind(are_replies)
        .fetch_optional(&self.readers)
        .await
        .map_err(database)?;
        Ok(due.is_some())
    }

    pub async fn webhook_done(&self, id: WebhookId) -> Result<(), JobError> {
        sqlx::query("DELETE FROM webhooks WHERE id = ?").bind(id.0).execute(self.writer()?).await.map_err(database)?;
        Ok(())
    }

    pub async fn webhook_failed(&self, id: WebhookId, error: &str, again: Option<Duration>) -> Result<(), JobError> {
        let now = now_ms();
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE webhooks
                SET attempts = attempts + 1, last_error = ?2, taken_until = NULL,
                    available_at = COALESCE(?3, available_at), gave_up_at = CASE WHEN ?3 IS NULL THEN ?4 END
              WHERE id = ?1",
        )
        .bind(id.0)
        .bind(error)
        .bind(again.map(|pause| after(now, pause)))
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        // What is given up is kept only as long as its job.
        sqlx::query(
            "DELETE FROM webhooks WHERE id = ? AND gave_up_at IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = webhooks.job)",
        )
        .bind(id.0)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        tx.commit().await.map_err(database)
    }
}

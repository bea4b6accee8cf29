//! Decisions on a row that changes before they are written. SQLite decides under its lock; on Postgres, another
//! transaction holds the row until it has changed it.

use std::{future::Future, time::Duration};

use acetate::{
    database::{CancelId, Claim, Fenced, JobStore},
    job::{JobId, JobState},
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqliteConnection};

use super::support::*;

on_both!(
    a_job_that_is_retried_is_not_ended_for_its_earlier_attempts,
    a_cancelled_batch_tells_of_jobs_as_they_are,
    only_results_of_jobs_as_they_were_read_are_retired,
);

/// What a cancel and a retry leave of a queued job.
const RETRIED: &str = "attempts = 0, error = NULL";

/// Begins `decision`, which cannot be written before another transaction has changed the row.
async fn overtaken<T: Send + 'static>(
    database: &Database,
    id: JobId,
    change: &str,
    decision: impl Future<Output = T> + Send + 'static,
) -> T {
    let change = AssertSqlSafe(format!("UPDATE jobs SET {change} WHERE id = '{id}'; COMMIT"));
    let a_moment = Duration::from_millis(500);
    if database.is_postgres() {
        let mut other = PgConnection::connect(database.url()).await.unwrap();
        let lock = AssertSqlSafe(format!("BEGIN; SELECT 1 FROM jobs WHERE id = '{id}' FOR UPDATE"));
        sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
        let deciding = tokio::spawn(decision);
        tokio::time::sleep(a_moment).await;
        sqlx::raw_sql(change).execute(&mut other).await.unwrap();
        deciding.await.unwrap()
    } else {
        let mut other: SqliteConnection = database.sqlite().connect().await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        let deciding = tokio::spawn(decision);
        tokio::time::sleep(a_moment).await;
        sqlx::raw_sql(change).execute(&mut other).await.unwrap();
        deciding.await.unwrap()
    }
}

/// Queued, after this many attempts.
async fn requeued(job_store: &JobStore, id: JobId, attempts: u32) {
    for _ in 0..attempts {
        let fence = take(job_store, id, "one", LEASE).await.fence();
        assert!(matches!(job_store.requeue(id, fence, &broken(), NO_TIME).await.unwrap(), Fenced::Held(_)));
    }
}

/// Workers with another limit have made them.
async fn a_job_that_is_retried_is_not_ended_for_its_earlier_attempts(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    requeued(&job_store, id, 3).await;
    let claiming = {
        let job_store = job_store.clone();
        async move { claim(&job_store, id, "two").await }
    };
    let claimed = overtaken(&database, id, RETRIED, claiming).await;
    assert!(matches!(&claimed, Claim::Taken(row) if row.attempts == 1), "{claimed:?}");
}

async fn a_cancelled_batch_tells_of_jobs_as_they_are(database: Database) {
    let job_store = database.service().await;
    let name = batch("posters");
    let id = submitted_batch(&job_store, &name, 1).await[0];
    requeued(&job_store, id, 2).await;
    let cancelling = {
        let job_store = job_store.clone();
        async move { job_store.cancel_batch_in_steps(&name, CancelId::new(), |_| true).await.unwrap() }
    };
    assert_eq!(overtaken(&database, id, RETRIED, cancelling).await, 1);
    let row = row(&job_store, id).await;
    assert_eq!((row.state, row.attempts), (JobState::Cancelled, 0));
    let events = job_store.outbox_take(10, LEASE).await.unwrap();
    let [event] = &events[..] else { panic!("{events:?}") };
    let told: Value = serde_json::from_str(&event.payload).unwrap();
    assert_eq!((&told["state"], &told["attempts"]), (&Value::from("cancelled"), &Value::from(0)), "{told:#}");
}

async fn only_results_of_jobs_as_they_were_read_are_retired(database: Database) {
    let job_store = database.service().await;
    let ids = submitted_batch(&job_store, &batch("old"), 4).await;
    for &id in &ids[..3] {
        let fence = take(&job_store, id, "one", LEASE).await.fence();
        assert!(matches!(job_store.fail(id, fence, &broken()).await.unwrap(), Fenced::Held(_)));
    }
    let mut read = as_read(&job_store, &ids).await;
    job_store.retry(ids[1]).await.unwrap();
    // It found its result in the store, so that the epoch is the same, and so is the time if a clock was set.
    job_store.retry(ids[2]).await.unwrap();
    let second = take(&job_store, ids[2], "two", LEASE).await;
    let adopted = job_store.adopt(ids[2], second.fence(), &result(), read[2].epoch).await.unwrap();
    assert!(matches!(adopted, Fenced::Held(_)));
    read[2].finished_at = row(&job_store, ids[2]).await.finished_at;
    assert_eq!(job_store.retire_results(&read).await.unwrap(), ids[..1]);
    let forgotten = job_store.forget(&read[2..3]).await.unwrap();
    assert_eq!((forgotten.deleted, forgotten.left), (0, 1), "another claim has its result");
    let retired = |row: acetate::database::JobRow| row.retired.0;
    let mut epochs = Vec::new();
    for &id in &ids {
        epochs.push(retired(row(&job_store, id).await));
    }
    assert_eq!(epochs, [1, 0, 0, 0]);
    // It stays so for whoever takes the job next.
    job_store.retry(ids[0]).await.unwrap();
    assert_eq!(retired(take(&job_store, ids[0], "two", LEASE).await), 1);
}

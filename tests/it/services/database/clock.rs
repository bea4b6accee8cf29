//! A clock that was set back. The rows are moved instead, which is the same for them.

use std::time::Duration;

use acetate::{
    database::SubmitOptions,
    job::{ErrorRecord, JobError, JobId},
};
use jiff::{SignedDuration, Timestamp};

use super::support::*;

on_both!(jobs_are_due_although_the_clock_was_set_back);

async fn jobs_are_due_although_the_clock_was_set_back(database: Database) {
    let job_store = database.service().await;
    assert_eq!(job_store.mend_due_times().await.unwrap(), 0);
    let soon = submitted(&job_store).await;
    let again = submitted(&job_store).await;
    let fence = take(&job_store, again, "one", LEASE).await.fence();
    let error = ErrorRecord::from(&JobError::storage("file:///a.png", "is away"));
    let _ = job_store.requeue(again, fence, &error, Duration::from_secs(600)).await.unwrap();
    let at = Timestamp::now() + SignedDuration::from_hours(3);
    let scheduled = request(JobId::new(), "file:///a.png");
    let options = SubmitOptions { at: Some(at), ..SubmitOptions::default() };
    job_store.submit(&scheduled, &options).await.unwrap();
    let asked = row(&job_store, scheduled.id).await.available_at;
    let hour = 3_600_000;
    database
        .sql(&format!(
            "UPDATE jobs SET created_at = created_at + {hour}, updated_at = updated_at + {hour};
             UPDATE jobs SET available_at = available_at + {hour}, quiet_until = quiet_until + {hour}
              WHERE id <> '{id}';
             UPDATE outbox SET created_at = created_at + {hour};
             UPDATE outbox SET available_at = available_at + {hour} WHERE job <> '{id}'",
            id = scheduled.id
        ))
        .await;
    assert!(job_store.outbox_take(10, LEASE).await.unwrap().is_empty());
    let warnings = job_store.check().await.unwrap().warnings.join("; ");
    assert!(warnings.contains("3 jobs were submitted in the future"), "{warnings}");
    assert_eq!(job_store.mend_due_times().await.unwrap(), 2);
    let sent = job_store.outbox_take(10, LEASE).await.unwrap();
    assert_eq!(sent.iter().map(|message| message.job).collect::<Vec<_>>(), [soon]);
    let wait = row(&job_store, again).await.available_at.duration_since(Timestamp::now()).as_secs();
    assert!((500..=600).contains(&wait), "its own delay stays: {wait} s");
    assert_eq!(row(&job_store, scheduled.id).await.available_at, asked);
    assert_eq!(job_store.mend_due_times().await.unwrap(), 0);
}

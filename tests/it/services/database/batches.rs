//! Reads and deletes many rows.

use std::time::Duration;

use acetate::{
    database::{CancelOutcome, Fenced, Filter, JobRow, PrunePage, PruneRules, Pruned, SubmitOptions},
    job::{JobId, JobKind, JobState},
};
use jiff::Timestamp;

use super::support::*;

on_both!(
    pages_hold_every_row_once,
    unfinished_work_is_found_by_its_fingerprint,
    a_row_that_cannot_be_read_does_not_hide_the_others,
    a_batch_is_counted_listed_and_cancelled,
    the_most_urgent_job_is_due_first,
    old_jobs_go_in_two_steps,
);

async fn pages_hold_every_row_once(database: Database) {
    let job_store = database.service().await;
    let mut ids = submitted_batch(&job_store, &batch("b"), 4).await;
    ids.push(submitted(&job_store).await);
    job_store.cancel(ids[0], &|_| false).await.unwrap();
    let mut seen = Vec::new();
    let mut filter = Filter { limit: 2, ..Filter::default() };
    loop {
        let page = job_store.list(&filter).await.unwrap();
        seen.extend(page.jobs.iter().map(JobRow::id));
        filter.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    ids.sort();
    ids.reverse();
    assert_eq!(seen, ids, "the newest first");
    let count = async |filter: Filter| job_store.list(&Filter { limit: 10, ..filter }).await.unwrap().jobs.len();
    assert_eq!(count(Filter { state: Some(JobState::Queued), ..Filter::default() }).await, 4);
    assert_eq!(count(Filter { kind: Some(JobKind::Edit), ..Filter::default() }).await, 0);
    assert_eq!(count(Filter { kind: Some(JobKind::Composite), ..Filter::default() }).await, 5);
    assert_eq!(count(Filter { batch: Some(batch("b")), ..Filter::default() }).await, 4);
    assert_eq!(job_store.count().await.unwrap(), [(JobState::Cancelled, 1), (JobState::Queued, 4)]);
}

async fn unfinished_work_is_found_by_its_fingerprint(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let fingerprint = request(id, "file:///a.png").fingerprint();
    assert_eq!(job_store.find_unfinished(&fingerprint).await.unwrap().unwrap().id(), id);
    job_store.cancel(id, &|_| false).await.unwrap();
    assert_eq!(job_store.find_unfinished(&fingerprint).await.unwrap(), None);
}

async fn a_row_that_cannot_be_read_does_not_hide_the_others(database: Database) {
    let job_store = database.service().await;
    let (good, bad, last) = (submitted(&job_store).await, submitted(&job_store).await, submitted(&job_store).await);
    database.sql(&format!("UPDATE jobs SET request = '{{}}' WHERE id = '{bad}'")).await;
    let page = job_store.list(&Filter { limit: 2, ..Filter::default() }).await.unwrap();
    assert_eq!(page.jobs.iter().map(JobRow::id).collect::<Vec<_>>(), [last]);
    let page = job_store.list(&Filter { limit: 2, after: page.next, ..Filter::default() }).await.unwrap();
    assert_eq!((page.jobs.iter().map(JobRow::id).collect::<Vec<_>>(), page.next), (vec![good], None));
    assert!(job_store.get(bad).await.unwrap_err().to_string().contains(&bad.to_string()));
}

async fn a_batch_is_counted_listed_and_cancelled(database: Database) {
    let job_store = database.service().await;
    let name = batch("posters");
    assert_eq!(job_store.batch_summary(&name).await.unwrap(), None);
    let ids = submitted_batch(&job_store, &name, 7).await;
    let other = submitted(&job_store).await;
    let done = take(&job_store, ids[0], "one", LEASE).await;
    // This makes up the mean time of the batch.
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(matches!(job_store.succeed(ids[0], done.fence(), &result()).await.unwrap(), Fenced::Held(_)));
    take(&job_store, ids[1], "one", LEASE).await;

    let mut rows: Vec<JobRow> = Vec::new();
    loop {
        let page = job_store.batch_rows(&name, rows.last().map(JobRow::id), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    assert_eq!(rows.iter().map(JobRow::id).collect::<Vec<_>>(), ids, "in the order in which they came");

    assert_eq!(job_store.cancel_batch(&name).await.unwrap(), 6);
    let summary = job_store.batch_summary(&name).await.unwrap().unwrap();
    let states = [(JobState::Cancelled, 5), (JobState::Running, 1), (JobState::Succeeded, 1)];
    assert_eq!((summary.states.as_slice(), summary.total(), summary.ended()), (states.as_slice(), 7, 6));
    assert_eq!(summary.in_state(JobState::Failed), 0);
    assert!(summary.mean_seconds.is_some_and(|mean| (0.05..5.0).contains(&mean)), "{summary:?}");
    assert_eq!(summary.first_created, rows[0].created_at);
    assert!(summary.last_finished > Some(summary.first_created));
    assert!(row(&job_store, ids[1]).await.cancel_requested);
    assert_eq!(row(&job_store, other).await.state, JobState::Queued);
    let told = job_store.outbox_take(100, LEASE).await.unwrap();
    assert_eq!(told.iter().filter(|row| row.topic.as_str() == "job.cancelled").count(), 5);
}

async fn the_most_urgent_job_is_due_first(database: Database) {
    let job_store = database.embedded().await;
    let mut wanted = Vec::new();
    for priority in [9, 5, 0, 0] {
        let id = JobId::new();
        submit(&job_store, &acetate::job::JobRequest { priority, ..request(id, "file:///a.png") }).await;
        wanted.push(id);
        // Jobs with the same priority are ordered by their times, in milliseconds.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let later = SubmitOptions { at: Some(Timestamp::now() + LEASE), ..SubmitOptions::default() };
    job_store.submit(&request(JobId::new(), "file:///a.png"), &later).await.unwrap();
    take(&job_store, wanted[2], "gone", NO_TIME).await;
    let due = job_store.due(10).await.unwrap();
    assert_eq!(due.iter().map(|(_, priority, _)| *priority).collect::<Vec<_>>(), [9, 5, 0, 0]);
    assert_eq!(due.iter().map(|(id, ..)| *id).collect::<Vec<_>>()[..2], wanted[..2]);
    assert_eq!(job_store.due(1).await.unwrap().len(), 1);
    let depth = job_store.queue_depth().await.unwrap();
    assert_eq!((depth.len(), depth[0].kind, depth[0].queued), (1, JobKind::Composite, 4));
    assert_eq!(depth[0].oldest, row(&job_store, wanted[0]).await.available_at);
}

async fn old_jobs_go_in_two_steps(database: Database) {
    let job_store = database.service().await;
    let name = batch("old");
    let ids = submitted_batch(&job_store, &name, 4).await;
    take(&job_store, ids[0], "one", NO_TIME).await;
    let second = take(&job_store, ids[0], "two", LEASE).await;
    assert!(matches!(job_store.succeed(ids[0], second.fence(), &result()).await.unwrap(), Fenced::Held(_)));
    assert_eq!(job_store.cancel(ids[1], &|_| false).await.unwrap(), CancelOutcome::Cancelled);
    take(&job_store, ids[2], "one", LEASE).await;

    let all = |before| PruneRules { before, states: JobState::ALL.to_vec(), batch: None, limit: 10 };
    let future = Timestamp::now() + LEASE;
    let nothing = PrunePage { jobs: Vec::new(), next: None };
    assert_eq!(job_store.prunable(&all(Timestamp::now() - LEASE), None).await.unwrap(), nothing);
    let elsewhere = PruneRules { batch: Some(batch("other")), ..all(future) };
    assert_eq!(job_store.prunable(&elsewhere, None).await.unwrap(), nothing);
    let only = PruneRules { states: vec![JobState::Cancelled], batch: Some(name), ..all(future) };
    assert_eq!(job_store.prunable(&only, None).await.unwrap().jobs.len(), 1);
    assert_eq!(job_store.count_prunable(&only).await.unwrap(), 1);
    assert_eq!(job_store.count_prunable(&all(future)).await.unwrap(), 2);
    let old = job_store.prunable(&all(future), None).await.unwrap().jobs;
    let succeeded = Pruned {
        id: ids[0],
        state: JobState::Succeeded,
        root: Some("s3://out/scene/".to_owned()),
        prefix: "s3://out/scene/".to_owned(),
        epoch: acetate::job::Epoch(2),
        claim: row(&job_store, ids[0]).await.claim,
        finished_at: row(&job_store, ids[0]).await.finished_at,
        files: Some(vec!["composite.png".to_owned()]),
    };
    assert_eq!(old.iter().map(|old| old.id).collect::<Vec<_>>(), ids[..2]);
    assert_eq!(old[0], succeeded);
    let never_ran = (&old[1].root, old[1].prefix.as_str(), old[1].epoch.0, &old[1].files);
    assert_eq!(never_ran, (&None, "", 0, &None), "there is nothing to look for in the store");

    assert_eq!(
        job_store.forget(&as_read(&job_store, &ids).await).await.unwrap().deleted,
        2,
        "those that have not ended stay"
    );
    assert_eq!(job_store.get(ids[0]).await.unwrap(), None);
    assert_eq!(row(&job_store, ids[2]).await.state, JobState::Running);
    let left = job_store.outbox_take(100, LEASE).await.unwrap();
    let dispatches = left.iter().filter(|row| !row.topic.is_event()).count();
    assert_eq!((dispatches, left.len() - dispatches), (1, 2), "what was told stays told; a claim takes its dispatch");

    // Its attempts were deleted with it.
    submit(&job_store, &request(ids[0], "file:///a.png")).await;
    assert_eq!(attempts(&job_store, ids[0]).await, []);
}

//! Who did what: entries in the transaction of the change, one for an action on many jobs, and what becomes of them.

use std::time::Duration;

use acetate::{
    database::{
        Action, ActionFilter, ActionRow, Actor, CancelId, CancelOutcome, HistoryEntry, JobStore, RetryRules, Subject,
        SubmitOptions,
    },
    job::{JobId, JobState},
};
use serde_json::json;

use super::support::*;

on_both!(
    one_job_has_an_entry_for_each_action,
    an_action_on_a_batch_is_one_entry,
    a_change_without_its_entry_does_not_happen,
    workers_and_failed_actions_leave_no_entry,
    a_history_has_actions_and_attempts_in_order,
    entries_outlive_jobs_until_their_time,
    a_job_is_of_those_who_submitted_it_since_it_was_deleted,
    new_jobs_of_an_actor_are_counted,
    pages_and_filters,
);

fn actor(name: &str) -> Actor {
    Actor::new(name, Some([10, 0, 0, 7].into()))
}

async fn entries(job_store: &JobStore, filter: ActionFilter) -> Vec<ActionRow> {
    let mut found = job_store.list_actions(&ActionFilter { limit: 100, ..filter }).await.unwrap().actions;
    found.reverse();
    found
}

fn short(rows: &[ActionRow]) -> Vec<(String, String, u64)> {
    rows.iter().map(|row| (row.actor.clone(), row.action.clone(), row.jobs)).collect()
}

fn entry(actor: &str, action: &str, jobs: u64) -> (String, String, u64) {
    (actor.to_owned(), action.to_owned(), jobs)
}

async fn one_job_has_an_entry_for_each_action(database: Database) {
    let job_store = database.service().await;
    let before = job_store.now().await.unwrap();
    let id = JobId::new();
    let request = request(id, "file:///a.png");
    submit(&job_store.by(actor("ci")), &request).await;
    // The same job again is no new action.
    submit(&job_store.by(actor("ci")), &request).await;
    assert_eq!(job_store.by(actor("ops")).cancel(id, &|_| false).await.unwrap(), CancelOutcome::Cancelled);
    job_store.by(actor("ops")).retry(id).await.unwrap();
    let running = take(&job_store, id, "one", LEASE).await;
    assert_eq!(job_store.by(actor("boss")).cancel(id, &|_| false).await.unwrap(), CancelOutcome::Requested);
    assert!(matches!(job_store.cancelled(id, running.fence()).await.unwrap(), acetate::database::Fenced::Held(_)));
    assert_eq!(job_store.by(actor("boss")).forget(&as_read(&job_store, &[id]).await).await.unwrap().deleted, 1);
    let rows = entries(&job_store, ActionFilter { job: Some(id), ..ActionFilter::default() }).await;
    assert_eq!(
        short(&rows),
        [
            entry("ci", "submitted", 1),
            entry("ops", "cancelled", 1),
            entry("ops", "retried", 1),
            entry("boss", "cancelled", 1),
            entry("boss", "deleted", 1),
        ]
    );
    let after = job_store.now().await.unwrap();
    for row in rows {
        assert!(before <= row.at && row.at <= after && row.address.as_deref() == Some("10.0.0.7"), "{row:?}");
    }
}

async fn an_action_on_a_batch_is_one_entry(database: Database) {
    let job_store = database.service().await;
    let posters = batch("posters");
    // Several transactions of one command.
    let by = job_store.by(actor("cli:me@here"));
    let ids = submitted_batch(&by, &posters, 2500).await;
    submitted_batch(&by, &posters, 3).await;
    take(&job_store, ids[7], "one", LEASE).await;
    assert_eq!(job_store.by(actor("ops")).cancel_batch(&posters).await.unwrap(), 2503);
    let rules =
        RetryRules { batch: posters.clone(), states: vec![JobState::Cancelled], codes: Vec::new(), cancel: None };
    assert_eq!(job_store.by(actor("ops")).retry_batch(&rules, |_| true).await.unwrap().len(), 2502);
    job_store.by(actor("ops")).cancel_batch(&posters).await.unwrap();
    let pruner = job_store.by(actor("cron"));
    assert_eq!(
        pruner.prune(&as_read(&job_store, &ids[..1500]).await, Some(&posters)).await.unwrap().deleted,
        1499,
        "one runs"
    );
    assert_eq!(pruner.prune(&as_read(&job_store, &ids[1500..]).await, Some(&posters)).await.unwrap().deleted, 1000);
    let rows = entries(&job_store, ActionFilter { batch: Some(posters.clone()), ..ActionFilter::default() }).await;
    assert_eq!(
        short(&rows),
        [
            entry("cli:me@here", "submitted", 2503),
            entry("ops", "cancelled", 2503),
            entry("ops", "retried", 2502),
            entry("ops", "cancelled", 2502),
            entry("cron", "pruned", 2499),
        ]
    );
    assert!(rows.iter().all(|row| row.job.is_none()));
}

/// It is the same transaction: if the entry cannot be written, neither is the change.
async fn a_change_without_its_entry_does_not_happen(database: Database) {
    let job_store = database.service().await;
    let (queued, failed) = (submitted(&job_store).await, submitted(&job_store).await);
    let taken = take(&job_store, failed, "one", LEASE).await;
    let _ = job_store.fail(failed, taken.fence(), &broken()).await.unwrap();
    let named = batch("b");
    let ids = submitted_batch(&job_store, &named, 2).await;
    database.sql("ALTER TABLE actions RENAME TO elsewhere").await;
    let by = job_store.by(actor("ops"));
    assert!(by.cancel(queued, &|_| false).await.is_err());
    assert!(by.retry(failed).await.is_err());
    assert!(by.forget(&as_read(&job_store, &[failed]).await).await.is_err());
    assert!(by.cancel_queued(&named, CancelId::new(), None).await.is_err());
    let new = request(JobId::new(), "file:///a.png");
    assert!(by.submit(&new, &Default::default()).await.is_err());
    database.sql("ALTER TABLE elsewhere RENAME TO actions").await;
    assert_eq!(row(&job_store, queued).await.state, JobState::Queued);
    assert_eq!(row(&job_store, failed).await.state, JobState::Failed);
    assert_eq!(row(&job_store, ids[0]).await.state, JobState::Queued);
    assert_eq!(job_store.get(new.id).await.unwrap(), None);
    by.cancel(queued, &|_| false).await.unwrap();
    assert_eq!(row(&job_store, queued).await.state, JobState::Cancelled);
}

async fn workers_and_failed_actions_leave_no_entry(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let running = take(&job_store, id, "one", LEASE).await;
    let _ = job_store.succeed(id, running.fence(), &result()).await.unwrap();
    let by = job_store.by(actor("ops"));
    assert_eq!(by.cancel(id, &|_| false).await.unwrap(), CancelOutcome::AlreadyEnded(JobState::Succeeded));
    by.cancel(JobId::new(), &|_| false).await.unwrap();
    by.retry(id).await.unwrap();
    assert_eq!(by.cancel_batch(&batch("none")).await.unwrap(), 0);
    assert_eq!(by.forget(&as_read(&job_store, &[JobId::new()]).await).await.unwrap().deleted, 0);
    assert_eq!(entries(&job_store, ActionFilter::default()).await, []);
}

async fn a_history_has_actions_and_attempts_in_order(database: Database) {
    let job_store = database.service().await;
    let named = batch("b");
    let ids = submitted_batch(&job_store.by(actor("ci")), &named, 2).await;
    let id = ids[0];
    let first = take(&job_store, id, "one", LEASE).await;
    let _ = job_store.fail(id, first.fence(), &broken()).await.unwrap();
    job_store.by(actor("ops")).retry(id).await.unwrap();
    // Entries of one millisecond have no order.
    tokio::time::sleep(Duration::from_millis(5)).await;
    take(&job_store, id, "two", LEASE).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    job_store.by(actor("ops")).cancel_batch(&named).await.unwrap();
    let words = |entry: &HistoryEntry| match entry {
        HistoryEntry::Accepted(_) => "accepted".to_owned(),
        HistoryEntry::Removed(_) => "removed".to_owned(),
        HistoryEntry::Action(action) => format!("{} by {}", action.action, action.actor),
        HistoryEntry::Attempt(attempt) => format!("attempt on {}", attempt.worker),
    };
    let shown = |entries: Vec<HistoryEntry>| entries.iter().map(words).collect::<Vec<_>>();
    let history = shown(job_store.history(id).await.unwrap().unwrap());
    assert_eq!(history, ["submitted by ci", "attempt on one", "retried by ops", "attempt on two", "cancelled by ops"]);

    let raw = JobId::new();
    job_store.submit_message(&request(raw, "file:///b.png"), &SubmitOptions::default()).await.unwrap();
    assert_eq!(shown(job_store.history(raw).await.unwrap().unwrap()), ["accepted"]);
    assert_eq!(job_store.history(JobId::new()).await.unwrap(), None);
    job_store.cancel(raw, &|_| false).await.unwrap();
    job_store.by(actor("cron")).prune(&as_read(&job_store, &[raw]).await, None).await.unwrap();
    assert_eq!(shown(job_store.history(raw).await.unwrap().unwrap()), ["removed"]);

    let told = JobId::new();
    let sender = Actor::of_message(Some("shop"), &serde_json::json!({ "exchange": "acetate.jobs" }));
    for _ in 0..2 {
        let request = request(told, "file:///c.png");
        job_store.by(sender.clone()).submit_message(&request, &SubmitOptions::default()).await.unwrap();
    }
    let history = job_store.history(told).await.unwrap().unwrap();
    let [HistoryEntry::Action(action)] = &history[..] else { panic!("{history:?}") };
    assert_eq!((action.action.as_str(), action.actor.as_str(), action.jobs), ("submitted", "amqp:shop", 1));
    assert_eq!(action.detail, Some(serde_json::json!({ "exchange": "acetate.jobs" })));
}

/// A token that may only cancel its own jobs: an earlier job with this id was one, this one is another's.
async fn a_job_is_of_those_who_submitted_it_since_it_was_deleted(database: Database) {
    let job_store = database.service().await;
    let request = request(JobId::new(), "file:///a.png");
    let is_of = async |name: &str| job_store.is_submitted_by(request.id, name).await.unwrap();
    submit(&job_store.by(actor("ci")), &request).await;
    assert!(is_of("ci").await && !is_of("boss").await);
    job_store.cancel(request.id, &|_| false).await.unwrap();
    job_store.forget(&as_read(&job_store, &[request.id]).await).await.unwrap();
    assert!(!is_of("ci").await, "there is no job");
    tokio::time::sleep(Duration::from_millis(5)).await;
    submit(&job_store.by(actor("boss")), &request).await;
    assert!(is_of("boss").await && !is_of("ci").await);
}

async fn entries_outlive_jobs_until_their_time(database: Database) {
    let job_store = database.service().await;
    let id = JobId::new();
    submit(&job_store.by(actor("ci")), &request(id, "file:///a.png")).await;
    job_store.by(actor("ci")).cancel(id, &|_| false).await.unwrap();
    job_store.by(actor("ci")).forget(&as_read(&job_store, &[id]).await).await.unwrap();
    database.sql("UPDATE actions SET at = at - 86400000 * 10 WHERE action = 'submitted'").await;
    assert_eq!(job_store.forget_actions(Duration::from_secs(86_400 * 11)).await.unwrap(), 0);
    assert_eq!(job_store.forget_actions(Duration::from_secs(86_400 * 9)).await.unwrap(), 1);
    let rows = entries(&job_store, ActionFilter::default()).await;
    assert_eq!(short(&rows), [entry("ci", "cancelled", 1), entry("ci", "deleted", 1)]);
}

async fn new_jobs_of_an_actor_are_counted(database: Database) {
    let job_store = database.service().await;
    let day = Duration::from_secs(86_400);
    assert_eq!(job_store.submissions("ci", day).await.unwrap().jobs, 0);
    let id = JobId::new();
    submit(&job_store.by(actor("ci")), &request(id, "file:///a.png")).await;
    submitted_batch(&job_store.by(actor("ci")), &batch("b"), 4).await;
    submitted(&job_store.by(actor("other"))).await;
    assert_eq!(job_store.submissions("ci", day).await.unwrap().jobs, 5);
    database.sql("UPDATE actions SET at = at - 3600000 WHERE jobs = 4").await;
    let counted = job_store.submissions("ci", day).await.unwrap();
    assert!(counted.jobs == 5 && counted.oldest >= Duration::from_secs(3600), "{counted:?}");
    assert_eq!(job_store.submissions("ci", Duration::from_secs(1800)).await.unwrap().jobs, 1);
    assert!(job_store.is_submitted_by(id, "ci").await.unwrap());
    assert!(!job_store.is_submitted_by(id, "other").await.unwrap());
    assert!(!job_store.is_submitted_by(JobId::new(), "ci").await.unwrap());
}

async fn pages_and_filters(database: Database) {
    let job_store = database.service().await;
    let by = job_store.by(Actor::new("cli:me@here", None));
    for index in 0..5 {
        let id = format!("{index:016}");
        let detail = json!({ "dead_letter": id, "text": "nul\0" });
        by.record(Action::DeadLetterDropped, Subject::DeadLetter(&id, None), 1, &detail).await.unwrap();
    }
    let mut filter = ActionFilter { limit: 2, ..ActionFilter::default() };
    let mut seen = Vec::new();
    loop {
        let page = job_store.list_actions(&filter).await.unwrap();
        seen.extend(page.actions);
        filter.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    let letters: Vec<_> = seen.iter().map(|row| row.detail.as_ref().unwrap()["dead_letter"].clone()).collect();
    assert_eq!(letters, [4, 3, 2, 1, 0].map(|index| json!(format!("{index:016}"))));
    assert!(seen.iter().all(|row| row.address.is_none()));
    let none = |filter: ActionFilter| async { entries(&job_store, filter).await.len() };
    assert_eq!(none(ActionFilter { actor: Some("you".to_owned()), ..Default::default() }).await, 0);
    assert_eq!(none(ActionFilter { action: Some("dead_letter_dropped".to_owned()), ..Default::default() }).await, 5);
    let later = job_store.now().await.unwrap() + Duration::from_secs(60);
    assert_eq!(none(ActionFilter { since: Some(later), ..Default::default() }).await, 0);
}

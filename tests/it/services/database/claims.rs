//! Submits and claims jobs.

use std::time::Duration;

use acetate::{
    database::{Claim, ClaimRules, Fenced, HeartbeatReply, SubmitOptions, Submitted},
    job::{Epoch, JobError, JobId, JobState, Progress, Stage},
};
use jiff::Timestamp;

use super::support::*;

on_both!(
    the_same_id_is_the_same_job_and_another_body_is_refused,
    many_are_accepted_at_once_as_each_would_be,
    ten_thousand_are_accepted,
    two_submitters_of_the_same_jobs_do_not_disturb_each_other,
    a_claim_raises_epoch_and_attempts_and_keeps_others_out,
    of_many_claims_at_once_one_wins,
    the_lease_of_a_dead_worker_counts_as_run_out,
    a_job_that_kills_its_workers_is_quarantined,
    a_job_waits_for_its_time,
    a_message_with_another_body_changes_nothing,
    progress_only_grows,
);

async fn the_same_id_is_the_same_job_and_another_body_is_refused(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    // For instance because the reply to the first submission was lost.
    let again = submit(&job_store, &request(id, "file:///a.png")).await;
    assert!(matches!(again, Submitted::Known(row) if row.state == JobState::Queued && row.id() == id));
    for (other, word) in [("file:///b.png", "other inputs"), ("file:///a.png", "another output folder")] {
        let mut other = request(id, other);
        if word.contains("folder") {
            other.output.prefix = "s3://elsewhere/".to_owned();
        }
        let error = job_store.submit(&other, &SubmitOptions::default()).await.unwrap_err();
        assert!(matches!(&error, JobError::InvalidRequest { field, reason } if field == "id" && reason.contains(word)));
    }
    assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap().len(), 1);
}

async fn many_are_accepted_at_once_as_each_would_be(database: Database) {
    let job_store = database.service().await;
    let known = submitted(&job_store).await;
    let new = JobId::new();
    let requests = [
        request(new, "file:///a.png"),
        request(known, "file:///a.png"),
        request(known, "file:///b.png"),
        request(new, "file:///a.png"),
        request(new, "file:///b.png"),
    ];
    let answers = job_store.submit_many(&requests, &SubmitOptions::default()).await;
    let Ok(Submitted::New(fresh)) = &answers[0] else { panic!("{answers:?}") };
    assert_eq!(**fresh, row(&job_store, new).await, "what is answered is what stands in the row");
    assert!(matches!(&answers[1], Ok(Submitted::Known(row)) if row.id() == known));
    assert!(matches!(&answers[2], Err(JobError::InvalidRequest { .. })));
    assert!(matches!(&answers[3], Ok(Submitted::Known(row)) if row.id() == new));
    assert!(matches!(&answers[4], Err(JobError::InvalidRequest { .. })));
    assert_eq!(answers.len(), 5);
}

async fn ten_thousand_are_accepted(database: Database) {
    let job_store = database.service().await;
    let begin = std::time::Instant::now();
    let name = batch("posters");
    submitted_batch(&job_store, &name, 10_000).await;
    println!("10000 jobs accepted in {:.2} s", begin.elapsed().as_secs_f64());
    assert_eq!(job_store.count().await.unwrap(), [(JobState::Queued, 10_000)]);
    let begin = std::time::Instant::now();
    let mut sent = 0;
    loop {
        let taken = job_store.outbox_take(500, LEASE).await.unwrap();
        if taken.is_empty() {
            break;
        }
        sent += taken.len();
        job_store.outbox_done(&taken.iter().map(|row| row.id).collect::<Vec<_>>()).await.unwrap();
    }
    println!("10000 messages relayed in {:.2} s", begin.elapsed().as_secs_f64());
    assert_eq!(sent, 10_000);
    let begin = std::time::Instant::now();
    assert_eq!(job_store.cancel_batch(&name).await.unwrap(), 10_000);
    println!("10000 jobs cancelled in {:.2} s", begin.elapsed().as_secs_f64());
    assert_eq!(job_store.count().await.unwrap(), [(JobState::Cancelled, 10_000)]);
}

async fn two_submitters_of_the_same_jobs_do_not_disturb_each_other(database: Database) {
    let job_store = database.service().await;
    let requests: Vec<_> = (0..600).map(|_| request(JobId::new(), "file:///a.png")).collect();
    let submitters: Vec<_> = [false, true]
        .into_iter()
        .map(|backwards| {
            let (job_store, mut requests) = (job_store.clone(), requests.clone());
            if backwards {
                requests.reverse();
            }
            tokio::spawn(async move { job_store.submit_many(&requests, &SubmitOptions::default()).await })
        })
        .collect();
    let mut new = 0;
    for submitter in submitters {
        for answer in submitter.await.unwrap() {
            new += usize::from(matches!(answer.unwrap(), Submitted::New(_)));
        }
    }
    assert_eq!(new, 600);
    assert_eq!(job_store.outbox_take(2000, LEASE).await.unwrap().len(), 600);
}

async fn a_claim_raises_epoch_and_attempts_and_keeps_others_out(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let taken = take(&job_store, id, "one", LEASE).await;
    assert_eq!((taken.state, taken.epoch, taken.attempts), (JobState::Running, Epoch(1), 1));
    assert!(taken.started_at.is_some() && taken.lease_until > taken.started_at);
    assert!(matches!(claim(&job_store, id, "two").await, Claim::Held { worker, .. } if worker == "one"));
    assert_eq!(claim(&job_store, JobId::new(), "two").await, Claim::Unknown);
}

async fn of_many_claims_at_once_one_wins(database: Database) {
    let job_store = database.service().await;
    // Two processes, and many tasks in each.
    let other = database.service().await;
    for _ in 0..5 {
        let id = submitted(&job_store).await;
        let claims: Vec<_> = (0..24)
            .map(|n| {
                let job_store = if n % 2 == 0 { job_store.clone() } else { other.clone() };
                tokio::spawn(async move { claim(&job_store, id, &format!("w{n}")).await })
            })
            .collect();
        let mut taken = 0;
        for claim in claims {
            match claim.await.unwrap() {
                Claim::Taken(_) => taken += 1,
                Claim::Held { .. } => {}
                odd => panic!("{odd:?}"),
            }
        }
        assert_eq!(taken, 1);
        assert_eq!(attempts(&job_store, id).await.len(), 1);
    }
}

async fn the_lease_of_a_dead_worker_counts_as_run_out(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    take(&job_store, id, "dead", LEASE).await;
    assert_eq!(take(&job_store, id, "next", LEASE).await.attempts, 2);
    let outcomes: Vec<_> = attempts(&job_store, id).await.into_iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [Some("lost".to_owned()), None]);
}

async fn a_job_that_kills_its_workers_is_quarantined(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    for n in 0..3 {
        take(&job_store, id, if n == 1 { "dead" } else { "quick" }, if n == 1 { LEASE } else { NO_TIME }).await;
    }
    let Claim::Ended(ended) = claim(&job_store, id, "next").await else { panic!("claimed") };
    assert_eq!((ended.state, ended.attempts), (JobState::Failed, 3));
    assert_eq!(ended.error.as_ref().unwrap().code, "attempts_exhausted");
    assert_eq!(*ended, row(&job_store, id).await);
    let topics: Vec<_> =
        job_store.outbox_take(9, LEASE).await.unwrap().into_iter().map(|row| row.topic.as_str()).collect();
    assert_eq!(topics, ["job.failed"], "the claim has taken back what was not sent yet");
}

async fn a_job_waits_for_its_time(database: Database) {
    let job_store = database.service().await;
    let id = JobId::new();
    let at = Timestamp::now() + Duration::from_secs(60);
    let options = SubmitOptions { at: Some(at), ..SubmitOptions::default() };
    job_store.submit(&request(id, "file:///a.png"), &options).await.unwrap();
    assert!(
        matches!(claim(&job_store, id, "one").await, Claim::NotBefore(time) if (time - at).get_seconds().abs() < 1)
    );
    assert_eq!(job_store.due(10).await.unwrap(), []);
    assert_eq!(job_store.outbox_take(10, LEASE).await.unwrap(), []);
}

async fn a_message_with_another_body_changes_nothing(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let before = row(&job_store, id).await;
    let (same, other) = (request(id, "file:///a.png").fingerprint(), request(id, "file:///b.png").fingerprint());
    let with = |fingerprint| ClaimRules { fingerprint: Some(fingerprint), ..rules("one", LEASE) };
    let Claim::Conflict(found) = job_store.claim(id, &with(&other)).await.unwrap() else { panic!("claimed") };
    assert_eq!(*found, before);
    assert_eq!(row(&job_store, id).await, before);
    // The fingerprint was written by a version that serialized requests differently.
    database.sql(&format!("UPDATE jobs SET fingerprint = 'old' WHERE id = '{id}'")).await;
    let Claim::Taken(taken) = job_store.claim(id, &with(&same)).await.unwrap() else { panic!("not claimed") };
    assert_eq!(job_store.cancelled(id, taken.fence()).await.unwrap(), Fenced::Held(row(&job_store, id).await));
    // The same holds after the job has ended.
    assert!(matches!(job_store.claim(id, &with(&other)).await.unwrap(), Claim::Conflict(_)));
    assert!(matches!(job_store.claim(id, &with(&same)).await.unwrap(), Claim::Ended(_)));
}

async fn progress_only_grows(database: Database) {
    let job_store = database.service().await;
    let id = submitted(&job_store).await;
    let taken = take(&job_store, id, "one", LEASE).await;
    let at = |sequence, step| Progress { sequence, stage: Stage::Denoise, step, steps: 50 };
    for progress in [at(5, 3), at(4, 2)] {
        let beat = job_store.heartbeat(id, taken.fence(), LEASE, Some(&progress)).await.unwrap();
        assert_eq!(beat, Fenced::Held(HeartbeatReply { cancel_requested: false }));
    }
    let beat = job_store.heartbeat(id, taken.fence(), LEASE, None).await.unwrap();
    assert_eq!(beat, Fenced::Held(HeartbeatReply { cancel_requested: false }));
    assert_eq!(row(&job_store, id).await.progress, Some(at(5, 3)));
}

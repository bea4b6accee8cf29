//! Which jobs are dispatched and claimed: the window, turns, pauses, schedules, and limits of tenants.

use std::{collections::BTreeMap, time::Duration};

use acetate::{
    database::{
        CancelOutcome, Claim, DatabaseOptions, DispatchRules, Fenced, Hold, JobStore, OutboxId, OutboxMode, OutboxRow,
        RetryOutcome, Scope, SubmitOptions, Submitted, Topic, Window,
    },
    job::{JobId, JobKind, JobRequest, JobState},
};
use jiff::Timestamp;
use sqlx::{Connection, PgConnection};

use super::support::*;

on_both!(
    a_window_is_filled_and_refilled_when_jobs_start,
    a_single_job_comes_before_the_rest_of_a_batch,
    a_higher_priority_comes_first,
    many_batches_take_turns_in_the_order_of_arrival,
    many_batches_behind_a_large_one_all_have_their_turn,
    a_tenant_at_its_limit_does_not_hide_the_others,
    relays_at_once_do_not_overfill_the_window,
    lost_messages_and_dead_relays_do_not_shrink_the_window,
    started_jobs_of_older_workers_leave_the_window,
    the_window_follows_the_workers,
    a_paused_kind_or_batch_is_neither_dispatched_nor_claimed,
    a_scheduled_job_waits_for_its_time_and_can_be_cancelled_and_retried,
    a_tenant_never_runs_more_jobs_than_its_limit,
    the_rows_themselves_are_offered_in_turn,
    the_status_counts_what_waits_and_runs,
);

async fn with_rules(database: &Database, mode: OutboxMode, dispatch: DispatchRules) -> JobStore {
    let options = DatabaseOptions { dispatch, ..DatabaseOptions::default() };
    JobStore::open_with(&database.place, mode, &options).await.unwrap()
}

async fn with_window(database: &Database, window: u32) -> JobStore {
    let dispatch = DispatchRules { window: Window::Of(window), ..DispatchRules::default() };
    with_rules(database, OutboxMode::Service, dispatch).await
}

fn of_tenant(name: &str) -> JobRequest {
    let mut request = request(JobId::new(), "file:///a.png");
    request.labels.insert("tenant".to_owned(), name.to_owned());
    request
}

fn ids(rows: &[OutboxRow]) -> Vec<OutboxId> {
    rows.iter().map(|row| row.id).collect()
}

fn dispatched(rows: &[OutboxRow]) -> Vec<JobId> {
    rows.iter().filter(|row| row.topic == Topic::Dispatch).map(|row| row.job).collect()
}

/// What a relay sends now.
async fn send(job_store: &JobStore) -> Vec<JobId> {
    let taken = job_store.outbox_take(500, LEASE).await.unwrap();
    job_store.outbox_done(&ids(&taken)).await.unwrap();
    dispatched(&taken)
}

async fn a_window_is_filled_and_refilled_when_jobs_start(database: Database) {
    let job_store = with_window(&database, 4).await;
    let jobs = submitted_batch(&job_store, &batch("many"), 10).await;
    let first = send(&job_store).await;
    assert_eq!(first.len(), 4);
    assert_eq!(send(&job_store).await, [], "the window is full");
    take(&job_store, first[0], "one", LEASE).await;
    take(&job_store, first[1], "one", LEASE).await;
    let next = send(&job_store).await;
    assert_eq!(next.len(), 2, "two have started");
    // A cancelled job makes room, too.
    assert_eq!(job_store.cancel(next[0], &|_| false).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(send(&job_store).await.len(), 1);
    assert_eq!(job_store.cancel_batch(&batch("many")).await.unwrap(), 9);
    assert_eq!(send(&job_store).await, [], "nothing of it is left");
    let alone = submitted(&job_store).await;
    assert_eq!(send(&job_store).await, [alone]);
    assert_eq!(jobs.len(), 10);
}

async fn a_single_job_comes_before_the_rest_of_a_batch(database: Database) {
    let job_store = with_window(&database, 4).await;
    submitted_batch(&job_store, &batch("big"), 50).await;
    let first = send(&job_store).await;
    let alone = submitted(&job_store).await;
    let other = of_tenant("small");
    submit(&job_store, &other).await;
    take(&job_store, first[0], "one", LEASE).await;
    take(&job_store, first[1], "one", LEASE).await;
    let next = send(&job_store).await;
    assert!(next.len() == 2 && next.contains(&alone) && next.contains(&other.id), "{next:?}");
    // From two large ones, in turn.
    take(&job_store, alone, "one", LEASE).await;
    take(&job_store, other.id, "one", LEASE).await;
    let second: Vec<_> = submitted_batch(&job_store, &batch("second"), 50).await;
    let next = send(&job_store).await;
    assert!(next.len() == 2 && next.iter().all(|id| second.contains(id)), "the first one has four already");
}

async fn a_higher_priority_comes_first(database: Database) {
    let job_store = with_window(&database, 3).await;
    submitted_batch(&job_store, &batch("big"), 5).await;
    let mut urgent = Vec::new();
    for _ in 0..4 {
        let request = JobRequest { priority: 7, ..request(JobId::new(), "file:///a.png") };
        submit(&job_store, &request).await;
        urgent.push(request.id);
    }
    let first = send(&job_store).await;
    assert!(first.len() == 3 && first.iter().all(|id| urgent.contains(id)), "{first:?}");
}

/// Jobs of as many tenants.
async fn submitted_tenants(job_store: &JobStore, count: usize) -> Vec<JobId> {
    let requests: Vec<_> = (0..count).map(|number| of_tenant(&format!("t{:04}", (number * 7919) % count))).collect();
    let submitted = job_store.submit_many(&requests, &SubmitOptions::default()).await;
    assert!(submitted.iter().all(|submitted| matches!(submitted, Ok(Submitted::New(_)))));
    requests.iter().map(|request| request.id).collect()
}

async fn many_batches_take_turns_in_the_order_of_arrival(database: Database) {
    let job_store = with_window(&database, 10).await;
    let jobs = submitted_tenants(&job_store, 300).await;
    let more = of_tenant("t0000");
    submit(&job_store, &more).await;
    let (mut sent, mut left) = (Vec::new(), jobs.len() + 1);
    while left > 0 {
        let next = send(&job_store).await;
        left -= next.len();
        for id in &next {
            assert_eq!(job_store.cancel(*id, &|_| false).await.unwrap(), CancelOutcome::Cancelled);
        }
        sent.push(next);
    }
    let sent: Vec<JobId> = sent.concat();
    // Those of one submission arrived together, and the index has them in the order of their messages.
    let place = |id: &JobId| sent.iter().position(|sent| sent == id).unwrap();
    assert!(place(&jobs[0]) < 40 && place(&more.id) == 300, "{} {}", place(&jobs[0]), place(&more.id));
}

/// More of them than are looked at together.
async fn many_batches_behind_a_large_one_all_have_their_turn(database: Database) {
    let job_store = with_window(&database, 40).await;
    let large = submitted_batch(&job_store, &batch("large"), 300).await;
    let singles = submitted_tenants(&job_store, 700).await;
    let (mut seen, mut rounds) = (Vec::new(), 0);
    while !singles.iter().all(|id| seen.contains(id)) {
        let next = send(&job_store).await;
        assert_eq!(next.len(), 40, "round {rounds}");
        let left = singles.iter().filter(|id| !seen.contains(*id)).count();
        let of_large = next.iter().filter(|id| large.contains(id)).count();
        assert_eq!(of_large, 40 - left.min(39), "round {rounds}");
        for id in &next {
            assert_eq!(job_store.cancel(*id, &|_| false).await.unwrap(), CancelOutcome::Cancelled);
        }
        seen.extend(next);
        rounds += 1;
        assert!(rounds <= 18, "{} of {} after {rounds} rounds", seen.len(), singles.len());
    }
}

async fn a_tenant_at_its_limit_does_not_hide_the_others(database: Database) {
    let dispatch = DispatchRules { window: Window::Of(4), tenant_limit: 1, ..DispatchRules::default() };
    let job_store = with_rules(&database, OutboxMode::Service, dispatch).await;
    for number in 0..400 {
        let requests: Vec<_> = (0..2).map(|_| of_tenant("large")).collect();
        let options = SubmitOptions { batch: Some(batch(&format!("b{number}"))), ..SubmitOptions::default() };
        job_store.submit_many(&requests, &options).await;
    }
    let others: Vec<_> = ["a", "m", "z"].map(of_tenant).to_vec();
    for other in &others {
        submit(&job_store, other).await;
    }
    let mut sent = send(&job_store).await;
    // A look that ended among the batches of the large tenant.
    for _ in 0..4 {
        sent.extend(send(&job_store).await);
    }
    assert!(others.iter().all(|other| sent.contains(&other.id)), "{sent:?}");
    assert_eq!(sent.len(), 4);
}

async fn relays_at_once_do_not_overfill_the_window(database: Database) {
    let job_store = with_window(&database, 5).await;
    submitted_batch(&job_store, &batch("many"), 100).await;
    for started in 0..5 {
        let mut relays = Vec::new();
        for _ in 0..6 {
            let job_store = with_window(&database, 5).await;
            relays.push(tokio::spawn(async move { dispatched(&job_store.outbox_take(500, LEASE).await.unwrap()) }));
        }
        let mut taken = Vec::new();
        for relay in relays {
            taken.extend(relay.await.unwrap());
        }
        assert_eq!(taken.len(), 5, "round {started}");
        for id in taken {
            take(&job_store, id, "one", LEASE).await;
        }
    }
}

async fn lost_messages_and_dead_relays_do_not_shrink_the_window(database: Database) {
    let job_store = with_window(&database, 3).await;
    submitted_batch(&job_store, &batch("many"), 9).await;
    // A relay dies with three in its hands.
    assert_eq!(job_store.outbox_take(500, Duration::from_millis(200)).await.unwrap().len(), 3);
    assert_eq!(send(&job_store).await, []);
    let sent = until_some(|| send(&job_store)).await;
    assert_eq!(sent.len(), 3);
    // The broker loses all three.
    assert_eq!(job_store.redispatch(&JobKind::ALL, NO_TIME).await.unwrap(), 3);
    let again = send(&job_store).await;
    assert_eq!(again.len(), 3);
    assert_eq!(send(&job_store).await, [], "they still count once");
    // Another time, and only the reaper notices.
    let reaped = until_some(|| async {
        let found = job_store.reap(Duration::from_millis(100)).await.unwrap();
        if found > 0 { vec![found] } else { Vec::new() }
    });
    assert_eq!(reaped.await, [3], "those that wait for their turn are not lost");
    assert_eq!(send(&job_store).await.len(), 3);
}

async fn started_jobs_of_older_workers_leave_the_window(database: Database) {
    let job_store = with_window(&database, 2).await;
    submitted_batch(&job_store, &batch("many"), 6).await;
    let first = send(&job_store).await;
    // An older worker does not remove what was sent.
    let later = Timestamp::now().as_millisecond() + 60_000;
    for id in &first {
        let sql = format!("UPDATE jobs SET state = 'running', epoch = 1, worker = 'old', lease_until = {later}");
        database.sql(&format!("{sql} WHERE id = '{id}'")).await;
    }
    assert_eq!(send(&job_store).await.len(), 2);
    // An older relay deletes what it has published.
    let third = submitted(&job_store).await;
    database.sql(&format!("DELETE FROM outbox WHERE job = '{third}'")).await;
    let found = until_some(|| async {
        let found = job_store.reap(Duration::from_millis(50)).await.unwrap();
        if found > 0 { vec![found] } else { Vec::new() }
    });
    assert!(found.await[0] >= 1, "without a dispatch, it is found all the same");
}

async fn the_window_follows_the_workers(database: Database) {
    let dispatch = DispatchRules { window: Window::Automatic, ..DispatchRules::default() };
    let job_store = with_rules(&database, OutboxMode::Service, dispatch).await;
    submitted_batch(&job_store, &batch("many"), 60).await;
    job_store.record_worker("one", 2).await.unwrap();
    assert_eq!(send(&job_store).await.len(), 4);
    job_store.record_worker("two", 3).await.unwrap();
    job_store.record_worker("one", 1).await.unwrap();
    assert_eq!(send(&job_store).await.len(), 4, "eight in all");
    let workers = job_store.workers().await.unwrap();
    assert_eq!((workers.workers, workers.slots), (2, 4));
    database.sql("UPDATE workers SET seen_at = seen_at - 31000 WHERE name = 'two'").await;
    job_store.remove_worker("one").await.unwrap();
    assert_eq!(job_store.workers().await.unwrap().workers, 0);
    assert_eq!(send(&job_store).await.len(), 8, "sixteen without workers");
}

async fn a_paused_kind_or_batch_is_neither_dispatched_nor_claimed(database: Database) {
    let job_store = with_window(&database, 50).await;
    let posters = submitted_batch(&job_store, &batch("posters"), 3).await;
    let alone = submitted(&job_store).await;
    assert_eq!(send(&job_store).await.len(), 4);
    let more = submitted_batch(&job_store, &batch("posters"), 1).await[0];
    for scope in [Scope::All, Scope::Kind(JobKind::Composite), Scope::Batch(batch("posters"))] {
        assert!(job_store.pause(&scope).await.unwrap());
        assert!(!job_store.pause(&scope).await.unwrap(), "it is paused already");
        assert_eq!(job_store.pauses().await.unwrap()[0].scope, scope);
        assert_eq!(claim(&job_store, posters[0], "one").await, Claim::OnHold(Hold::Paused));
        let held = row(&job_store, posters[0]).await;
        assert_eq!((held.state, held.attempts, held.epoch.0), (JobState::Queued, 0, 0));
        assert_eq!(send(&job_store).await, [], "{scope}");
        assert!(job_store.resume(&scope).await.unwrap());
        assert!(!job_store.resume(&scope).await.unwrap());
        let mut again = send(&job_store).await;
        again.retain(|id| *id != more);
        assert_eq!(again, [posters[0]], "at once, not after the time of a pause");
    }
    // Another batch goes on, and so does what is running.
    job_store.pause(&Scope::Batch(batch("posters"))).await.unwrap();
    job_store.pause(&Scope::Kind(JobKind::Edit)).await.unwrap();
    let job = take(&job_store, alone, "one", LEASE).await;
    assert_eq!(job_store.running_in(&Scope::All).await.unwrap(), 1);
    assert_eq!(job_store.running_in(&Scope::Batch(batch("posters"))).await.unwrap(), 0);
    job_store.pause(&Scope::All).await.unwrap();
    let Fenced::Held(_) = job_store.succeed(alone, job.fence(), &result()).await.unwrap() else { panic!("lost") };
    // A dead worker's job waits as well.
    job_store.resume(&Scope::All).await.unwrap();
    job_store.resume(&Scope::Batch(batch("posters"))).await.unwrap();
    take(&job_store, posters[1], "dying", NO_TIME).await;
    job_store.pause(&Scope::Batch(batch("posters"))).await.unwrap();
    assert_eq!(claim(&job_store, posters[1], "two").await, Claim::OnHold(Hold::Paused));
    assert_eq!(job_store.cancel(posters[2], &|_| false).await.unwrap(), CancelOutcome::Cancelled);
    assert!(matches!(claim(&job_store, posters[2], "two").await, Claim::Ended(_)), "a cancelled job has ended");
}

async fn a_scheduled_job_waits_for_its_time_and_can_be_cancelled_and_retried(database: Database) {
    let job_store = with_window(&database, 50).await;
    let soon = job_store.now().await.unwrap() + Duration::from_millis(700);
    let options = SubmitOptions { at: Some(soon), ..SubmitOptions::default() };
    let id = JobId::new();
    job_store.submit(&request(id, "file:///a.png"), &options).await.unwrap();
    assert_eq!(send(&job_store).await, []);
    assert!(matches!(claim(&job_store, id, "early").await, Claim::NotBefore(_)));
    assert_eq!(row(&job_store, id).await.not_before().map(Timestamp::as_millisecond), Some(soon.as_millisecond()));
    assert_eq!(until_some(|| send(&job_store)).await, [id]);
    assert!(job_store.now().await.unwrap() >= soon, "by the database's clock");
    take(&job_store, id, "one", LEASE).await;

    let far = SubmitOptions { at: Some(soon + Duration::from_secs(3600)), ..SubmitOptions::default() };
    let [cancelled, message] = [JobId::new(), JobId::new()];
    job_store.submit(&request(cancelled, "file:///a.png"), &far).await.unwrap();
    job_store.submit_message(&request(message, "file:///a.png"), &far).await.unwrap();
    assert!(
        matches!(claim(&job_store, message, "early").await, Claim::NotBefore(at) if Some(at) == row(&job_store, message).await.not_before())
    );
    assert_eq!(send(&job_store).await, []);
    assert_eq!(job_store.cancel(cancelled, &|_| false).await.unwrap(), CancelOutcome::Cancelled);
    assert!(matches!(job_store.retry(cancelled).await.unwrap(), RetryOutcome::Queued(_)));
    assert_eq!(send(&job_store).await, [cancelled], "a retry starts now");
    assert_eq!(job_store.cancel(message, &|_| false).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(job_store.forget(&as_read(&job_store, &[message]).await).await.unwrap().deleted, 1);
    assert_eq!(send(&job_store).await, [], "nothing of it is left");
}

async fn a_tenant_never_runs_more_jobs_than_its_limit(database: Database) {
    let limits = BTreeMap::from([("big".to_owned(), 4), ("free".to_owned(), 0)]);
    let dispatch = DispatchRules { window: Window::Of(100), tenant_limit: 2, tenant_limits: limits };
    let job_store = with_rules(&database, OutboxMode::Service, dispatch.clone()).await;
    let mut jobs = BTreeMap::new();
    for tenant in ["small", "big", "free"] {
        for _ in 0..8 {
            let request = of_tenant(tenant);
            submit(&job_store, &request).await;
            jobs.insert(request.id, tenant);
        }
    }
    let none = submitted(&job_store).await;
    let count = |sent: &[JobId], tenant: &str| sent.iter().filter(|id| jobs.get(*id) == Some(&tenant)).count();
    let sent = send(&job_store).await;
    assert_eq!((count(&sent, "small"), count(&sent, "big"), count(&sent, "free")), (2, 4, 8));
    assert!(sent.contains(&none), "without a tenant there is no limit");
    assert_eq!(send(&job_store).await, []);

    // Whatever is in the broker, for instance of a process without the limit.
    let small: Vec<JobId> = jobs.iter().filter(|(_, tenant)| **tenant == "small").map(|(id, _)| *id).collect();
    let mut claims = Vec::new();
    for id in &small {
        let (job_store, id) = (with_rules(&database, OutboxMode::Service, dispatch.clone()).await, *id);
        claims.push(tokio::spawn(async move { claim(&job_store, id, "one").await }));
    }
    let (mut taken, mut held) = (Vec::new(), 0);
    for claim in claims {
        match claim.await.unwrap() {
            Claim::Taken(row) => taken.push(*row),
            Claim::OnHold(Hold::TenantLimit) => held += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((taken.len(), held), (2, 6));
    let waiting = row(&job_store, *small.iter().find(|id| taken.iter().all(|row| row.id() != **id)).unwrap()).await;
    assert_eq!((waiting.state, waiting.attempts), (JobState::Queued, 0));
    assert_eq!(job_store.tenants_running().await.unwrap(), BTreeMap::from([("small".to_owned(), 2)]));

    // One ends, one may start.
    let Fenced::Held(_) = job_store.succeed(taken[0].id(), taken[0].fence(), &result()).await.unwrap() else {
        panic!("lost")
    };
    let next = until_some(|| send(&job_store)).await;
    assert_eq!((next.len(), count(&next, "small")), (1, 1), "{next:?}");
    take(&job_store, next[0], "one", LEASE).await;
}

async fn the_rows_themselves_are_offered_in_turn(database: Database) {
    let dispatch = DispatchRules { tenant_limit: 2, ..DispatchRules::default() };
    let job_store = with_rules(&database, OutboxMode::Embedded, dispatch).await;
    let many = submitted_batch(&job_store, &batch("many"), 30).await;
    tokio::time::sleep(Duration::from_millis(3)).await;
    let alone = submitted(&job_store).await;
    let due = async |most| job_store.due(most).await.unwrap().into_iter().map(|(id, ..)| id).collect::<Vec<_>>();
    take(&job_store, many[0], "one", LEASE).await;
    assert_eq!(due(5).await[0], alone, "the batch has a running job, and this one none");
    let tenant: Vec<_> = (0..5).map(|_| of_tenant("small")).collect();
    for request in &tenant {
        submit(&job_store, request).await;
    }
    let all = due(100).await;
    assert_eq!(all.len(), 29 + 1 + 2, "the tenant may have two");
    take(&job_store, tenant[0].id, "one", LEASE).await;
    take(&job_store, tenant[1].id, "one", LEASE).await;
    assert_eq!(due(100).await.len(), 29 + 1);
    assert_eq!(claim(&job_store, tenant[2].id, "two").await, Claim::OnHold(Hold::TenantLimit));
    job_store.pause(&Scope::Batch(batch("many"))).await.unwrap();
    assert_eq!(due(100).await, [alone]);
    assert_eq!(claim(&job_store, many[1], "two").await, Claim::OnHold(Hold::Paused));
    job_store.pause(&Scope::Kind(JobKind::Composite)).await.unwrap();
    assert_eq!(due(100).await, []);
    job_store.resume(&Scope::Batch(batch("many"))).await.unwrap();
    job_store.resume(&Scope::Kind(JobKind::Composite)).await.unwrap();
    assert_eq!(due(100).await.len(), 29 + 1);
}

async fn the_status_counts_what_waits_and_runs(database: Database) {
    let job_store = with_window(&database, 3).await;
    submitted_batch(&job_store, &batch("many"), 6).await;
    let later = SubmitOptions { at: Some(Timestamp::now() + LEASE), ..SubmitOptions::default() };
    job_store.submit(&request(JobId::new(), "file:///a.png"), &later).await.unwrap();
    let sent = send(&job_store).await;
    take(&job_store, sent[0], "one", LEASE).await;
    job_store.record_worker("one", 3).await.unwrap();
    job_store.pause(&Scope::Kind(JobKind::Composite)).await.unwrap();
    let shown = job_store.queue_status().await.unwrap();
    assert_eq!((shown.window, shown.workers, shown.slots), (Some(3), 1, 3));
    let kind = shown.kinds.iter().find(|kind| kind.kind == JobKind::Composite).unwrap();
    let counts = (kind.waiting, kind.scheduled, kind.dispatched, kind.running, kind.paused);
    assert_eq!(counts, (3, 1, 2, 1, true));
    assert_eq!(shown.kinds.iter().filter(|kind| kind.paused).count(), 1);
    assert_eq!((shown.paused[0].scope.as_str(), shown.paused[0].name.as_deref()), ("kind", Some("composite")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claims_of_a_tenant_and_relays_take_turns_on_postgres() {
    on_postgres(one_after_the_other).await;
}

/// While another process is claiming or dispatching, and has not committed yet, nobody else counts.
async fn one_after_the_other(database: Database) {
    let dispatch = DispatchRules { window: Window::Of(4), tenant_limit: 1, ..DispatchRules::default() };
    let job_store = with_rules(&database, OutboxMode::Service, dispatch).await;
    let wanted = of_tenant("small");
    submit(&job_store, &wanted).await;
    let pause = Duration::from_millis(400);

    let mut other = PgConnection::connect(database.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT acetate_tenant_has_room('small', 1)").execute(&mut other).await.unwrap();
    let mut claiming = tokio::spawn({
        let job_store = job_store.clone();
        async move { claim(&job_store, wanted.id, "one").await }
    });
    assert!(tokio::time::timeout(pause, &mut claiming).await.is_err(), "it did not wait for the other claim");
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert!(matches!(claiming.await.unwrap(), Claim::Taken(_)));

    submitted_batch(&job_store, &batch("many"), 8).await;
    let call = "SELECT job FROM acetate_dispatch('{composite}', 500, 60000, 4, 0, '{}', '{}')";
    let taken = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("BEGIN; {call}")));
    assert_eq!(taken.fetch_all(&mut other).await.unwrap().len(), 4);
    let mut sending = tokio::spawn({
        let job_store = job_store.clone();
        async move { send(&job_store).await }
    });
    assert!(tokio::time::timeout(pause, &mut sending).await.is_err(), "it did not wait for the other relay");
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(sending.await.unwrap(), [], "the other one has filled the window");
    other.close().await.unwrap();
}

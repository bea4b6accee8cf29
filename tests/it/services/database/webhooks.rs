//! Webhook calls at the end of jobs, and the search words of jobs.

use std::{collections::BTreeMap, time::Duration};

use acetate::{
    database::{Fenced, Filter, JobStore, SubmitOptions, WebhookLimits, WebhookRow},
    job::{InputRef, JobEvent, JobId, JobRequest, TraceContext},
};

use super::support::*;

on_both!(
    the_end_of_a_job_leaves_a_call_and_nothing_else_does,
    a_call_is_taken_by_one_and_comes_again_until_it_is_done_or_given_up,
    a_batch_that_is_cancelled_calls_for_each_job,
    origins_take_turns_and_none_gets_more_than_its_part,
    calls_outlive_their_job,
    a_batch_is_told_of_although_its_jobs_are_deleted,
    jobs_are_found_by_words_and_labels,
    many_rows_are_read_at_once,
);

const URL: &str = "https://example.org/hook?key=1";

async fn called(job_store: &JobStore) -> JobId {
    let request = request(JobId::new(), "file:///a.png");
    let options = SubmitOptions { webhook: Some(URL.to_owned()), ..SubmitOptions::default() };
    job_store.submit(&request, &options).await.unwrap();
    request.id
}

async fn due(job_store: &JobStore) -> Vec<WebhookRow> {
    job_store.webhooks_take(&calls(10), LEASE).await.unwrap()
}

fn event(call: &WebhookRow) -> JobEvent {
    serde_json::from_str(&call.payload).unwrap()
}

/// Calls are stored even without a broker, because nothing else sends them.
async fn the_end_of_a_job_leaves_a_call_and_nothing_else_does(database: Database) {
    let job_store = database.embedded().await;
    let id = called(&job_store).await;
    let silent = submitted(&job_store).await;
    let job = take(&job_store, id, "one", LEASE).await;
    let Fenced::Held(_) = job_store.requeue(id, job.fence(), &broken(), NO_TIME).await.unwrap() else { panic!("lost") };
    assert_eq!(due(&job_store).await.len(), 0);
    let job = take(&job_store, id, "one", LEASE).await;
    let Fenced::Held(_) = job_store.succeed(id, job.fence(), &result()).await.unwrap() else { panic!("lost") };
    job_store.cancel(silent, &|_| false).await.unwrap();
    let calls = due(&job_store).await;
    assert_eq!(calls.len(), 1);
    assert_eq!((calls[0].job, calls[0].url.as_str(), calls[0].attempts), (id, URL, 0));
    assert_eq!((event(&calls[0]).event.as_str(), event(&calls[0]).outputs.len()), ("job.succeeded", 1));
}

async fn a_call_is_taken_by_one_and_comes_again_until_it_is_done_or_given_up(database: Database) {
    let (job_store, other) = (database.service().await, database.service().await);
    let id = called(&job_store).await;
    job_store.cancel(id, &|_| false).await.unwrap();
    let taken = job_store.webhooks_take(&calls(10), Duration::from_millis(200)).await.unwrap();
    assert_eq!((taken.len(), due(&other).await.len()), (1, 0));
    // The server that took it died.
    let again = until_some(|| due(&other)).await;
    assert_eq!((again.len(), again[0].id), (1, taken[0].id));
    other.webhook_failed(again[0].id, "500", Some(Duration::from_millis(200))).await.unwrap();
    assert_eq!(due(&job_store).await.len(), 0);
    let again = until_some(|| due(&job_store)).await;
    assert_eq!((again.len(), again[0].attempts), (1, 1));
    job_store.webhook_failed(again[0].id, "410", None).await.unwrap();
    // The first delay would have ended by now.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(due(&job_store).await.len(), 0);

    // The same job ends again, which gives another call.
    job_store.retry(id).await.unwrap();
    job_store.cancel(id, &|_| false).await.unwrap();
    let next = due(&job_store).await;
    assert!(next.len() == 1 && next[0].id > again[0].id);
    job_store.webhook_done(next[0].id).await.unwrap();
    assert_eq!(due(&job_store).await.len(), 0);
}

async fn a_batch_that_is_cancelled_calls_for_each_job(database: Database) {
    let job_store = database.embedded().await;
    let requests: Vec<JobRequest> = (0..3).map(|_| request(JobId::new(), "file:///a.png")).collect();
    let options = SubmitOptions { batch: Some(batch("b")), webhook: Some(URL.to_owned()), ..SubmitOptions::default() };
    job_store.submit_many(&requests, &options).await;
    submitted_batch(&job_store, &batch("b"), 2).await;
    assert_eq!(job_store.cancel_batch(&batch("b")).await.unwrap(), 5);
    let calls = due(&job_store).await;
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| event(call).event == "job.cancelled" && event(call).batch == Some(batch("b"))));
    submitted_batch(&job_store, &batch("a"), 1).await;
    assert_eq!(job_store.batches(10).await.unwrap(), [batch("a"), batch("b")]);
}

/// Each origin counts by its host and port, however its address is written.
async fn origins_take_turns_and_none_gets_more_than_its_part(database: Database) {
    let job_store = database.service().await;
    let add = async |count: u32, url: &str| {
        for n in 0..count {
            let request = request(JobId::new(), "file:///a.png");
            let webhook = Some(url.replace("{n}", &n.to_string()));
            job_store.submit(&request, &SubmitOptions { webhook, ..SubmitOptions::default() }).await.unwrap();
            job_store.cancel(request.id, &|_| false).await.unwrap();
        }
    };
    // More than are looked at.
    add(1, "https://hangs.example/?first").await;
    let copy = "INSERT INTO webhooks (job, url, payload, available_at, created_at) \
                SELECT job, 'https://HANGS.example:443/hook' || n, payload, available_at, created_at FROM webhooks, \
                (WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000) SELECT n FROM n) AS n";
    database.sql(copy).await;
    for url in ["https://hangs.example?{n}", "https://good.example/{n}", "https://good.example:8443/{n}"] {
        add(3, url).await;
    }
    let take = async |calls: u32, in_use: &[(&str, u32)]| {
        let in_use = in_use.iter().map(|(origin, calls)| ((*origin).to_owned(), *calls)).collect();
        let limits = WebhookLimits { calls, of_origin: 2, in_use };
        let taken = job_store.webhooks_take(&limits, LEASE).await.unwrap();
        let mut origins = BTreeMap::<String, usize>::new();
        for call in taken {
            *origins.entry(call.origin).or_default() += 1;
        }
        origins.into_iter().collect::<Vec<_>>()
    };
    let of = |origin: &str, calls: usize| (format!("https://{origin}"), calls);
    assert_eq!(take(16, &[]).await, [of("hangs.example", 2)]);
    let hangs = ("https://hangs.example", 2);
    assert_eq!(take(1, &[hangs]).await, [of("good.example", 1)]);
    assert_eq!(
        take(16, &[hangs, ("https://good.example", 1)]).await,
        [of("good.example", 1), of("good.example:8443", 2)]
    );
    assert_eq!(take(16, &[hangs, ("https://good.example:8443", 2)]).await, [of("good.example", 1)]);
    // One of each, although one was there first.
    database.sql("DELETE FROM webhooks WHERE url LIKE '%:443/hook%'").await;
    assert_eq!(take(2, &[]).await, [of("good.example:8443", 1), of("hangs.example", 1)]);
}

/// What was promised to be told is told, whoever deletes the job meanwhile.
async fn calls_outlive_their_job(database: Database) {
    let job_store = database.service().await;
    let count = async || database.count("SELECT count(*) FROM webhooks").await;
    let trace = TraceContext::read("a test", Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), None);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let request = request(JobId::new(), "file:///a.png");
        let options = SubmitOptions { webhook: Some(URL.to_owned()), trace: trace.clone(), ..SubmitOptions::default() };
        job_store.submit(&request, &options).await.unwrap();
        job_store.cancel(request.id, &|_| false).await.unwrap();
        ids.push(request.id);
    }
    // The first is with a server that will fail, the second is given up, the third was not looked at.
    let mut taken = job_store.webhooks_take(&calls(2), Duration::from_millis(1)).await.unwrap();
    taken.sort_by_key(|call| call.id);
    let [first, second] = &taken[..] else { panic!("{} calls", taken.len()) };
    job_store.webhook_failed(second.id, "410", None).await.unwrap();
    assert_eq!(job_store.forget(&as_read(&job_store, &ids[..1]).await).await.unwrap().deleted, 1);
    assert_eq!(job_store.prune(&as_read(&job_store, &ids[1..]).await, None).await.unwrap().deleted, 2);
    assert_eq!(count().await, 2, "what is given up needs no row any more");

    let mut calls = until_some(|| due(&job_store)).await;
    calls.sort_by_key(|call| call.id);
    assert_eq!(calls.iter().map(|call| call.job).collect::<Vec<_>>(), [ids[0], ids[2]]);
    assert!(calls.iter().all(|call| event(call).event == "job.cancelled" && call.trace == trace));
    job_store.webhook_failed(first.id, "500", Some(NO_TIME)).await.unwrap();
    let again = due(&job_store).await;
    assert_eq!((again.len(), again[0].id, again[0].attempts), (1, first.id, 1));
    job_store.webhook_failed(first.id, "500", None).await.unwrap();
    assert_eq!(count().await, 1, "nobody can look at a call of a deleted job that is given up");
    job_store.webhook_done(calls[1].id).await.unwrap();
    assert_eq!(count().await, 0);
}

/// Nobody looked at the batch between its end and the deletion.
async fn a_batch_is_told_of_although_its_jobs_are_deleted(database: Database) {
    let job_store = database.service().await;
    let ids = submitted_batch(&job_store, &batch("b"), 3).await;
    job_store.watch_batch(&batch("b"), URL, false).await.unwrap();
    job_store.cancel(ids[0], &|_| false).await.unwrap();
    assert_eq!(job_store.prune(&as_read(&job_store, &ids[..1]).await, None).await.unwrap().deleted, 1);
    assert_eq!(due(&job_store).await.len(), 0, "two jobs are left");
    job_store.cancel_batch(&batch("b")).await.unwrap();
    assert_eq!(job_store.prune(&as_read(&job_store, &ids[1..]).await, None).await.unwrap().deleted, 2);
    let calls = due(&job_store).await;
    assert_eq!(calls.len(), 1);
    let told: serde_json::Value = serde_json::from_str(&calls[0].payload).unwrap();
    assert_eq!((&told["batch"], &told["cancelled"]), (&"b".into(), &2.into()), "{told:#}");
}

async fn jobs_are_found_by_words_and_labels(database: Database) {
    let job_store = database.service().await;
    let mut labelled = request(JobId::new(), "s3://in/Harbour%20View.png?sig=s3cret");
    labelled.labels = [("Set".to_owned(), "Posters 50%".to_owned())].into();
    submit(&job_store, &labelled).await;
    let mut chained = request(JobId::new(), "file:///b.png");
    chained.inputs.layers.push(InputRef::File { job: labelled.id, file: "composite.png".to_owned() });
    submit(&job_store, &chained).await;
    let old = submitted(&job_store).await;
    database.sql(&format!("UPDATE jobs SET search = NULL WHERE id = '{old}'")).await;
    let found = async |search: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let filter = Filter { search: search.to_owned(), labels, limit: 10, ..Filter::default() };
        job_store.list(&filter).await.unwrap().jobs.iter().map(|row| row.id()).collect::<Vec<_>>()
    };
    assert_eq!(found("harbour", &[]).await, [labelled.id]);
    assert_eq!(found("VIEW posters", &[]).await, [labelled.id]);
    assert_eq!(found("50%", &[]).await, [labelled.id]);
    assert_eq!(found(&labelled.id.to_string(), &[]).await, [labelled.id]);
    assert_eq!(found("", &[("set", "posters 50%")]).await, [labelled.id]);
    assert_eq!(found(&old.to_string(), &[]).await, [old]);
    for nothing in ["s3cret", "harbour boat", "_", "' OR 1=1 --"] {
        assert_eq!(found(nothing, &[]).await, [], "{nothing}");
    }
    assert_eq!(found("", &[("set", "posters")]).await, []);
    // A reference to another job's picture is read from the row as it was written.
    assert_eq!(row(&job_store, chained.id).await.request, chained);
}

async fn many_rows_are_read_at_once(database: Database) {
    let job_store = database.service().await;
    let (one, two) = (submitted(&job_store).await, submitted(&job_store).await);
    let mut found: Vec<_> =
        job_store.get_many(&[two, JobId::new(), one]).await.unwrap().iter().map(|row| row.id()).collect();
    found.sort();
    assert_eq!(found, [one, two]);
}

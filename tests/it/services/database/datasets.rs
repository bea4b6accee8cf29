//! The rows of datasets in both databases.

use acetate::{
    database::{DatasetRow, DatasetRun, JobStore, SourceOverlap, SubmitOptions},
    job::{BatchId, JobId, JobKind},
};
use serde_json::json;

use super::support::{Database, as_read, batch, on_both, on_postgres, request, submitted_batch};

on_both!(
    rows_keep_their_order_and_follow_the_latest_submission,
    sources_follow_each_other,
    a_source_that_has_all_rows_of_another_takes_its_place,
    jobs_say_that_they_are_local,
);

fn row(number: u64, job: JobId, text: &str) -> DatasetRow {
    DatasetRow { number, job, meta: json!({ "text": text, "zero": "a\0b" }).as_object().cloned() }
}

fn run(began: i64) -> DatasetRun {
    DatasetRun { source: "set".to_owned(), began }
}

async fn rows_keep_their_order_and_follow_the_latest_submission(database: Database) {
    let job_store = database.service().await;
    let name = batch("set");
    let ids = submitted_batch(&job_store, &name, 4).await;
    // The first job is of two rows, the last one of none, and one row has a job that is not there.
    let rows = [row(3, ids[0], "c"), row(1, ids[2], "a"), row(2, ids[0], "b"), row(4, JobId::new(), "none")];
    job_store.record_dataset_rows(&name, &run(1), &rows).await.unwrap();
    job_store.record_dataset_rows(&name, &run(1), &rows).await.unwrap();
    job_store.record_dataset_rows(&name, &run(1), &[]).await.unwrap();
    let read = async || {
        let (mut cursor, mut found) = (job_store.dataset_cursor(&name).await.unwrap(), Vec::new());
        loop {
            let page = job_store.dataset_jobs(&name, &mut cursor, 2).await.unwrap();
            if page.is_empty() {
                return found;
            }
            found.extend(page.into_iter().map(|row| (row.number, row.job.id(), row.meta.unwrap()["text"].clone())));
        }
    };
    assert_eq!(read().await, [(1, ids[2], json!("a")), (2, ids[0], json!("b")), (3, ids[0], json!("c"))]);
    let outside = job_store.batch_rows_outside(&name, None, 10).await.unwrap();
    assert_eq!(outside.iter().map(|row| row.id()).collect::<Vec<_>>(), [ids[1], ids[3]]);
    assert_eq!(job_store.batch_rows(&name, None, 10).await.unwrap().len(), 4);

    // The same jobs one row further, in two chunks of a later submission.
    job_store.record_dataset_rows(&name, &run(2), &[row(2, ids[2], "a"), row(3, ids[0], "b")]).await.unwrap();
    job_store.record_dataset_rows(&name, &run(2), &[row(4, ids[0], "c")]).await.unwrap();
    job_store.drop_moved_rows(&name, &run(2), true).await.unwrap();
    let moved = [(2, ids[2], json!("a")), (3, ids[0], json!("b")), (4, ids[0], json!("c"))];
    assert_eq!(read().await, moved);

    // A part drops only what it has seen elsewhere, and another source nothing.
    job_store.record_dataset_rows(&name, &run(3), &[row(4, ids[0], "c"), row(3, ids[2], "a")]).await.unwrap();
    job_store.drop_moved_rows(&name, &run(3), false).await.unwrap();
    let swapped = [(2, ids[2], json!("a")), (3, ids[2], json!("a")), (4, ids[0], json!("c"))];
    assert_eq!(read().await, swapped);
    let other = DatasetRun { source: "other".to_owned(), began: 4 };
    job_store.record_dataset_rows(&name, &other, &[row(4, ids[0], "d")]).await.unwrap();
    job_store.drop_moved_rows(&name, &other, true).await.unwrap();
    assert_eq!(read().await.len(), 4);
    // An earlier run that ends later drops nothing of a later one.
    job_store.drop_moved_rows(&name, &run(2), true).await.unwrap();
    assert_eq!(read().await.len(), 4);
    job_store.record_dataset_rows(&name, &run(5), &[row(2, ids[2], "a")]).await.unwrap();
    job_store.drop_moved_rows(&name, &run(5), true).await.unwrap();
    assert_eq!(read().await.iter().map(|row| row.0).collect::<Vec<_>>(), [2, 4, 4]);
    assert_eq!(read().await[1].2, json!("c"), "the first source comes first");

    // Deleted jobs take their rows with them.
    assert_eq!(job_store.cancel_batch(&name).await.unwrap(), 4);
    assert_eq!(job_store.forget(&as_read(&job_store, &[ids[0]]).await).await.unwrap().deleted, 1);
    assert_eq!(read().await, [(2, ids[2], json!("a"))]);
    // ... and are counted: one of each source.
    assert_eq!(job_store.deleted_rows(&name).await.unwrap(), 2);
    assert_eq!(job_store.deleted_rows(&batch("other")).await.unwrap(), 0);
    let options = SubmitOptions { batch: Some(name.clone()), ..SubmitOptions::default() };
    job_store.submit(&request(ids[0], "file:///a.png"), &options).await.unwrap();
    assert_eq!(job_store.deleted_rows(&name).await.unwrap(), 0, "the job is there again");
}

/// The number, the job and the earlier equals of each row of a batch.
async fn numbered(job_store: &JobStore, batch: &BatchId) -> Vec<(u64, JobId, u32)> {
    let (mut cursor, mut found) = (job_store.dataset_cursor(batch).await.unwrap(), Vec::new());
    loop {
        let page = job_store.dataset_jobs(batch, &mut cursor, 2).await.unwrap();
        if page.is_empty() {
            return found;
        }
        found.extend(page.iter().map(|row| (row.number, row.job.id(), row.nth)));
    }
}

async fn sources_follow_each_other(database: Database) {
    let job_store = database.service().await;
    let name = batch("several");
    let ids = submitted_batch(&job_store, &name, 3).await;
    let [a, b, c] = ids[..] else { unreachable!() };
    // Not in the order of their digests, and in pieces that alternate.
    for (source, began, rows) in [
        ("z", 5, vec![row(1, a, "1"), row(2, b, "2")]),
        ("m", 7, vec![row(1, c, "1"), row(2, b, "2")]),
        ("z", 5, vec![row(3, c, "3")]),
        ("a", 3, vec![row(2, b, "2")]),
        ("m", 9, vec![row(3, a, "3")]),
    ] {
        let run = DatasetRun { source: source.to_owned(), began };
        job_store.record_dataset_rows(&name, &run, &rows).await.unwrap();
    }
    let all = [(1, a, 0), (2, b, 0), (3, c, 0), (1, c, 0), (2, b, 1), (3, a, 0), (2, b, 2)];
    assert_eq!(numbered(&job_store, &name).await, all);
    let mut cursor = job_store.dataset_cursor(&name).await.unwrap();
    let mut rows = Vec::new();
    loop {
        let page = job_store.dataset_rows(&name, &mut cursor, 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    assert_eq!(rows.iter().map(|row| (row.number, row.job)).collect::<Vec<_>>(), all.map(|row| (row.0, row.1)));
    assert_eq!(rows[4].meta.as_ref().unwrap()["text"], "2");
    assert_eq!(job_store.batch_kinds(&name).await.unwrap(), [JobKind::Composite]);
}

async fn a_source_that_has_all_rows_of_another_takes_its_place(database: Database) {
    let job_store = database.service().await;
    let name = batch("moved");
    let ids = submitted_batch(&job_store, &name, 3).await;
    let [a, b, c] = ids[..] else { unreachable!() };
    let record = async |source: &str, rows: &[DatasetRow]| {
        let run = DatasetRun { source: source.to_owned(), began: 1 };
        job_store.record_dataset_rows(&name, &run, rows).await.unwrap();
        job_store.merge_sources(&name, source).await.unwrap()
    };
    assert_eq!(record("old", &[row(1, a, "1"), row(2, b, "2")]).await, []);
    let overlap = |other: &str, rows, shared, equal| SourceOverlap { other: other.to_owned(), rows, shared, equal };
    assert_eq!(record("other", &[row(1, c, "1")]).await, [overlap("old", 2, 0, 0)]);
    // A part is none, and neither are other columns or other numbers.
    let others = |equal| [overlap("old", 2, 2, equal), overlap("other", 1, 0, 0)];
    assert_eq!(record("new", &[row(1, a, "1"), row(2, b, "changed")]).await, others(1));
    assert_eq!(numbered(&job_store, &name).await.len(), 5);
    // With more rows behind them, it is.
    assert_eq!(record("new", &[row(2, b, "2"), row(3, b, "3")]).await, [overlap("other", 1, 0, 0)]);
    assert_eq!(numbered(&job_store, &name).await, [(1, a, 0), (2, b, 0), (3, b, 0), (1, c, 0)]);
    assert_eq!(job_store.dataset_sources(&name).await.unwrap(), ["new", "other"]);
}

async fn jobs_say_that_they_are_local(database: Database) {
    let job_store = database.service().await;
    for local in [true, false] {
        let options = SubmitOptions { local, ..SubmitOptions::default() };
        let (one, two) = (request(JobId::new(), "file:///a.png"), request(JobId::new(), "file:///b.png"));
        job_store.submit(&one, &options).await.unwrap();
        job_store.submit_many(std::slice::from_ref(&two), &options).await.pop().unwrap().unwrap();
        for id in [one.id, two.id] {
            assert_eq!(job_store.get(id).await.unwrap().unwrap().local, local);
        }
    }
    let message = request(JobId::new(), "file:///c.png");
    job_store.submit_message(&message, &SubmitOptions::default()).await.unwrap();
    assert!(!job_store.get(message.id).await.unwrap().unwrap().local);
}

/// Without statistics, the planner may read all rows of a dataset for each of its chunks. During a large submission
/// that would be so until the tables are analyzed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_chunk_of_rows_costs_the_same_however_large_the_dataset_is() {
    on_postgres(chunks_of_many).await;
}

async fn chunks_of_many(database: Database) {
    const ROWS: usize = 4000;
    let job_store = database.service().await;
    for table in ["jobs", "dataset_rows"] {
        database.sql(&format!("ALTER TABLE {table} SET (autovacuum_enabled = FALSE)")).await;
    }
    let name = batch("large");
    let ids = submitted_batch(&job_store, &name, ROWS).await;
    job_store.close().await;
    let read = "SELECT SUM(seq_tup_read + idx_tup_fetch)::BIGINT FROM pg_stat_user_tables
                 WHERE relname IN ('jobs', 'dataset_rows') AND schemaname = CURRENT_SCHEMA";
    let before = database.count(read).await;
    let job_store = database.service().await;
    // The second time, there are rows of an earlier run.
    for began in [1, 2] {
        for (chunk, ids) in ids.chunks(100).enumerate() {
            let row = |(index, job): (usize, &JobId)| DatasetRow {
                number: (chunk * 100 + index + 1) as u64,
                job: *job,
                meta: None,
            };
            let rows: Vec<_> = ids.iter().enumerate().map(row).collect();
            job_store.record_dataset_rows(&name, &run(began), &rows).await.unwrap();
        }
        job_store.drop_moved_rows(&name, &run(began), true).await.unwrap();
    }
    assert_eq!(job_store.merge_sources(&name, "set").await.unwrap(), []);
    let mut cursor = job_store.dataset_cursor(&name).await.unwrap();
    assert_eq!(job_store.dataset_jobs(&name, &mut cursor, u32::MAX).await.unwrap().len(), ROWS);
    job_store.close().await;
    let after = database.count(read).await;
    assert!(after - before < 20 * ROWS as i64, "{} rows were read for {ROWS}", after - before);
}

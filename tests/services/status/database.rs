//! Opening a database, and what is said when it cannot be.

use acetate::{
    job::{ErrorClass, JobError},
    status::{Mode, Place, Status},
};

use super::support::*;

on_both!(many_processes_may_start_at_once, a_newer_schema_is_refused);

async fn many_processes_may_start_at_once(database: Database) {
    let opened: Vec<_> = (0..6)
        .map(|_| {
            let database = database.clone();
            tokio::spawn(async move { database.service().await })
        })
        .collect();
    let mut all = Vec::new();
    for status in opened {
        all.push(status.await.unwrap());
    }
    let id = submitted(&all[0]).await;
    assert!(all[5].get(id).await.unwrap().is_some());
    all[1].ping().await.unwrap();
    for status in all {
        status.close().await;
        assert!(status.ping().await.is_err());
    }
}

async fn a_newer_schema_is_refused(database: Database) {
    database.service().await.close().await;
    let newer =
        if database.is_postgres() { "UPDATE acetate_schema SET version = 99" } else { "PRAGMA user_version = 99" };
    database.sql(newer).await;
    let error = Status::open(&database.place, Mode::Service).await.unwrap_err().to_string();
    assert!(error.contains("newer acetate (schema 99") && error.contains("update acetate"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.db");
    std::fs::write(&path, "this is a text, long enough to be looked at as a header of a database").unwrap();
    let error = Status::open(&Place::Sqlite(path), Mode::Embedded).await.unwrap_err().to_string();
    assert!(error.contains("rows.db") && error.contains("not a database"), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_be_used_says_why_and_keeps_the_password() {
    let reach = postgres_url();
    let (base, _) = reach.rsplit_once('/').unwrap();
    let cases = [
        ("postgres://me:hunter2@127.0.0.1:1/jobs".to_owned(), "is the server running", "me@127.0.0.1:1/jobs"),
        ("postgres://me:hunter2@no.such.host.invalid/jobs".to_owned(), "is the server running", "no.such.host.invalid"),
        (format!("{base}/acetate_no_such_database"), "createdb", "acetate_no_such_database"),
        (format!("{reach}?options=-csearch_path%3Dacetate_no_such_schema"), "CREATE SCHEMA", "postgres://"),
    ];
    for (url, advice, place) in cases {
        let place_read = Place::parse("status.url", &url).unwrap();
        let error = Status::open(&place_read, Mode::Service).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient);
        assert!(matches!(&error, JobError::Database { .. }));
        let text = error.to_string();
        assert!(text.contains(advice) && text.contains(place) && !text.contains("hunter2"), "{text}");
    }
}

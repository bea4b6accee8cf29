//! The row that says whether a backup was restored.

use super::support::*;

on_both!(a_second_row_is_noticed_and_forgotten, without_a_row_nothing_starts,);

async fn a_second_row_is_noticed_and_forgotten(database: Database) {
    let job_store = database.service().await;
    let own = job_store.lineage().await.unwrap();
    assert_eq!((own.others.len(), own.mixed()), (0, None));
    database.sql("INSERT INTO lineage (name, alive_at) VALUES ('z', 0), ('0', 1)").await;
    let mixed = job_store.lineage().await.unwrap();
    assert_eq!((mixed.name.as_str(), mixed.alive_at.as_millisecond()), ("0", 1));
    assert_eq!(mixed.others, [own.name.as_str(), "z"]);
    assert!(mixed.mixed().unwrap().contains("3 rows"));
    job_store.forget_lineages(&mixed.others).await.unwrap();
    let left = job_store.lineage().await.unwrap();
    assert_eq!((left.name.as_str(), left.mixed()), ("0", None));
}

async fn without_a_row_nothing_starts(database: Database) {
    let job_store = database.service().await;
    database.sql("DELETE FROM lineage").await;
    for error in [job_store.lineage().await.unwrap_err(), job_store.record_alive().await.unwrap_err()] {
        assert!(error.is_transient() && error.to_string().contains("the table lineage is empty"), "{error}");
    }
}

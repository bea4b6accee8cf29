//! The fault matrix: everything that can break around a worker, and checks that nothing is lost.
//!
//! Every case has its own servers (a virtual host, a schema, an S3 server) and breaks one thing. Then it checks for
//! each of its jobs that it is in a final state, that it had no more attempts than allowed, that it has exactly one
//! manifest whose files have the recorded SHA-256, and that its end was reported once. The ledger at the end adds this
//! up.

mod broker;
mod databases;
mod ends;
mod fairness;
mod gate;
mod killed;
mod ledger;
mod load;
mod messages;
mod promises;
mod queues;
mod stores;

pub use gate::Gate;
use ledger::Case;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_fault_matrix() {
    let mut cases: Vec<Case> = Vec::new();
    cases.extend(killed::cases());
    cases.extend(queues::cases());
    cases.extend(broker::cases());
    cases.extend(messages::cases());
    cases.extend(databases::cases());
    cases.extend(stores::cases());
    cases.extend(ends::cases());
    cases.extend(promises::cases());
    cases.extend(load::cases());
    cases.extend(fairness::cases());
    // For work on some of them: a part of their names.
    if let Ok(part) = std::env::var("ACETATE_TEST_CASES") {
        cases.retain(|case| case.name.contains(&part));
    }
    ledger::run(cases).await;
}

//! The fault matrix: what breaks around a worker, and that nothing is lost by it.
//!
//! Every case has servers of its own (a virtual host, a schema, an S3 server), breaks one thing, and then asks of each of
//! its jobs: is it in one terminal state, with at most as many attempts as allowed; is there exactly one manifest, of
//! which every file has the SHA-256 that it says; and was its end told once. The ledger at the end adds this up.

mod broker;
mod databases;
mod ends;
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
    ledger::run(cases).await;
}

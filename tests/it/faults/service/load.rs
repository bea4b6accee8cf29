//! Ten thousand queued jobs, one worker: it takes a few at a time, and its memory stays as it is.

use std::{fs, time::Duration};

use serde_json::json;

use super::ledger::{Case, Tally, case};
use crate::services::world::World;

const JOBS: usize = 10_000;
/// Of `worker.slots`; a worker may hold as many of each kind.
const SLOTS: u64 = 3;
/// Enough of them to see whether memory grows with the number of jobs.
const WATCHED: usize = 400;

pub fn cases() -> Vec<Case> {
    vec![case("10,000 queued jobs, one worker", many())]
}

async fn many() -> Tally {
    let world = World::service().await;
    let input = world.input("a.png", [1, 2, 3, 255]);
    let rows: String =
        (0..JOBS).map(|n| format!("{}\n", json!({ "image": input, "label.n": n.to_string() }))).collect();
    fs::write(world.place.path("many.jsonl"), rows).unwrap();
    let output = world.output("many");
    let args = ["submit", "composite", "--from", "many.jsonl", "--batch", "many", "--output", &output, "--json"];
    let report = world.json(&args).await;
    assert_eq!(report["submitted"], JOBS, "{report}");

    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let vhost = &world.service.as_ref().unwrap().vhost;
    let (mut early, mut late, mut most_unacked) = (0, 0, 0);
    let mut done = 0;
    while done < WATCHED {
        // Between two samples of its memory.
        tokio::time::sleep(Duration::from_millis(300)).await;
        done = worker.log().matches("succeeded files=1").count();
        let memory = resident(worker.child.id());
        if done < WATCHED / 4 {
            early = memory;
        }
        late = memory;
        let queue = tokio::task::block_in_place(|| vhost.get(&format!("/queues/{}/acetate.composite", vhost.name)));
        most_unacked = most_unacked.max(queue["messages_unacknowledged"].as_u64().unwrap_or_default());
        assert!(worker.log().matches(" ERROR ").count() == 0, "{}", worker.log());
    }
    assert!(most_unacked <= SLOTS, "{most_unacked} messages were in one worker's hands");
    assert!(late < early + (24 << 20), "memory grew from {early} to {late} bytes over {done} jobs");
    let cancelled = world.json(&["jobs", "cancel", "--batch", "many", "--json"]).await;
    assert!(cancelled["cancelled"].as_u64().unwrap() > 9_000, "{cancelled}");
    Tally { jobs: done, succeeded: done, attempts: done as u64, ..Tally::default() }
}

/// Bytes of a process in memory. Linux.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

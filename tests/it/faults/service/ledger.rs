//! Runs the cases, some at a time, and adds up what they found.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use acetate::queue::Queue;
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinSet},
};

use crate::services::world::World;

/// Cases at a time: each has a worker process, and some of them compute.
const AT_A_TIME: usize = 3;
/// A case that takes longer is broken.
const LONGEST: Duration = Duration::from_secs(400);

pub struct Case {
    pub name: String,
    pub run: Pin<Box<dyn Future<Output = Tally> + Send>>,
}

pub fn case(name: impl Into<String>, run: impl Future<Output = Tally> + Send + 'static) -> Case {
    Case { name: name.into(), run: Box::pin(run) }
}

/// What became of the jobs of one case.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub jobs: usize,
    pub succeeded: usize,
    pub failed: usize,
    /// Neither state was reached, or a result is not what its manifest says.
    pub lost: usize,
    /// Jobs that were told to have succeeded at more than one epoch, or have more than one manifest.
    pub duplicated: usize,
    pub attempts: u64,
}

/// Listens to a world's events from its start on.
pub struct Witness {
    ends: Arc<Mutex<BTreeMap<String, BTreeSet<i64>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Witness {
    pub async fn of(world: &World) -> Self {
        let queue: Queue = world.service.as_ref().unwrap().vhost.ready().await;
        let mut events = queue.events("job.succeeded").await.unwrap();
        let ends: Arc<Mutex<BTreeMap<String, BTreeSet<i64>>>> = Arc::default();
        let seen = ends.clone();
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let event: Value = serde_json::from_slice(&event.body).unwrap();
                let id = event["id"].as_str().unwrap().to_owned();
                seen.lock().unwrap().entry(id).or_default().insert(event["epoch"].as_i64().unwrap());
            }
            drop(queue);
        });
        Self { ends, task }
    }

    /// Waits for the end of every job and looks at what it left.
    pub async fn judge(self, world: &World, ids: &[String]) -> Tally {
        let mut tally = Tally { jobs: ids.len(), ..Tally::default() };
        for id in ids {
            world.until(id, &["succeeded", "failed", "cancelled"]).await;
            let job = world.check_result(id).await;
            tally.attempts += job["attempts"].as_u64().unwrap();
            match job["state"].as_str() {
                Some("succeeded") => tally.succeeded += 1,
                _ => tally.failed += 1,
            }
        }
        // The last events are on their way.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ends = self.ends.lock().unwrap();
        for id in ids {
            let told = ends.get(id).map_or(0, BTreeSet::len);
            tally.duplicated += usize::from(told > 1);
        }
        self.task.abort();
        tally
    }
}

/// What a case panicked with.
fn why(error: JoinError) -> String {
    let panic = error.into_panic();
    let text = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "see above".to_owned()).chars().take(600).collect()
}

pub async fn run(cases: Vec<Case>) {
    let slots = Arc::new(Semaphore::new(AT_A_TIME));
    let mut running = JoinSet::new();
    for (index, case) in cases.into_iter().enumerate() {
        let slots = slots.clone();
        running.spawn(async move {
            let _slot = slots.acquire_owned().await.unwrap();
            let start = Instant::now();
            let Case { name, run } = case;
            let mut run = tokio::spawn(run);
            let result = match tokio::time::timeout(LONGEST, &mut run).await {
                Ok(result) => result.map_err(why),
                Err(_) => {
                    run.abort();
                    Err(format!("did not end within {} s", LONGEST.as_secs()))
                }
            };
            (index, name, start, result, Instant::now())
        });
    }
    let mut lines = BTreeMap::new();
    let (mut sum, mut broken) = (Tally::default(), Vec::new());
    while let Some(done) = running.join_next().await {
        let (index, name, start, result, end) = done.unwrap();
        let seconds = (end - start).as_secs_f64();
        let line = match result {
            Ok(tally) => {
                sum.jobs += tally.jobs;
                sum.succeeded += tally.succeeded;
                sum.failed += tally.failed;
                sum.lost += tally.lost;
                sum.duplicated += tally.duplicated;
                sum.attempts += tally.attempts;
                let Tally { jobs, succeeded, failed, attempts, .. } = tally;
                format!(
                    "  ok     {seconds:5.1} s  {name}: jobs {jobs}, succeeded {succeeded}, failed {failed}, attempts {attempts}"
                )
            }
            Err(why) => {
                sum.lost += 1;
                broken.push(name.clone());
                format!("  BROKEN {seconds:5.1} s  {name}: {why}")
            }
        };
        lines.insert(index, line);
    }
    let Tally { jobs, succeeded, failed, lost, duplicated, attempts } = sum;
    let mut text = String::from("\nfault matrix\n");
    for line in lines.values() {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&format!(
        "jobs {jobs}, succeeded {succeeded}, failed as they should {failed}, lost {lost}, duplicated publications \
         {duplicated}, attempts {attempts}\n"
    ));
    // Past the harness's capture: the ledger is worth reading when all is well, too.
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    assert!(broken.is_empty() && lost == 0 && duplicated == 0, "{broken:?}");
}

//! Runs the cases, some at a time, and adds up what they found.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use acetate::{job::JobId, queue::Queue};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinSet},
};

use crate::{common::until, services::world::World};

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
    /// Neither state was reached, a result is not what its manifest says, or nobody was told of it.
    pub lost: usize,
    /// Jobs that were told to have succeeded at more than one epoch, or have more than one manifest.
    pub duplicated: usize,
    /// Jobs that had ended and were deleted, and then were told to have succeeded.
    pub resurrected: usize,
    pub attempts: u64,
}

/// The epochs that each job was told to have succeeded at.
type Ends = BTreeMap<String, BTreeSet<i64>>;

/// Listens to a world's events from its start on.
pub struct Witness {
    queue: Queue,
    ends: Arc<Mutex<Ends>>,
    task: tokio::task::JoinHandle<()>,
    may_miss: bool,
}

impl Witness {
    pub async fn of(world: &World) -> Self {
        let queue: Queue = world.service.as_ref().unwrap().vhost.ready().await;
        let mut events = queue.events("job.succeeded").await.unwrap();
        let ends: Arc<Mutex<Ends>> = Arc::default();
        let seen = ends.clone();
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let event: Value = serde_json::from_slice(&event.body).unwrap();
                let id = event["id"].as_str().unwrap().to_owned();
                seen.lock().unwrap().entry(id).or_default().insert(event["epoch"].as_i64().unwrap());
            }
        });
        Self { queue, ends, task, may_miss: false }
    }

    /// A broker that goes away takes with it what a listener has not heard yet.
    pub fn that_may_miss(self) -> Self {
        Self { may_miss: true, ..self }
    }

    /// Waits until every event has left the database, and then for one of its own, which comes after them.
    async fn hears_all(&self, world: &World) {
        let rows = PgPool::connect(&world.service.as_ref().unwrap().schema.url).await.unwrap();
        until(|| async {
            let count = sqlx::query_scalar("SELECT count(*) FROM outbox WHERE topic <> 'dispatch'");
            let left: i64 = count.fetch_one(&rows).await.unwrap();
            if left == 0 { Ok(()) } else { Err(format!("{left} events were not sent")) }
        })
        .await;
        rows.close().await;
        let last = JobId::new().to_string();
        let body = json!({ "id": last, "epoch": 0 }).to_string().into_bytes();
        let heard = || self.ends.lock().unwrap().contains_key(&last);
        until(|| async {
            // Again where it was lost with the connection.
            let _ = self.queue.publish_event("job.succeeded", body.clone()).await;
            for _ in 0..25 {
                if heard() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err("no event is heard any more")
        })
        .await;
    }

    /// Waits for the end of every job and looks at what it left.
    pub async fn judge(self, world: &World, ids: &[String]) -> Tally {
        self.judge_with_ended(world, ids, &[]).await
    }

    /// Like [`Witness::judge`]; none of the jobs in `ended` may be heard of again.
    pub async fn judge_with_ended(self, world: &World, ids: &[String], ended: &[String]) -> Tally {
        let mut tally = Tally { jobs: ids.len(), ..Tally::default() };
        let mut states = Vec::new();
        for id in ids {
            world.until(id, &["succeeded", "failed", "cancelled"]).await;
            let job = world.check_result(id).await;
            tally.attempts += job["attempts"].as_u64().unwrap();
            let state = job["state"].as_str().unwrap().to_owned();
            match state.as_str() {
                "succeeded" => tally.succeeded += 1,
                _ => tally.failed += 1,
            }
            states.push(state);
        }
        self.hears_all(world).await;
        let ends = self.ends.lock().unwrap();
        for (id, state) in ids.iter().zip(states) {
            let told = ends.get(id).map_or(0, BTreeSet::len);
            tally.duplicated += usize::from(told > 1);
            tally.lost += usize::from(told == 0 && state == "succeeded" && !self.may_miss);
        }
        tally.resurrected = ended.iter().filter(|id| ends.contains_key(*id)).count();
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
                sum.resurrected += tally.resurrected;
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
    let Tally { jobs, succeeded, failed, lost, duplicated, resurrected, attempts } = sum;
    let mut text = String::from("\nfault matrix\n");
    for line in lines.values() {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&format!(
        "jobs {jobs}, succeeded {succeeded}, failed as they should {failed}, lost {lost}, duplicated publications \
         {duplicated}, resurrected {resurrected}, attempts {attempts}\n"
    ));
    // Past the harness's capture: the ledger is worth reading when all is well, too.
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    assert!(broken.is_empty() && lost == 0 && duplicated == 0 && resurrected == 0, "{broken:?}");
}

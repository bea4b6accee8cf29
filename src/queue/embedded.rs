//! The in-process queue: job ids by priority, then in order of arrival.
//!
//! It only dispatches. The job rows are authoritative, so the queue stores nothing on disk and is filled from them at
//! startup; a job that is in it twice is claimed once.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};

use super::{Delivery, Event, Health};
use crate::job::JobId;

/// How many events a slow listener may be behind.
const KEPT_EVENTS: usize = 1024;

#[derive(Debug, Clone, Default)]
pub struct EmbeddedQueue {
    shared: Arc<EmbeddedState>,
}

#[derive(Debug)]
struct EmbeddedState {
    waiting: Mutex<EmbeddedJobs>,
    changed: Notify,
    events: broadcast::Sender<Event>,
    since: Timestamp,
}

impl Default for EmbeddedState {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Notify::default(),
            events: broadcast::Sender::new(KEPT_EVENTS),
            since: Timestamp::now(),
        }
    }
}

#[derive(Debug, Default)]
struct EmbeddedJobs {
    /// Highest priority first, then the oldest arrival.
    ready: BinaryHeap<(u8, Reverse<u64>, JobId)>,
    /// Jobs that are not due yet.
    later: BinaryHeap<Reverse<(Timestamp, u8, JobId)>>,
    /// Jobs in the order of the rows; they come before others of the same priority.
    offered: VecDeque<(u8, JobId)>,
    /// Jobs that were taken and are not finished.
    in_hand: HashSet<JobId>,
    arrivals: u64,
    closed: bool,
}

/// A job taken from the queue. Finish it with [`Taken::done`] or [`Taken::again_at`]; if dropped, it goes back.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) job: JobId,
    priority: u8,
    queue: Option<EmbeddedQueue>,
}

impl EmbeddedQueue {
    /// Adds a job, which is delivered at `available_at` at the earliest.
    pub fn push(&self, job: JobId, priority: u8, available_at: Timestamp) {
        self.lock().later.push(Reverse((available_at, priority, job)));
        self.shared.changed.notify_one();
    }

    /// Replaces the jobs that were offered before with these, the most urgent first. Jobs that are being worked on are
    /// left out.
    pub fn offer(&self, jobs: impl IntoIterator<Item = (JobId, u8)>) {
        let mut waiting = self.lock();
        let free = |(job, _): &(JobId, u8)| !waiting.in_hand.contains(job);
        let offered = jobs.into_iter().filter(free).map(|(job, priority)| (priority, job)).collect();
        waiting.offered = offered;
        drop(waiting);
        self.shared.changed.notify_one();
    }

    /// Stops deliveries: [`EmbeddedQueue::next`] returns `None` once nothing is due.
    pub fn close(&self) {
        self.lock().closed = true;
        self.shared.changed.notify_waiters();
    }

    /// Waits for the next due job. `None` after [`EmbeddedQueue::close`].
    pub async fn next(&self) -> Option<Delivery> {
        loop {
            let changed = self.shared.changed.notified();
            let wait = {
                let mut waiting = self.lock();
                let now = Timestamp::now();
                waiting.admit(now);
                if let Some((priority, job)) = waiting.take() {
                    return Some(Delivery::embedded(Taken { job, priority, queue: Some(self.clone()) }));
                }
                if waiting.closed {
                    return None;
                }
                waiting.later.peek().map(|Reverse((at, ..))| at.duration_since(now).unsigned_abs())
            };
            match wait {
                Some(wait) => tokio::select! { () = changed => {}, () = tokio::time::sleep(wait) => {} },
                None => changed.await,
            }
        }
    }

    pub fn len(&self) -> usize {
        let waiting = self.lock();
        waiting.ready.len() + waiting.later.len() + waiting.offered.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn tell(&self, event: Event) {
        // An error only means that there is no listener.
        let _ = self.shared.events.send(event);
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    pub(super) fn health(&self) -> Health {
        let open = !self.lock().closed;
        let since = self.shared.since;
        Health {
            connected: open,
            consuming: open,
            since,
            last_error: None,
            blocked: None,
            refused: None,
            full: BTreeMap::new(),
        }
    }

    /// No code under the lock can leave it inconsistent, so a panic elsewhere does not matter here.
    fn lock(&self) -> MutexGuard<'_, EmbeddedJobs> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EmbeddedJobs {
    fn admit(&mut self, now: Timestamp) {
        while self.later.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            if let Some(Reverse((_, priority, job))) = self.later.pop() {
                self.arrivals += 1;
                self.ready.push((priority, Reverse(self.arrivals), job));
            }
        }
    }

    fn take(&mut self) -> Option<(u8, JobId)> {
        let urgent = self
            .ready
            .peek()
            .is_some_and(|(priority, ..)| self.offered.front().is_none_or(|(offered, _)| offered < priority));
        let (priority, job) = match urgent {
            true => self.ready.pop().map(|(priority, _, job)| (priority, job))?,
            false => self.offered.pop_front()?,
        };
        self.in_hand.insert(job);
        Some((priority, job))
    }
}

impl Taken {
    /// Marks the job as done.
    pub(super) fn done(mut self) {
        if let Some(queue) = self.queue.take() {
            queue.lock().in_hand.remove(&self.job);
        }
    }

    /// Schedules the job for redelivery.
    pub(super) fn again_at(mut self, at: Timestamp) {
        if let Some(queue) = self.queue.take() {
            queue.lock().in_hand.remove(&self.job);
            queue.push(self.job, self.priority, at);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.lock().in_hand.remove(&self.job);
            queue.push(self.job, self.priority, Timestamp::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::queue::Queue;

    #[tokio::test]
    async fn higher_priority_first_then_in_order() {
        let queue = EmbeddedQueue::default();
        let [low, first, second] = [JobId::new(), JobId::new(), JobId::new()];
        let now = Timestamp::now();
        queue.push(low, 0, now - Duration::from_secs(3));
        queue.push(first, 5, now - Duration::from_secs(2));
        queue.push(second, 5, now - Duration::from_secs(1));
        for wanted in [first, second, low] {
            let delivery = queue.next().await.unwrap();
            assert_eq!(delivery.job(), Some(wanted));
            delivery.ack().await;
        }
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn a_job_waits_for_its_time_and_a_dropped_delivery_comes_back() {
        let queue = EmbeddedQueue::default();
        let job = JobId::new();
        queue.push(job, 0, Timestamp::now() + Duration::from_millis(30));
        let early = tokio::time::timeout(Duration::from_millis(5), queue.next()).await;
        assert!(early.is_err());
        drop(queue.next().await.unwrap());
        let again = queue.next().await.unwrap();
        assert_eq!(again.job(), Some(job));
        again.ack().await;
        queue.close();
        assert!(queue.next().await.is_none());
    }

    #[tokio::test]
    async fn an_offer_replaces_what_waits_but_not_what_is_in_hand() {
        let queue = EmbeddedQueue::default();
        let [first, second, third, urgent] = [(); 4].map(|()| JobId::new());
        queue.offer([(first, 0), (second, 0)]);
        let taken = queue.next().await.unwrap();
        assert_eq!(taken.job(), Some(first));
        queue.push(urgent, 5, Timestamp::now());
        queue.offer([(first, 0), (third, 0), (second, 0)]);
        for wanted in [urgent, third, second] {
            let delivery = queue.next().await.unwrap();
            assert_eq!(delivery.job(), Some(wanted));
            delivery.ack().await;
        }
        assert!(queue.is_empty());
        taken.ack().await;
        queue.offer([(first, 0)]);
        assert_eq!(queue.next().await.unwrap().job(), Some(first), "it was finished");
    }

    #[tokio::test]
    async fn a_waiting_consumer_is_woken() {
        let queue = EmbeddedQueue::default();
        let consumer = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await.and_then(|delivery| delivery.job()) }
        });
        tokio::task::yield_now().await;
        let job = JobId::new();
        queue.push(job, 0, Timestamp::now());
        assert_eq!(consumer.await.unwrap(), Some(job));
    }

    #[tokio::test]
    async fn events_reach_those_who_listen() {
        let queue = Queue::Embedded(EmbeddedQueue::default());
        queue.publish_event("job.failed", b"unheard".to_vec()).await.unwrap();
        let mut failed = queue.events("job.failed").await.unwrap();
        queue.publish_event("job.progress", Vec::new()).await.unwrap();
        queue.publish_event("job.failed", b"{}".to_vec()).await.unwrap();
        assert_eq!(
            failed.next().await,
            Some(Event { name: "job.failed".to_owned(), body: b"{}".to_vec(), trace: None })
        );
    }
}

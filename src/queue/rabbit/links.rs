//! The state of the connections, for health checks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lapin::ConnectionStatus;

use crate::{job::JobError, queue::Health};

/// The pause between two attempts of a health check to reopen the publishing connection.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a health check asks whether the broker accepts messages.
const ASK_EVERY: Duration = Duration::from_secs(15);
/// How long a refusal counts. What is refused is published again within seconds, by this process or another one.
const REFUSAL_COUNTS: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Links(Mutex<LinkStates>);

#[derive(Debug, Default)]
struct LinkStates {
    publish: Link,
    consume: Link,
    /// When the publishing connection was last retried.
    revived: Option<Instant>,
    /// When the broker was last asked whether it accepts messages.
    asked: Option<Instant>,
    /// Why the broker blocked the publishing connection, in its own words.
    blocked: Option<String>,
    /// The requested kinds, and those being delivered.
    wanted: usize,
    live: usize,
    last_error: Option<String>,
    /// What cannot be published, by exchange and routing key, and why. The key is empty if the whole exchange refuses.
    refused: BTreeMap<(&'static str, String), (Instant, String)>,
    /// The queues of ours that take no more messages, and why.
    full: BTreeMap<&'static str, (Instant, String)>,
    /// The last state, and since when.
    seen: Option<(bool, bool, Timestamp)>,
}

#[derive(Debug, Default)]
enum Link {
    #[default]
    Unused,
    Up(ConnectionStatus),
    Down,
}

impl Link {
    fn is_down(&self) -> bool {
        match self {
            Self::Unused => false,
            Self::Up(status) => !status.connected(),
            Self::Down => true,
        }
    }

    fn is_blocked(&self) -> bool {
        matches!(self, Self::Up(status) if status.connected() && status.blocked())
    }
}

impl Links {
    pub(super) fn publish_up(&self, status: ConnectionStatus) {
        self.change(|state| state.publish = Link::Up(status));
    }

    pub(super) fn publish_down(&self, error: &JobError) {
        self.change(|state| {
            state.publish = Link::Down;
            state.last_error = Some(error.to_string());
        });
    }

    /// The broker blocked the publishing connection for this reason, or, without one, unblocked it.
    pub(super) fn publish_blocked(&self, reason: Option<String>) {
        self.change(|state| state.blocked = reason);
    }

    /// Why the broker accepts no messages at present.
    pub(super) fn blocked(&self) -> Option<String> {
        self.lock().why_blocked()
    }

    pub(super) fn publish_closed(&self) {
        self.change(|state| state.publish = Link::Unused);
    }

    /// Whether the publishing connection is down and it is time to retry; true once in [`PAUSE`].
    pub(super) fn shall_revive(&self) -> bool {
        let mut state = self.lock();
        let due = state.revived.is_none_or(|last| last.elapsed() >= PAUSE);
        let shall = due && state.publish.is_down();
        if shall {
            state.revived = Some(Instant::now());
        }
        shall
    }

    /// Whether it is time to ask the broker if it accepts messages; true once in [`ASK_EVERY`]. It tells only those who
    /// publish. A connection that was not needed yet is opened.
    pub(super) fn shall_ask(&self) -> bool {
        let mut state = self.lock();
        let able = !state.publish.is_down() && !state.publish.is_blocked();
        let shall = able && state.asked.is_none_or(|last| last.elapsed() >= ASK_EVERY);
        if shall {
            state.asked = Some(Instant::now());
        }
        shall
    }

    pub(super) fn consume_wanted(&self, kinds: usize) {
        self.change(|state| {
            state.wanted = kinds;
            state.consume = Link::Down;
        });
    }

    pub(super) fn consume_up(&self, status: ConnectionStatus) {
        self.change(|state| state.consume = Link::Up(status));
    }

    pub(super) fn consume_down(&self, error: &JobError) {
        self.change(|state| {
            state.consume = Link::Down;
            state.last_error = Some(error.to_string());
        });
    }

    pub(super) fn consume_closed(&self) {
        self.change(|state| {
            state.wanted = 0;
            state.consume = Link::Unused;
        });
    }

    /// Counts one more kind as being delivered until the guard is dropped.
    pub(super) fn lane_up(&self) -> LaneUp<'_> {
        self.change(|state| state.live += 1);
        LaneUp(self)
    }

    pub(super) fn failed(&self, error: &JobError) {
        self.change(|state| state.last_error = Some(error.to_string()));
    }

    /// The exchange takes nothing, or, with a key, nothing with this routing key.
    pub(super) fn refused(&self, exchange: &'static str, key: &str, why: &str) {
        self.lock().refused.insert((exchange, key.to_owned()), (Instant::now(), why.to_owned()));
    }

    /// A message with this routing key arrived.
    pub(super) fn sent(&self, exchange: &'static str, key: &str) {
        let mut state = self.lock();
        if !state.refused.is_empty() {
            state.refused.retain(|(where_to, what), _| *where_to != exchange || !what.is_empty() && what != key);
        }
    }

    /// A queue of ours has refused a message.
    pub(super) fn full(&self, queue: &'static str, why: &str) {
        self.lock().full.insert(queue, (Instant::now(), why.to_owned()));
    }

    /// A message for this queue was taken.
    pub(super) fn has_room(&self, queue: &'static str) {
        let mut state = self.lock();
        if !state.full.is_empty() {
            state.full.remove(queue);
        }
    }

    pub(super) fn health(&self) -> Health {
        let mut state = self.lock();
        let (connected, consuming, since) = state.refresh();
        let blocked = state.why_blocked();
        state.refused.retain(|_, (at, _)| at.elapsed() < REFUSAL_COUNTS);
        state.full.retain(|_, (at, _)| at.elapsed() < REFUSAL_COUNTS);
        let full = state.full.iter().map(|(queue, (_, why))| (*queue, why.clone())).collect();
        let refused: Vec<_> = state.refused.values().map(|(_, why)| why.as_str()).collect();
        let refused = (!refused.is_empty()).then(|| refused.join("; "));
        Health { connected, consuming, since, last_error: state.last_error.clone(), blocked, refused, full }
    }

    fn change(&self, change: impl FnOnce(&mut LinkStates)) {
        let mut state = self.lock();
        change(&mut state);
        state.refresh();
    }

    fn lock(&self) -> MutexGuard<'_, LinkStates> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkStates {
    fn why_blocked(&self) -> Option<String> {
        let unknown = || "for a reason that it has not told".to_owned();
        self.publish.is_blocked().then(|| self.blocked.clone().unwrap_or_else(unknown))
    }

    fn refresh(&mut self) -> (bool, bool, Timestamp) {
        let used = !matches!((&self.publish, &self.consume), (Link::Unused, Link::Unused));
        let connected = used && !self.publish.is_down() && !self.consume.is_down();
        let consuming = self.wanted > 0 && self.live >= self.wanted && !self.consume.is_down();
        let since = match self.seen {
            Some((was_connected, was_consuming, since)) if (was_connected, was_consuming) == (connected, consuming) => {
                since
            }
            _ => Timestamp::now(),
        };
        *self.seen.insert((connected, consuming, since))
    }
}

pub(super) struct LaneUp<'a>(&'a Links);

impl Drop for LaneUp<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.live = state.live.saturating_sub(1));
    }
}

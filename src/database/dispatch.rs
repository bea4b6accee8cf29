//! Which queued jobs are dispatched to workers, and in which order.
//!
//! Jobs wait in the database. Only a window of them is in the broker: for each kind, as many as live workers have slots
//! for, twice. When a worker starts a job, the window has room again, and the relay takes the next ones: highest
//! priority first, then in turn from each tenant and batch, where the one with the fewest jobs in the broker or running
//! comes first. So a single job that was submitted behind a large batch waits for one window of jobs, not for the
//! batch.
//!
//! Thousands of batches may wait, and a relay asks several times a second. So not every batch is looked at. In the
//! order of arrival, the first jobs of batches that have none in the broker or running come first, and if there are
//! enough of those, nothing else is looked at. A large batch may hide the others: then some of the batches are looked
//! at in the order of their names, and the next time, those after them. Batches take turns all the same; only which of
//! many idle ones is first may then differ from the order of arrival.
//!
//! A dispatch stays in the outbox while its message waits in the broker, and counts for the window until a worker
//! claims the job. The window cannot shrink for good: jobs whose message was lost are found by the reaper, which sends
//! the message again, and what belongs to a started or ended job is removed before the window is counted.
//!
//! Paused jobs are neither dispatched nor claimed. A worker that gets a message of one returns the dispatch to the
//! outbox. The limit for each tenant works the same way.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{row::JobRow, row_mapping::Columns};
use crate::job::{BatchId, JobError, JobKind};

/// How long a worker counts after its last sign of life.
pub(super) const WORKER_LIVES: Duration = Duration::from_secs(30);

/// The window while no worker is known.
pub(super) const LEAST_WINDOW: i64 = 16;

/// The taken_until of a message in the broker: no relay takes it again, not even one of an older version.
pub(super) const IN_BROKER: i64 = 9_000_000_000_000_000;

/// When a job that a worker returned because of a pause is dispatched again, unless it is resumed before. Relays of
/// older versions do not know pauses.
pub(super) const PAUSED_AGAIN: Duration = Duration::from_secs(30);

/// The same for a job of a tenant that has as many jobs as it may have.
pub(super) const LIMITED_AGAIN: Duration = Duration::from_secs(1);

/// How many jobs are dispatched, and how many of each tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DispatchRules {
    pub window: Window,
    /// The most jobs of a tenant that are dispatched or running. 0: any number.
    pub tenant_limit: u32,
    /// The same for single tenants.
    pub tenant_limits: BTreeMap<String, u32>,
}

/// How many jobs of each kind are in the broker before a worker starts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Window {
    #[default]
    Unlimited,
    /// Two for each slot of the live workers.
    Automatic,
    Of(u32),
}

/// Why a job that is due is not claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Paused,
    /// Its tenant has as many running jobs as it may have.
    TenantLimit,
}

/// What is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    Kind(JobKind),
    Batch(BatchId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub scope: Scope,
    pub paused_at: Timestamp,
    /// In words; absent if a person paused it.
    pub reason: Option<String>,
}

/// The live workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workers {
    pub workers: u64,
    /// The sum of their slots.
    pub slots: u64,
}

/// One of the live workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveWorker {
    pub name: String,
    pub slots: u64,
    /// Absent if it is older than this column.
    pub version: Option<String>,
}

impl LiveWorker {
    pub(super) fn read(row: &impl Columns) -> Result<Self, JobError> {
        Ok(Self { name: row.text("name")?, slots: row.small("slots")?, version: row.maybe_text("version")? })
    }
}

/// The unfinished jobs of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindCounts {
    pub kind: JobKind,
    /// Due, but not dispatched: queued, or left by a worker that died.
    pub waiting: u64,
    /// Queued for a later time: scheduled, or waiting for the next attempt.
    pub scheduled: u64,
    /// Dispatched to the broker, but not started. 0 without a broker.
    pub dispatched: u64,
    /// Running, with a live worker.
    pub running: u64,
}

impl Scope {
    /// The batch that it is about.
    pub fn batch(&self) -> Option<&BatchId> {
        match self {
            Self::Batch(batch) => Some(batch),
            Self::All | Self::Kind(_) => None,
        }
    }
}

impl DispatchRules {
    /// The most jobs of a tenant; absent if there is no limit.
    pub fn limit_of(&self, tenant: &str) -> Option<u32> {
        let most = self.tenant_limits.get(tenant).copied().unwrap_or(self.tenant_limit);
        Some(most).filter(|most| *most > 0)
    }

    /// For the functions of Postgres, where 0 means: two for each slot.
    pub(super) fn window_number(&self) -> i64 {
        match self.window {
            Window::Unlimited => i64::MAX / 2,
            Window::Automatic => 0,
            Window::Of(jobs) => i64::from(jobs.max(1)),
        }
    }

    /// The names and the limits of [`DispatchRules::tenant_limits`], as two columns.
    pub(super) fn named_limits(&self) -> (Vec<String>, Vec<i64>) {
        self.tenant_limits.iter().map(|(name, most)| (name.clone(), i64::from(*most))).unzip()
    }

    /// The window with this many live workers.
    pub fn window_of(&self, workers: Workers) -> Option<u64> {
        match self.window {
            Window::Unlimited => None,
            Window::Of(jobs) => Some(u64::from(jobs.max(1))),
            Window::Automatic if workers.slots > 0 => Some(2 * workers.slots),
            Window::Automatic => Some(LEAST_WINDOW.unsigned_abs()),
        }
    }
}

impl KindCounts {
    pub(super) fn read(row: &impl Columns) -> Result<Self, JobError> {
        let (due, dispatched): (u64, u64) = (row.small("due")?, row.small("dispatched")?);
        Ok(Self {
            kind: row.word("kind")?,
            waiting: due.saturating_sub(dispatched),
            scheduled: row.small("scheduled")?,
            dispatched,
            running: row.small("running")?,
        })
    }
}

impl Scope {
    /// The columns of the table.
    pub(super) fn columns(&self) -> (&'static str, String) {
        match self {
            Self::All => ("all", String::new()),
            Self::Kind(kind) => ("kind", kind.to_string()),
            Self::Batch(batch) => ("batch", batch.to_string()),
        }
    }

    /// A pause of a kind that this version does not know concerns no job of this version.
    pub(super) fn from_columns(scope: &str, name: &str) -> Option<Self> {
        match scope {
            "all" => Some(Self::All),
            "kind" => name.parse().ok().map(Self::Kind),
            "batch" => name.parse().ok().map(Self::Batch),
            _ => None,
        }
    }

    /// Whether the pause concerns a job.
    pub fn concerns(&self, row: &JobRow) -> bool {
        match self {
            Self::All => true,
            Self::Kind(kind) => row.request.task.kind() == *kind,
            Self::Batch(batch) => row.batch.as_ref() == Some(batch),
        }
    }
}

/// `all kinds`, `composite` or `batch posters`.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all kinds"),
            Self::Kind(kind) => kind.fmt(f),
            Self::Batch(batch) => write!(f, "batch {batch}"),
        }
    }
}

/// The waiting jobs of one priority, tenant and batch.
#[derive(Debug, Clone)]
pub(super) struct Share<T> {
    pub priority: i64,
    pub tenant: String,
    /// The jobs of this tenant and batch that are dispatched or running.
    pub busy: i64,
    /// The first waiting ones, in order of arrival.
    pub heads: Vec<(T, i64)>,
}

/// The order in which waiting jobs get their turn, for SQLite; Postgres has the same in its function. `tenants`: the
/// jobs of each tenant that are dispatched or running.
pub(super) fn in_turn<T: Clone + Ord>(
    shares: &[Share<T>],
    tenants: &BTreeMap<String, i64>,
    rules: &DispatchRules,
    most: usize,
) -> Vec<T> {
    let mut waiting = Vec::new();
    for share in shares {
        for ((id, at), place) in share.heads.iter().zip(1i64..) {
            waiting.push((-share.priority, share.busy + place, *at, id, share));
        }
    }
    waiting.sort_by(|one, other| (one.0, one.1, one.2, one.3).cmp(&(other.0, other.1, other.2, other.3)));
    let mut tenants = tenants.clone();
    let mut chosen = Vec::new();
    for (.., id, share) in waiting {
        if chosen.len() == most {
            break;
        }
        if let Some(limit) = rules.limit_of(&share.tenant).filter(|_| !share.tenant.is_empty()) {
            let jobs = tenants.entry(share.tenant.clone()).or_default();
            if *jobs >= i64::from(limit) {
                continue;
            }
            *jobs += 1;
        }
        chosen.push(id.clone());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(priority: i64, tenant: &str, busy: i64, heads: std::ops::Range<u32>) -> Share<u32> {
        let heads = heads.map(|id| (id, i64::from(id))).collect();
        Share { priority, tenant: tenant.to_owned(), busy, heads }
    }

    #[test]
    fn shares_take_turns_and_the_least_busy_comes_first() {
        let rules = DispatchRules::default();
        let none = BTreeMap::new();
        let shares = [share(0, "", 0, 0..100), share(0, "", 0, 200..202), share(0, "", 0, 300..301)];
        assert_eq!(in_turn(&shares, &none, &rules, 7), [0, 200, 300, 1, 201, 2, 3]);
        let shares = [share(0, "", 5, 0..100), share(0, "", 3, 200..300), share(0, "", 0, 300..301)];
        assert_eq!(in_turn(&shares, &none, &rules, 6), [300, 200, 201, 0, 202, 1], "the single one first");
        let shares = [share(0, "", 0, 0..100), share(9, "", 7, 200..202)];
        assert_eq!(in_turn(&shares, &none, &rules, 4), [200, 201, 0, 1], "priority comes before fairness");
    }

    #[test]
    fn a_tenant_has_no_more_than_its_limit() {
        let mut rules = DispatchRules { tenant_limit: 2, ..DispatchRules::default() };
        rules.tenant_limits.insert("big".to_owned(), 3);
        rules.tenant_limits.insert("free".to_owned(), 0);
        let busy = BTreeMap::from([("a".to_owned(), 1), ("big".to_owned(), 1)]);
        let shares = [
            share(0, "a", 1, 0..9),
            share(0, "big", 1, 10..19),
            share(0, "free", 0, 20..24),
            share(0, "", 0, 30..32),
            share(5, "a", 0, 40..42),
        ];
        let mut chosen = in_turn(&shares, &busy, &rules, 100);
        assert_eq!(chosen[0], 40, "the one job that `a` may still have is its most urgent one");
        chosen.sort_unstable();
        assert_eq!(chosen, [10, 11, 20, 21, 22, 23, 30, 31, 40]);
        assert_eq!((rules.limit_of("a"), rules.limit_of("big"), rules.limit_of("free")), (Some(2), Some(3), None));
    }

    #[test]
    fn the_window_follows_the_slots() {
        let rules = |window| DispatchRules { window, ..DispatchRules::default() };
        let of = |slots: u64| Workers { workers: slots.min(1), slots };
        assert_eq!(rules(Window::Automatic).window_of(of(6)), Some(12));
        assert_eq!(rules(Window::Automatic).window_of(of(0)), Some(16));
        assert_eq!(rules(Window::Of(40)).window_of(of(6)), Some(40));
        assert_eq!(rules(Window::Unlimited).window_of(of(6)), None);
    }
}

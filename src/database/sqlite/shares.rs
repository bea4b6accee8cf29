//! The waiting jobs that may have their turn next, without a look at every batch.
//!
//! A share is what waits of one priority, tenant and batch. Each priority is looked at on its own: first the oldest
//! jobs, which are enough if many of them are the first of a share that has none dispatched or running; then a part of
//! the shares, if a large one hides the others. The next look goes on where that one ended, so that all have their
//! turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use sqlx::{Sqlite, SqliteConnection, query::Query, sqlite::SqliteArguments};

use super::{
    dispatch::{InFlight, Paused},
    open::database,
};
use crate::{
    database::{DispatchRules, dispatch::Share, row_mapping::Columns},
    job::{JobError, JobKind},
};

/// More shares than are looked at for as many jobs.
const MORE: i64 = 256;

/// A tenant and a batch.
type ShareName = (String, String);
type Statement<'a> = Query<'a, Sqlite, SqliteArguments>;

/// Where the next look at the shares of a kind and priority goes on.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<BTreeMap<(&'static str, i64), ShareName>>>);

impl Turns {
    fn of(&self, place: (&'static str, i64)) -> Option<ShareName> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned()
    }

    /// Without a share, from the first one.
    fn set(&self, place: (&'static str, i64), next: Option<ShareName>) {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match next {
            Some(next) => drop(turns.insert(place, next)),
            None => drop(turns.remove(&place)),
        }
    }
}

/// Where jobs wait.
#[derive(Debug, Clone, Copy)]
pub(super) enum Backlog {
    /// In the outbox, for the queue of this kind.
    Outbox(JobKind),
    Rows,
}

impl Backlog {
    fn name(self) -> &'static str {
        match self {
            Self::Outbox(kind) => kind.as_str(),
            Self::Rows => "",
        }
    }
}

/// An id and its tenant: the message's number, or the job's id.
pub(super) trait WaitingId: Clone + Ord {
    fn read(row: &sqlx::sqlite::SqliteRow) -> Result<Self, JobError>;
}

impl WaitingId for i64 {
    fn read(row: &sqlx::sqlite::SqliteRow) -> Result<Self, JobError> {
        row.number("waiting")
    }
}

impl WaitingId for String {
    fn read(row: &sqlx::sqlite::SqliteRow) -> Result<Self, JobError> {
        row.text("waiting")
    }
}

/// A search for `most` jobs.
pub(super) struct ShareSearch<'a> {
    pub(super) connection: &'a mut SqliteConnection,
    pub(super) waiting: Backlog,
    pub(super) turns: &'a Turns,
    pub(super) paused: &'a Paused,
    pub(super) busy: &'a InFlight,
    pub(super) rules: &'a DispatchRules,
    pub(super) now: i64,
    pub(super) most: i64,
}

impl ShareSearch<'_> {
    /// Shares with their first jobs; the next `most` jobs in turn are among them.
    pub(super) async fn shares<T: WaitingId>(&mut self) -> Result<Vec<Share<(T, String)>>, JobError> {
        let (mut shares, mut left) = (Vec::new(), self.most);
        let mut last = None;
        while left > 0
            && let Some(priority) = self.next_priority(last).await?
        {
            last = Some(priority);
            let of_priority: Vec<Share<(T, String)>> = self.of_priority(priority, left).await?;
            // Jobs of tenants with a limit may be left out.
            let sure = of_priority.iter().filter(|share| self.room(&share.tenant).is_none());
            left -= sure.map(|share| i64::try_from(share.heads.len()).unwrap_or(left)).sum::<i64>();
            shares.extend(of_priority);
        }
        Ok(shares)
    }

    async fn of_priority<T: WaitingId>(
        &mut self,
        priority: i64,
        most: i64,
    ) -> Result<Vec<Share<(T, String)>>, JobError> {
        let wanted = 2 * most + 16;
        let (arrived, mut names) = self.oldest(priority, wanted).await?;
        if arrived == 0 {
            return Ok(Vec::new());
        }
        if arrived == wanted && self.idle(&names) < most {
            names.extend(self.some(priority, MORE + 2 * most).await?);
        }
        names.extend(self.busy.names(&self.waiting));
        names.retain(|(tenant, batch)| !self.is_full(tenant) && !self.paused.concerns("", batch));

        let mut shares = Vec::with_capacity(names.len());
        for name in &names {
            let first = self.heads(priority, name, 1).await?;
            if !first.is_empty() {
                let busy = self.busy.of(&self.waiting, &name.0, &name.1);
                shares.push((name, Share { priority, tenant: name.0.clone(), busy, heads: first }));
            }
        }
        // The second job of a share comes after the first one of each that has none dispatched or running.
        let first = shares.iter().filter(|(_, share)| share.busy == 0 && self.room(&share.tenant).is_none()).count();
        let depth = most + 1 - i64::try_from(first).unwrap_or(most);
        let mut deep = Vec::with_capacity(shares.len());
        for (name, mut share) in shares {
            if depth > 1 {
                share.heads = self.heads(priority, name, depth).await?;
            }
            deep.push(share);
        }
        Ok(deep)
    }

    /// How many of these shares have no job dispatched or running, and may have one.
    fn idle(&self, names: &BTreeSet<ShareName>) -> i64 {
        let mut of_tenants = BTreeMap::<&str, i64>::new();
        for (tenant, batch) in names {
            if self.busy.of(&self.waiting, tenant, batch) == 0 && !self.paused.concerns("", batch) {
                *of_tenants.entry(tenant).or_default() += 1;
            }
        }
        of_tenants.into_iter().map(|(tenant, shares)| self.room(tenant).map_or(shares, |room| shares.min(room))).sum()
    }

    /// How many more jobs a tenant may have; none if there is no limit.
    fn room(&self, tenant: &str) -> Option<i64> {
        let most = self.rules.limit_of(tenant).filter(|_| !tenant.is_empty())?;
        Some((i64::from(most) - self.busy.tenant(tenant)).max(0))
    }

    fn is_full(&self, tenant: &str) -> bool {
        self.room(tenant) == Some(0)
    }

    /// Some shares in the order of the index, from where the last look ended.
    async fn some(&mut self, priority: i64, most: i64) -> Result<Vec<ShareName>, JobError> {
        let place = (self.waiting.name(), priority);
        let began = self.turns.of(place);
        let (mut names, mut last, mut wrapped) = (Vec::new(), began.clone(), began.is_none());
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let next = loop {
            if names.len() == most {
                break names.last().cloned();
            }
            let Some(name) = self.next_share(priority, last.as_ref()).await? else {
                if wrapped {
                    break None;
                }
                (wrapped, last) = (true, None);
                continue;
            };
            // All of them were looked at.
            if wrapped && began.as_ref().is_some_and(|began| name < *began) {
                break None;
            }
            names.push(name.clone());
            last = Some(name);
        };
        self.turns.set(place, next);
        Ok(names)
    }
}

/// The statements.
impl ShareSearch<'_> {
    async fn next_priority(&mut self, last: Option<i64>) -> Result<Option<i64>, JobError> {
        let statement = match self.waiting {
            Backlog::Outbox(kind) => sqlx::query(
                "SELECT MAX(priority) AS priority FROM outbox
                  WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = ?2 AND priority < ?1",
            )
            .bind(last.unwrap_or(i64::MAX))
            .bind(kind.as_str()),
            Backlog::Rows => {
                sqlx::query("SELECT MAX(priority) AS priority FROM jobs WHERE state = 'queued' AND priority < ?1")
                    .bind(last.unwrap_or(i64::MAX))
            }
        };
        statement.fetch_one(&mut *self.connection).await.map_err(database)?.maybe_number("priority")
    }

    /// The number of the oldest jobs that are due, at most `most`, and their shares.
    async fn oldest(&mut self, priority: i64, most: i64) -> Result<(i64, BTreeSet<ShareName>), JobError> {
        let kinds = self.paused.kinds_as_json();
        let statement = match self.waiting {
            Backlog::Outbox(kind) => sqlx::query(
                "SELECT tenant, batch, COUNT(*) AS jobs FROM (
                    SELECT tenant, batch FROM outbox
                     WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = ?4 AND priority = ?1
                       AND available_at <= ?2
                     ORDER BY available_at, id LIMIT ?3)
                  GROUP BY tenant, batch",
            )
            .bind(priority)
            .bind(self.now)
            .bind(most)
            .bind(kind.as_str()),
            Backlog::Rows => sqlx::query(
                "SELECT tenant, batch, COUNT(*) AS jobs FROM (
                    SELECT IFNULL(tenant, '') AS tenant, IFNULL(batch, '') AS batch FROM jobs
                     WHERE state = 'queued' AND priority = ?1 AND available_at <= ?2
                       AND kind NOT IN (SELECT value FROM json_each(?4))
                     ORDER BY available_at, id LIMIT ?3)
                  GROUP BY tenant, batch",
            )
            .bind(priority)
            .bind(self.now)
            .bind(most)
            .bind(&kinds),
        };
        let rows = statement.fetch_all(&mut *self.connection).await.map_err(database)?;
        let (mut jobs, mut names) = (0, BTreeSet::new());
        for row in &rows {
            jobs += row.number("jobs")?;
            names.insert((row.text("tenant")?, row.text("batch")?));
        }
        Ok((jobs, names))
    }

    /// The first jobs of a share that are due.
    async fn heads<T: WaitingId>(
        &mut self,
        priority: i64,
        (tenant, batch): &ShareName,
        most: i64,
    ) -> Result<Vec<((T, String), i64)>, JobError> {
        let kinds = self.paused.kinds_as_json();
        let statement = match self.waiting {
            Backlog::Outbox(kind) => sqlx::query(
                "SELECT id AS waiting, available_at FROM outbox
                  WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = ?6 AND priority = ?1 AND tenant = ?2
                    AND batch = ?3 AND available_at <= ?4
                  ORDER BY available_at, id LIMIT ?5",
            )
            .bind(priority)
            .bind(tenant)
            .bind(batch)
            .bind(self.now)
            .bind(most)
            .bind(kind.as_str()),
            Backlog::Rows => sqlx::query(
                "SELECT id AS waiting, available_at FROM jobs
                  WHERE state = 'queued' AND priority = ?1 AND IFNULL(tenant, '') = ?2 AND IFNULL(batch, '') = ?3
                    AND available_at <= ?4 AND kind NOT IN (SELECT value FROM json_each(?6))
                  ORDER BY available_at, id LIMIT ?5",
            )
            .bind(priority)
            .bind(tenant)
            .bind(batch)
            .bind(self.now)
            .bind(most)
            .bind(&kinds),
        };
        let rows = statement.fetch_all(&mut *self.connection).await.map_err(database)?;
        rows.iter().map(|row| Ok(((T::read(row)?, tenant.clone()), row.number("available_at")?))).collect()
    }

    /// The share after `last` in the index. A tenant that may not have one more is left out as a whole.
    async fn next_share(&mut self, priority: i64, last: Option<&ShareName>) -> Result<Option<ShareName>, JobError> {
        let after = last.map(|(tenant, batch)| (tenant, if self.is_full(tenant) { "" } else { batch.as_str() }));
        let statement: Statement<'_> = match (self.waiting, after) {
            (Backlog::Outbox(kind), None) => sqlx::query(
                "SELECT tenant, batch FROM outbox
                  WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = ?2 AND priority = ?1
                  ORDER BY tenant DESC, batch DESC LIMIT 1",
            )
            .bind(priority)
            .bind(kind.as_str()),
            (Backlog::Outbox(kind), Some((tenant, batch))) => sqlx::query(
                "SELECT tenant, batch FROM outbox
                  WHERE topic = 'dispatch' AND taken_until IS NULL AND kind = ?2 AND priority = ?1
                    AND (tenant, batch) < (?3, ?4)
                  ORDER BY tenant DESC, batch DESC LIMIT 1",
            )
            .bind(priority)
            .bind(kind.as_str())
            .bind(tenant)
            .bind(batch),
            (Backlog::Rows, None) => sqlx::query(
                "SELECT IFNULL(tenant, '') AS tenant, IFNULL(batch, '') AS batch FROM jobs
                  WHERE state = 'queued' AND priority = ?1
                  ORDER BY IFNULL(tenant, '') DESC, IFNULL(batch, '') DESC LIMIT 1",
            )
            .bind(priority),
            // A comparison of rows would not use the index, which has expressions. The parts are in order.
            (Backlog::Rows, Some((tenant, batch))) => sqlx::query(
                "SELECT * FROM (
                    SELECT IFNULL(tenant, '') AS tenant, IFNULL(batch, '') AS batch FROM jobs
                     WHERE state = 'queued' AND priority = ?1 AND IFNULL(tenant, '') = ?2 AND IFNULL(batch, '') < ?3
                     ORDER BY IFNULL(batch, '') DESC LIMIT 1)
                 UNION ALL SELECT * FROM (
                    SELECT IFNULL(tenant, ''), IFNULL(batch, '') FROM jobs
                     WHERE state = 'queued' AND priority = ?1 AND IFNULL(tenant, '') < ?2
                     ORDER BY IFNULL(tenant, '') DESC, IFNULL(batch, '') DESC LIMIT 1)
                 LIMIT 1",
            )
            .bind(priority)
            .bind(tenant)
            .bind(batch),
        };
        let row = statement.fetch_optional(&mut *self.connection).await.map_err(database)?;
        row.map(|row| Ok((row.text("tenant")?, row.text("batch")?))).transpose()
    }
}

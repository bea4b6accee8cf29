//! Who did what: an entry for each action of a person or a program on jobs, for the audit log and a job's history.
//!
//! A store that was given an [`Actor`] with [`super::JobStore::by`] writes the entry in the transaction of the change.
//! Workers have none: what they do is in the attempts. An action on many jobs takes several transactions; they share
//! one entry, which counts the jobs.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{Scope, row_mapping::Columns};
use crate::job::{BatchId, JobError, JobId};

/// Who acts, in one command or request; clones share the entries of its actions.
#[derive(Debug, Clone)]
pub struct Actor(Arc<AuditActor>);

#[derive(Debug)]
struct AuditActor {
    name: String,
    address: Option<IpAddr>,
    operation: Uuid,
    /// What else is known of it, JSON; in entries that have no other detail.
    about: Option<String>,
}

impl Actor {
    /// `name` is that of a token, or `cli:USER@HOST`; `address` is that of a client.
    pub fn new(name: impl Into<String>, address: Option<IpAddr>) -> Self {
        Self(Arc::new(AuditActor { name: name.into(), address, operation: Uuid::now_v7(), about: None }))
    }

    /// The publisher of a message: `amqp:USER`, or `amqp` if it does not say.
    pub fn of_message(user: Option<&str>, about: &serde_json::Value) -> Self {
        let name = user.map_or_else(|| "amqp".to_owned(), |user| format!("amqp:{user}"));
        let about = Some(about.to_string());
        Self(Arc::new(AuditActor { name, address: None, operation: Uuid::now_v7(), about }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn note(&self, action: Action, subject: Subject<'_>, detail: Option<String>) -> AuditEntry {
        let AuditActor { name, address, operation, about } = &*self.0;
        let (of, job, batch) = match subject {
            Subject::Job(job, batch) => (format!(".{job}"), Some(job), batch),
            Subject::Many(batch) => (String::new(), None, batch),
            Subject::DeadLetter(id, job) => (format!(".{id}"), job, None),
            Subject::Queue(scope) => (format!(".{scope}"), None, scope.batch()),
        };
        AuditEntry {
            operation: format!("{operation}.{}{of}", action.as_str()),
            actor: name.clone(),
            address: address.map(|address| address.to_canonical().to_string()),
            action: action.as_str(),
            job: job.map(|job| job.to_string()),
            batch: batch.map(BatchId::to_string),
            detail: detail.or_else(|| about.clone()),
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Submitted,
    /// Cancelled, or asked to stop.
    Cancelled,
    Retried,
    /// One job, with its files.
    Deleted,
    /// Old jobs, with their files.
    Pruned,
    DeadLetterRetried,
    DeadLetterDropped,
    /// All jobs, those of a kind or of a batch were kept from starting.
    Paused,
    Resumed,
}

impl Action {
    pub const ALL: [Self; 9] = [
        Self::Submitted,
        Self::Cancelled,
        Self::Retried,
        Self::Deleted,
        Self::Pruned,
        Self::DeadLetterRetried,
        Self::DeadLetterDropped,
        Self::Paused,
        Self::Resumed,
    ];

    /// Refuses the name of an action that there is not, which would find nothing.
    pub fn check(name: &str) -> Result<(), String> {
        if Self::ALL.iter().any(|action| action.as_str() == name) {
            return Ok(());
        }
        let known = Self::ALL.map(Self::as_str).join(", ");
        Err(format!("`{}` is not an action; they are {known}", name.escape_debug()))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Cancelled => "cancelled",
            Self::Retried => "retried",
            Self::Deleted => "deleted",
            Self::Pruned => "pruned",
            Self::DeadLetterRetried => "dead_letter_retried",
            Self::DeadLetterDropped => "dead_letter_dropped",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
        }
    }
}

/// What an action is about.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// One job, and its batch if that is known.
    Job(JobId, Option<&'a BatchId>),
    /// Any number of jobs, of one batch if there is one.
    Many(Option<&'a BatchId>),
    /// One dead letter by its id, and the job that it names.
    DeadLetter(&'a str, Option<JobId>),
    /// What is paused, in words, and its batch if it is one.
    Queue(&'a Scope),
}

/// An entry to write.
#[derive(Debug, Clone)]
pub(super) struct AuditEntry {
    pub(super) operation: String,
    pub(super) actor: String,
    pub(super) address: Option<String>,
    pub(super) action: &'static str,
    pub(super) job: Option<String>,
    pub(super) batch: Option<String>,
    pub(super) detail: Option<String>,
}

impl Actor {
    /// The entry of a pause or its end.
    pub(super) fn note_of_queue(&self, action: Action, scope: &Scope) -> AuditEntry {
        let (of, name) = scope.columns();
        let detail = serde_json::json!({ "scope": of, "name": name, "text": scope.to_string() });
        self.note(action, Subject::Queue(scope), Some(detail.to_string()))
    }
}

impl AuditEntry {
    /// In the order of the columns `operation, actor, address, action, job, batch, detail`.
    pub(super) fn into_array(self) -> Vec<Option<String>> {
        let Self { operation, actor, address, action, job, batch, detail } = self;
        // A text column cannot contain a zero byte.
        let clean = |text: String| text.replace('\0', "\u{fffd}");
        vec![Some(operation), Some(clean(actor)), address, Some(action.to_owned()), job, batch, detail.map(clean)]
    }
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActionRow {
    pub id: i64,
    /// By the database's clock.
    pub at: Timestamp,
    pub actor: String,
    /// The client's address, over HTTP.
    pub address: Option<String>,
    /// A newer version may have others than [`Action`].
    pub action: String,
    pub job: Option<JobId>,
    pub batch: Option<BatchId>,
    /// How many jobs.
    pub jobs: u64,
    pub detail: Option<serde_json::Value>,
}

/// The filter of a listing; newest entries come first.
#[derive(Debug, Clone, Default)]
pub struct ActionFilter {
    pub since: Option<Timestamp>,
    pub actor: Option<String>,
    pub action: Option<String>,
    pub job: Option<JobId>,
    pub batch: Option<BatchId>,
    pub limit: u32,
    /// The last entry of the previous page.
    pub after: Option<i64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ActionPage {
    pub actions: Vec<ActionRow>,
    /// The start of the next page; absent on the last page.
    pub next: Option<i64>,
}

/// New jobs of an actor within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submissions {
    pub jobs: u64,
    /// How long ago the oldest of them was submitted.
    pub oldest: std::time::Duration,
}

pub(super) const ACTION_COLUMNS: &str =
    "SELECT id AS entry, at, actor, address, action, job, batch, jobs, detail FROM actions WHERE ";

pub(super) fn read_action(row: &impl Columns) -> Result<ActionRow, JobError> {
    Ok(ActionRow {
        id: row.number("entry")?,
        at: row.time("at")?,
        actor: row.text("actor")?,
        address: row.maybe_text("address")?,
        action: row.text("action")?,
        job: row.maybe_text("job")?.map(|_| row.word("job")).transpose()?,
        batch: row.maybe_text("batch")?.map(|_| row.word("batch")).transpose()?,
        jobs: row.small("jobs")?,
        detail: row.json("detail")?,
    })
}

/// Makes a page from the rows of a query for `limit` plus one.
pub(super) fn action_page(rows: &[impl Columns], limit: u32) -> Result<ActionPage, JobError> {
    let mut actions = rows.iter().map(read_action).collect::<Result<Vec<_>, _>>()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = actions.len() > limit;
    actions.truncate(limit);
    let next = actions.last().filter(|_| more).map(|last| last.id);
    Ok(ActionPage { actions, next })
}

pub(super) fn read_submissions(row: Option<&impl Columns>) -> Result<Submissions, JobError> {
    let Some(row) = row else { return Ok(Submissions { jobs: 0, oldest: std::time::Duration::ZERO }) };
    let age: u64 = row.small("age")?;
    Ok(Submissions { jobs: row.small("jobs")?, oldest: std::time::Duration::from_millis(age) })
}

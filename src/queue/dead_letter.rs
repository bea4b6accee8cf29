//! Dead letters: messages that are not valid jobs, and those that RabbitMQ removed from their queue.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    str::FromStr,
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Queue, rabbit::DeadLetters};
use crate::job::{JobError, JobId, JobKind};

/// How many are published and confirmed together, and how many bytes.
const CHUNK: usize = 100;
const CHUNK_BYTES: usize = 8 << 20;

/// A message in `acetate.dead-letters`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DeadLetter {
    /// Derived from the content, so it stays the same. Equal messages have the same.
    pub id: String,
    /// From 1, the oldest; changes when others are removed.
    pub position: u32,
    /// The kind of job of the queue that it came from.
    pub kind: Option<JobKind>,
    /// The queue that it came from.
    pub queue: Option<String>,
    /// An error's code, or RabbitMQ's word: `expired`, `delivery_limit`, `maxlen` or `rejected`.
    pub code: Option<String>,
    pub reason: Option<String>,
    /// When it became a dead letter.
    pub at: Option<Timestamp>,
    pub message_id: Option<String>,
    /// The job's id, if the message has a readable one.
    pub job: Option<JobId>,
    pub content_type: Option<String>,
    /// Bytes of the body.
    pub size: u64,
    #[schema(value_type = Object)]
    pub headers: BTreeMap<String, Value>,
    /// The beginning of the body, if it is text; only when a single dead letter is requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The beginning of the body, if it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// Whether the body is longer than what is shown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// One dead letter, as a person names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetterName {
    Id(String),
    Position(u32),
    /// Those of a job.
    Job(JobId),
}

/// Which dead letters; without conditions, all.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFilter {
    /// Any of these. Empty: any.
    pub names: Vec<DeadLetterName>,
    pub kind: Option<JobKind>,
    /// A code, or a part of a reason, ignoring case.
    pub reason: Option<String>,
    /// Only those with these ids. Absent: any.
    pub only: Option<HashSet<String>>,
}

/// Some of the dead letters, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetterPage {
    /// How many are in the queue, without those that another reader holds.
    pub total: u32,
    pub letters: Vec<DeadLetter>,
    /// Whether there may be more than the limit.
    pub more: bool,
}

/// What to do with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterAction {
    Retry(DeadLetterRetry),
    Drop,
}

/// How to publish dead letters again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeadLetterRetry {
    /// To the queue of this kind; absent: to the one that each came from.
    pub to: Option<JobKind>,
    /// Also as new jobs: a message that acetate sent because of a row is published as a submission, which runs a job
    /// that the database does not know.
    pub as_new: bool,
}

/// What was done.
#[derive(Debug, Default)]
pub struct DeadLetterReport {
    pub total: u32,
    /// The ids of those that were handled.
    pub done: Vec<String>,
    /// Those that stay, and why.
    pub failed: Vec<(String, JobError)>,
    /// Whether it was stopped before the end.
    pub stopped: bool,
}

impl FromStr for DeadLetterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Job(id));
        }
        if text.len() == ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self::Id(text.to_ascii_lowercase()));
        }
        match text.parse() {
            Ok(position) if position > 0 && text.len() < ID_DIGITS => Ok(Self::Position(position)),
            _ => Err(format!(
                "`{}` is not the id of a dead letter ({ID_DIGITS} hexadecimal digits), its position (1 is the oldest) or \
                 the id of a job",
                text.chars().take(60).collect::<String>().escape_debug()
            )),
        }
    }
}

impl fmt::Display for DeadLetterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => f.write_str(id),
            Self::Position(position) => write!(f, "{position}"),
            Self::Job(job) => write!(f, "{job}"),
        }
    }
}

pub(super) const ID_DIGITS: usize = 16;

impl DeadLetterFilter {
    pub fn one(name: DeadLetterName) -> Self {
        Self { names: vec![name], ..Self::default() }
    }

    pub(super) fn matches(&self, letter: &DeadLetter) -> bool {
        let named = |name: &DeadLetterName| match name {
            DeadLetterName::Id(id) => letter.id == *id,
            DeadLetterName::Position(position) => letter.position == *position,
            DeadLetterName::Job(job) => letter.job == Some(*job),
        };
        let said = |wanted: &String| {
            let reason = letter.reason.as_deref().unwrap_or_default().to_lowercase();
            letter.code.as_ref() == Some(wanted) || reason.contains(&wanted.to_lowercase())
        };
        (self.names.is_empty() || self.names.iter().any(named))
            && self.kind.is_none_or(|kind| letter.kind == Some(kind))
            && self.reason.as_ref().is_none_or(said)
            && self.only.as_ref().is_none_or(|only| only.contains(&letter.id))
    }
}

impl Queue {
    /// Looks at dead letters without removing them: they are taken, and all returned to their places at the end. At
    /// most `limit`, or as many as match.
    pub async fn dead_letters(&self, filter: &DeadLetterFilter, limit: u32) -> Result<DeadLetterPage, JobError> {
        let (mut letters, most) = (Vec::new(), usize::try_from(limit).unwrap_or(usize::MAX));
        let mut session = self.open_dead_letters().await?;
        let total = session.total();
        let mut more = false;
        while let Some(held) = session.next().await? {
            if filter.matches(&held.letter) {
                letters.push(held.letter.clone());
            }
            session.keep(held).await;
            if letters.len() >= most {
                more = letters.last().is_some_and(|last| last.position < total);
                break;
            }
        }
        session.close().await;
        Ok(DeadLetterPage { total, letters, more })
    }

    /// One dead letter with the beginning of its body; absent if there is none with this name.
    pub async fn dead_letter(&self, name: DeadLetterName) -> Result<Option<DeadLetter>, JobError> {
        let filter = DeadLetterFilter::one(name);
        let mut session = self.open_dead_letters().await?;
        let mut found = None;
        while found.is_none() {
            let Some(held) = session.next().await? else { break };
            if filter.matches(&held.letter) {
                found = Some(held.with_body());
            }
            session.keep(held).await;
        }
        session.close().await;
        Ok(found)
    }

    /// Retries or drops the dead letters that match. Each is published and confirmed first, then `record` is called
    /// with some of them, then they are removed: a crash in between leaves them here as well, and loses none. `go_on`
    /// gets the number of those that were looked at, and may stop.
    pub async fn handle_dead_letters<Recorded: Future<Output = Result<(), JobError>>>(
        &self,
        filter: &DeadLetterFilter,
        action: DeadLetterAction,
        mut record: impl FnMut(Vec<DeadLetter>) -> Recorded,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<DeadLetterReport, JobError> {
        let mut session = self.open_dead_letters().await?;
        let mut report = DeadLetterReport { total: session.total(), ..DeadLetterReport::default() };
        let (mut chosen, mut bytes, mut looked) = (Vec::new(), 0, 0);
        loop {
            let next = session.next().await?;
            let at_end = next.is_none();
            if let Some(held) = next {
                looked += 1;
                if filter.matches(&held.letter) {
                    bytes += held.size();
                    chosen.push(held);
                } else {
                    session.keep(held).await;
                }
            }
            if at_end || chosen.len() >= CHUNK || bytes >= CHUNK_BYTES || looked >= CHUNK as u64 {
                let chunk = std::mem::take(&mut chosen);
                bytes = 0;
                let published = match action {
                    DeadLetterAction::Retry(how) => session.publish(&chunk, how).await,
                    DeadLetterAction::Drop => vec![Ok(()); chunk.len()],
                };
                let mut done = Vec::new();
                for (held, published) in chunk.into_iter().zip(published) {
                    match published {
                        Ok(()) => done.push(held),
                        Err(error) => {
                            report.failed.push((held.letter.id.clone(), error));
                            session.keep(held).await;
                        }
                    }
                }
                if !done.is_empty() {
                    let letters: Vec<_> = done.iter().map(|held| held.letter.clone()).collect();
                    record(letters).await?;
                    for held in done {
                        report.done.push(held.letter.id.clone());
                        session.remove(held).await?;
                    }
                }
                let more = go_on(std::mem::take(&mut looked));
                if at_end || !more {
                    report.stopped = !at_end;
                    break;
                }
            }
        }
        session.close().await;
        Ok(report)
    }

    async fn open_dead_letters(&self) -> Result<DeadLetters, JobError> {
        match self {
            Self::Embedded(_) => Err(JobError::invalid(
                "queue.url",
                "is not set, and only RabbitMQ has dead letters: without it, every job has a row from the start, and one \
                 that cannot run fails with its reason (`acetate jobs list --state failed`)",
            )),
            Self::Rabbit(rabbit) => rabbit.dead_letters().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let job = JobId::new();
        for (text, name) in [
            ("0123456789ABCDEF", DeadLetterName::Id("0123456789abcdef".to_owned())),
            ("1234567890123456", DeadLetterName::Id("1234567890123456".to_owned())),
            ("12", DeadLetterName::Position(12)),
            (&job.to_string(), DeadLetterName::Job(job)),
        ] {
            assert_eq!(text.parse(), Ok(name), "{text}");
        }
        for text in ["", "0", "-1", "x", "0123456789abcdeg", "99999999999"] {
            assert!(text.parse::<DeadLetterName>().unwrap_err().contains("is not the id"), "{text}");
        }
    }
}

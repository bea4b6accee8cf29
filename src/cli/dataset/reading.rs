//! Reads a source on a thread of its own; its rows arrive in groups.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{DatasetSource, Row, Tally, listed::why_not};
use crate::{job::JobError, store::InputReader};

/// The number of rows that are handed over at a time.
const GROUP: usize = 256;
/// The size of their pictures, in bytes, above which they are handed over sooner.
const GROUP_BYTES: usize = 8 << 20;
/// Groups that wait to be taken.
const WAITING: usize = 2;

/// The rows of a source, still to come.
#[derive(Debug)]
pub struct Reading {
    rows: mpsc::Receiver<Result<Vec<Row>, JobError>>,
    tally: Arc<Mutex<Tally>>,
    thread: Option<JoinHandle<()>>,
    shown: Option<ShownAs>,
}

/// How a file that was copied here is called in messages.
#[derive(Debug, Clone)]
pub struct ShownAs {
    pub copy: String,
    pub address: String,
}

impl Reading {
    /// Starts to read. Dropping it ends the thread.
    pub fn start(source: &DatasetSource, inputs: &InputReader, shown: Option<&ShownAs>) -> Self {
        let (to, rows) = mpsc::channel(WAITING);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (source, inputs) = (source.clone(), inputs.clone());
        let mut sink = Sink::new(to, tally.clone());
        let thread = tokio::task::spawn_blocking(move || {
            let read = source.read(&inputs, &mut sink);
            sink.hand_over();
            if let Err(error) = read {
                let _ = sink.to.blocking_send(Err(error));
            }
        });
        Self { rows, tally, thread: Some(thread), shown: shown.cloned() }
    }

    /// The next rows; nothing at the end. An error is the last thing that comes.
    pub async fn next(&mut self) -> Option<Result<Vec<Row>, JobError>> {
        let group = self.rows.recv().await;
        if group.is_none()
            && let Some(thread) = self.thread.take()
            && thread.await.is_err()
        {
            let reason = "the file crashes its reader; it may be damaged, or use a feature that acetate does not know";
            return Some(Err(JobError::invalid("--from", reason)));
        }
        match &self.shown {
            Some(shown) => group.map(|rows| shown.in_rows(rows)),
            None => group,
        }
    }

    /// What has been left out so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ShownAs {
    fn in_rows(&self, rows: Result<Vec<Row>, JobError>) -> Result<Vec<Row>, JobError> {
        let shown = |mut row: Row| {
            row.place = self.text(&row.place);
            row.fields = row.fields.map_err(|error| self.error(error));
            row
        };
        rows.map(|rows| rows.into_iter().map(shown).collect()).map_err(|error| self.error(error))
    }

    fn text(&self, text: &str) -> String {
        text.replace(&self.copy, &self.address)
    }

    fn error(&self, error: JobError) -> JobError {
        match error {
            JobError::InvalidRequest { field, reason } => {
                JobError::InvalidRequest { field, reason: self.text(&reason) }
            }
            JobError::InputNotFound { input } => JobError::InputNotFound { input: self.text(&input) },
            error => error,
        }
    }
}

/// Where a reader puts its rows.
pub struct Sink {
    group: Vec<Row>,
    bytes: usize,
    to: mpsc::Sender<Result<Vec<Row>, JobError>>,
    tally: Arc<Mutex<Tally>>,
    /// The number of the last row, and of the last one of the files before this one.
    last: u64,
    before: u64,
    folder: Option<Arc<Path>>,
    /// The pictures that the rows of an imagefolder name.
    named: u64,
}

impl Sink {
    fn new(to: mpsc::Sender<Result<Vec<Row>, JobError>>, tally: Arc<Mutex<Tally>>) -> Self {
        Self { group: Vec::new(), bytes: 0, to, tally, last: 0, before: 0, folder: None, named: 0 }
    }

    /// The next rows are those of another file, whose numbers start at 1 again. `folder`: where their paths start.
    pub fn next_file(&mut self, folder: Option<&Path>) {
        self.before = self.last;
        self.folder = folder.map(Arc::from);
    }

    /// Returns false when no more rows are wanted.
    #[must_use]
    pub fn push(&mut self, mut row: Row) -> bool {
        row.number += self.before;
        row.folder.clone_from(&self.folder);
        self.last = row.number;
        if self.folder.is_some() {
            self.named += row.fields.as_ref().map_or(1, |fields| fields.values().map(pictures_in).sum());
        }
        self.bytes += row.pictures.iter().map(|picture| picture.bytes.len()).sum::<usize>();
        self.group.push(row);
        (self.group.len() < GROUP && self.bytes < GROUP_BYTES) || self.hand_over()
    }

    /// Whether no more rows are wanted.
    pub fn is_closed(&self) -> bool {
        self.to.is_closed()
    }

    /// How many pictures the rows name, if they are of several files.
    pub fn named(&self) -> u64 {
        self.named
    }

    /// The number of the last row.
    #[cfg(test)]
    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn leave_out(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn hand_over(&mut self) -> bool {
        self.bytes = 0;
        let group = std::mem::take(&mut self.group);
        group.is_empty() || self.to.blocking_send(Ok(group)).is_ok()
    }
}

/// The paths of pictures in a value.
fn pictures_in(value: &Value) -> u64 {
    match value {
        Value::String(text) => why_not(text).is_none().into(),
        Value::Array(items) => items.iter().map(pictures_in).sum(),
        _ => 0,
    }
}

/// Reads all rows on a thread, outside of a runtime.
pub fn for_each(
    read: impl FnOnce(&mut Sink) -> Result<(), JobError> + Send,
    mut row: impl FnMut(Row),
) -> Result<(), JobError> {
    let (to, mut from) = mpsc::channel(WAITING);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut sink = Sink::new(to, Arc::default());
            let read = read(&mut sink);
            sink.hand_over();
            read
        });
        while let Some(Ok(group)) = from.blocking_recv() {
            group.into_iter().for_each(&mut row);
        }
        reader.join().unwrap_or_else(|_| Err(JobError::invalid("--from", "the file crashes its reader")))
    })
}

/// All rows of a small source.
#[cfg(test)]
pub fn collect(read: impl FnOnce(&mut Sink) -> Result<(), JobError>) -> Result<Vec<Row>, JobError> {
    let (to, mut from) = mpsc::channel(10_000);
    let mut sink = Sink::new(to, Arc::default());
    read(&mut sink)?;
    sink.hand_over();
    drop(sink);
    let mut rows = Vec::new();
    while let Some(group) = from.blocking_recv() {
        rows.extend(group?);
    }
    Ok(rows)
}

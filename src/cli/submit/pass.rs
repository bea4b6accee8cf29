//! One pass over the rows of a dataset: checks them, counts what submitting would do, or submits them in chunks. Only a
//! chunk of rows and the ids of the others are in memory.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    io::IsTerminal,
    path::PathBuf,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use super::{
    bulk::SubmitReport,
    earlier::find_earlier,
    prepare::{Preparation, Ready, Refused, put_into_store, upload},
    rejects::Rejects,
    row::{NO_OUTPUT, RowDefaults},
    seen::SeenColumns,
    short_names::ShortNames,
    sources::settle,
};
use crate::{
    app::Submitter,
    cli::{
        Failure,
        dataset::{Base, ColumnMapping, DatasetSource, Pick, PickFlags, Picked, Reading, Row, ShownAs, Tally},
        global::GlobalArgs,
        output,
        worker::asked_to_leave,
    },
    database::{DatasetRow, DatasetRun, SubmitOptions, Submitted},
    image::DecodeLimits,
    job::{ErrorClass, JobError, JobId},
};

/// The number of jobs in one transaction.
const CHUNK: usize = 500;
/// The size of their pictures, in bytes, above which they are submitted sooner.
const CHUNK_BYTES: usize = 32 << 20;
/// The number of pictures that are put into the store at the same time.
const AT_A_TIME: usize = 8;
/// The number of mistakes after which reading stops.
const MOST_MISTAKES: usize = 20;

/// What the command line asks for.
pub struct BulkOptions {
    pub source: DatasetSource,
    /// Tells the sources of a batch apart.
    pub digest: String,
    /// How a manifest that was copied here is called.
    pub shown: Option<ShownAs>,
    /// The address where the paths of a downloaded manifest start.
    pub address: Option<String>,
    pub defaults: RowDefaults,
    pub columns: ColumnMapping,
    pub short_names: ShortNames,
    pub pick: PickFlags,
    /// The rows of a sample.
    pub sample: Option<HashSet<u64>>,
    /// The limits of pictures.
    pub limits: DecodeLimits,
    /// No job starts before this time.
    pub at: Option<Timestamp>,
    pub upload: bool,
    /// Jobs may take the results of equal ones.
    pub reuse: bool,
    pub skip_invalid: bool,
    pub rejects: Option<PathBuf>,
}

impl BulkOptions {
    /// Where relative paths start.
    fn base(&self) -> Base<'_> {
        match (&self.address, self.source.folder()) {
            (Some(address), _) => Base::Address(address),
            (None, Some(folder)) => Base::Folder(folder),
            // A prefix, whose rows are addresses.
            (None, None) => Base::Address(""),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Only look for mistakes.
    Check,
    /// Look for mistakes, and count what would be new.
    DryRun,
    Send,
}

pub struct BulkPass<'a> {
    global: &'a GlobalArgs,
    submitter: &'a Submitter,
    plan: &'a BulkOptions,
    act: Act,
    pick: Pick,
    bar: ProgressBar,
    report: SubmitReport,
    /// The ids so far, with a hash of the content of those that the rows chose. A derived id is the content's.
    seen: HashMap<[u8; 16], u32>,
    chunk: Vec<Ready>,
    /// The size of its pictures.
    chunk_bytes: usize,
    /// Rows that are to be remembered with the chunk.
    rows: Vec<DatasetRow>,
    mistakes: Vec<String>,
    rejects: Rejects,
    columns: SeenColumns,
    /// Wait for an unreachable broker once, not for every chunk.
    reachable: bool,
    /// The rows of the source so far, also those that were not picked.
    read: u64,
    /// The columns that flags name and no row has had so far, with their flags.
    unseen: Vec<(&'static str, String)>,
    /// Tells the rows of this submission from those of an earlier one of the same batch.
    run: DatasetRun,
}

/// Why reading ended.
enum End {
    Rows,
    Mistakes,
    Stopped,
    Broken(JobError),
}

impl<'a> BulkPass<'a> {
    pub fn new(
        global: &'a GlobalArgs,
        submitter: &'a Submitter,
        plan: &'a BulkOptions,
        act: Act,
    ) -> Result<Self, Failure> {
        let rejects = if act == Act::Check { Rejects::default() } else { Rejects::create(plan.rejects.as_deref())? };
        Ok(Self {
            global,
            submitter,
            plan,
            act,
            pick: Pick::new(&plan.pick, plan.sample.clone()),
            bar: bar(global, if act == Act::Send { "submitting" } else { "reading" }),
            report: SubmitReport { batch: plan.defaults.batch.to_string(), ..SubmitReport::default() },
            seen: HashMap::new(),
            chunk: Vec::with_capacity(CHUNK),
            chunk_bytes: 0,
            rows: Vec::with_capacity(CHUNK),
            mistakes: Vec::new(),
            rejects,
            columns: SeenColumns::default(),
            reachable: true,
            read: 0,
            unseen: plan.columns.asked(),
            run: DatasetRun { source: plan.digest.clone(), began: Timestamp::now().as_millisecond() },
        })
    }

    pub async fn run(mut self) -> Result<SubmitReport, Failure> {
        let mut reading = Reading::start(&self.plan.source, &self.submitter.inputs, self.plan.shown.as_ref());
        let end = self.read(&mut reading).await;
        let end = match end {
            // What was read before the damage counts.
            Ok(End::Broken(error)) => self.flush().await.map(|()| End::Broken(error)),
            Ok(End::Rows) => self.flush().await.map(|()| End::Rows),
            end => end,
        };
        self.bar.finish_and_clear();
        self.rejects.finish()?;
        match end? {
            End::Rows | End::Mistakes => {}
            End::Stopped => return Err(Failure::Cancelled(self.stopped())),
            End::Broken(error) => return Err(self.after("", &error)),
        }
        if self.act == Act::Send && self.report.known > 0 {
            let (jobs, batch) = (&self.submitter.jobs, &self.plan.defaults.batch);
            let said = settle(jobs, batch, &self.run, self.report.rows, self.plan.pick.is_everything()).await?;
            said.iter().for_each(|text| self.global.say(text));
        }
        self.finish(&reading.tally())
    }

    async fn read(&mut self, reading: &mut Reading) -> Result<End, Failure> {
        let mut stop = std::pin::pin!(asked_to_leave());
        loop {
            // Between groups, because a chunk is one transaction.
            let group = tokio::select! {
                biased;
                () = &mut stop => return Ok(End::Stopped),
                group = reading.next() => group,
            };
            let rows = match group {
                None => return Ok(End::Rows),
                Some(Err(error)) => return Ok(End::Broken(error)),
                Some(Ok(rows)) => rows,
            };
            for row in rows {
                self.read += 1;
                match self.pick.take(row.number) {
                    Picked::Take => self.take(row).await?,
                    Picked::Leave => {}
                    Picked::Stop => return Ok(End::Rows),
                }
                if self.mistakes.len() >= MOST_MISTAKES {
                    return Ok(End::Mistakes);
                }
            }
        }
    }

    async fn take(&mut self, mut row: Row) -> Result<(), Failure> {
        self.report.rows += 1;
        self.bar.inc(1);
        self.unseen.retain(|(_, column)| !row.has(column));
        let plan = self.plan;
        plan.short_names.write(self.submitter, &plan.columns, &mut row).await?;
        let preparation = Preparation {
            submitter: self.submitter,
            defaults: &plan.defaults,
            columns: &plan.columns,
            base: plan.base(),
            limits: plan.limits,
            upload: plan.upload,
            reuse: plan.reuse,
            keep_original: plan.rejects.is_some(),
        };
        let ready = match preparation.row(row) {
            Ok(ready) => ready,
            Err(refused) => return self.refuse(*refused),
        };
        self.columns.see(&ready, plan.defaults.kind);
        let content = if ready.has_own_id { hash(&ready.request.fingerprint()) } else { 0 };
        // The first one counts.
        let before = match self.seen.entry(ready.request.id.to_bytes()) {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(free) => {
                free.insert(content);
                None
            }
        };
        match before {
            None => {
                self.chunk_bytes += ready.pictures.iter().map(|picture| picture.bytes.len()).sum::<usize>();
                self.chunk.push(ready);
            }
            Some(before) if before == content => {
                self.report.duplicates += 1;
                self.remember(&ready, ready.request.id);
            }
            Some(_) => {
                let reason =
                    format!("{} is the id of an earlier row with another content{OTHER_IDS}", ready.request.id);
                return self.refuse(refused(ready, JobError::invalid("id", reason)));
            }
        }
        if self.chunk.len() >= CHUNK || self.chunk_bytes >= CHUNK_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let (there, missing) = find_earlier(self.submitter, std::mem::take(&mut self.chunk)).await?;
        self.chunk = there;
        missing.into_iter().try_for_each(|(ready, error)| self.refuse(refused(ready, error)))?;
        match self.act {
            Act::Check => self.chunk.clear(),
            Act::DryRun => self.count_new().await?,
            Act::Send => self.send().await?,
        }
        self.rows.clear();
        self.chunk_bytes = 0;
        Ok(())
    }

    /// Counts what submitting would do.
    async fn count_new(&mut self) -> Result<(), Failure> {
        let ids: Vec<JobId> = self.chunk.iter().map(|ready| ready.request.id).collect();
        let known: HashMap<_, _> =
            self.submitter.jobs.get_many(&ids).await?.into_iter().map(|row| (row.id(), row.request)).collect();
        for ready in std::mem::take(&mut self.chunk) {
            match known.get(&ready.request.id) {
                None => self.report.submitted += 1,
                // An uploaded picture has another address there.
                Some(there) if self.plan.upload || there.fingerprint() == ready.request.fingerprint() => {
                    self.report.known += 1;
                }
                Some(_) => {
                    let reason = format!("a job with this id and another content was already submitted{OTHER_IDS}");
                    self.refuse(refused(ready, JobError::invalid("id", reason)))?;
                }
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Failure> {
        let (submitter, uploads) = (self.submitter, self.plan.upload);
        let mut rows = std::mem::take(&mut self.chunk);
        let errors = put_into_store(submitter, &mut rows).await.map_err(|error| self.after("", &error))?;
        let rows = rows.into_iter().zip(errors);
        let store = async |(mut ready, error): (Ready, Option<JobError>)| {
            let stored = match error {
                Some(error) => Err(error),
                None if uploads => upload(submitter, &mut ready).await,
                None => Ok(()),
            };
            (ready, stored)
        };
        let mut stored = stream::iter(rows.map(store)).buffered(AT_A_TIME);
        let mut chunk = Vec::new();
        while let Some((ready, stored)) = stored.next().await {
            match stored {
                Ok(()) => chunk.push(ready),
                Err(error) => self.refuse(refused(ready, error))?,
            }
        }
        let batch = self.plan.defaults.batch.clone();
        let options = SubmitOptions {
            batch: Some(batch.clone()),
            at: self.plan.at,
            local: self.submitter.is_local(),
            reuse: self.plan.reuse,
            ..SubmitOptions::default()
        };
        let requests: Vec<_> = chunk.iter().map(|ready| ready.request.clone()).collect();
        let outcomes = self.submitter.submit_many(&requests, &options).await;
        let mut wrong = Vec::new();
        for (ready, outcome) in chunk.into_iter().zip(outcomes) {
            match outcome {
                Ok(Submitted::New(_)) => self.report.submitted += 1,
                Ok(Submitted::Known(_)) => self.report.known += 1,
                Err(error) => {
                    let error = match error {
                        JobError::InvalidRequest { field, reason } if field == "id" && ready.has_own_id => {
                            JobError::invalid("id", format!("{reason}{OTHER_IDS}"))
                        }
                        error => error,
                    };
                    wrong.push(refused(ready, error));
                    continue;
                }
            }
            self.remember(&ready, ready.request.id);
        }
        self.submitter.jobs.record_dataset_rows(&batch, &self.run, &self.rows).await?;
        wrong.into_iter().try_for_each(|refused| self.refuse(refused))?;
        self.reachable = self.reachable && self.submitter.dispatch().await;
        Ok(())
    }

    fn remember(&mut self, ready: &Ready, job: JobId) {
        if self.act == Act::Send {
            let meta = (!ready.meta.is_empty()).then(|| ready.meta.clone());
            self.rows.push(DatasetRow { number: ready.number, job, meta });
        }
    }

    /// A row is left out, noted, or the end.
    fn refuse(&mut self, refused: Refused) -> Result<(), Failure> {
        let Refused { place, error, .. } = &refused;
        if error.class() != ErrorClass::Invalid {
            return Err(self.after(&format!("{place}: "), error));
        }
        let is_without_output = matches!(error, JobError::InvalidRequest { reason, .. } if reason == NO_OUTPUT);
        if is_without_output && self.report.rows == 1 && !self.plan.skip_invalid {
            // The command is wrong, not the row; the others would be refused for it, too.
            return Err(self.after(&format!("{place}: "), error));
        }
        if self.plan.skip_invalid {
            self.report.rejected += 1;
            return Ok(self.rejects.add(&refused)?);
        }
        if self.act == Act::Send {
            return Err(self.after(&format!("{place}: "), error));
        }
        self.mistakes.push(format!("{place}: {error}"));
        Ok(())
    }

    /// The end of a pass by an error at a place, with what was done before it.
    fn after(&self, place: &str, error: &JobError) -> Failure {
        let done = self.report.submitted + self.report.known;
        let advice = match (self.act, done) {
            (Act::Send, 1..) => {
                format!("{} submitted before it; run the same command to continue", output::count(done, "job"))
            }
            _ => "nothing was submitted".to_owned(),
        };
        let text = format!("{place}{error}\n{advice}");
        if error.class() == ErrorClass::Invalid { Failure::Usage(text) } else { Failure::Job(text) }
    }

    fn stopped(&self) -> String {
        match self.act {
            Act::Send => {
                let done = self.report.submitted + self.report.known;
                format!("stopped after {}; run the same command to continue", output::count(done, "job"))
            }
            Act::Check | Act::DryRun => "stopped; nothing was submitted".to_owned(),
        }
    }

    fn finish(mut self, tally: &Tally) -> Result<SubmitReport, Failure> {
        if !self.mistakes.is_empty() {
            let more = if self.mistakes.len() >= MOST_MISTAKES { "\n... and possibly more" } else { "" };
            let advice = "\n--skip-invalid submits the other rows";
            return Err(Failure::Usage(format!("nothing was submitted:\n{}{more}{advice}", self.mistakes.join("\n"))));
        }
        if self.act != Act::Check {
            let columns = self.columns.texts(&self.plan.columns, self.plan.defaults.kind);
            let texts = [tally.text(), self.rejects.text()].into_iter().flatten().chain(columns);
            texts.for_each(|text| self.global.say(&text));
        }
        if let Some(first) = self.rejects.first.take_if(|_| self.report.rejected == self.report.rows) {
            return Err(Failure::Usage(format!("no row is valid; nothing was submitted. The first one: {first}")));
        }
        if self.report.rows == 0 && self.read > 0 {
            if self.act != Act::Check {
                let rows = output::count(self.read, "row");
                self.global.say(&format!("no row is in this part; the source has {rows} or more"));
            }
        } else if self.report.rows == 0 {
            let mut why = tally.text().map_or_else(String::new, |text| format!(" ({text})"));
            if tally.reasons().contains_key(".arrow") {
                why += "; write the dataset as Parquet: load_from_disk(FOLDER).to_parquet(\"rows.parquet\") in Python";
            } else if tally.reasons().keys().any(|reason| DatasetSource::is_file_name(reason)) {
                why += "; name the manifest itself, for instance --from FOLDER/rows.csv";
            }
            return Err(JobError::invalid("--from", format!("has no rows or pictures that a job can use{why}")).into());
        }
        self.check_columns()?;
        self.report.skipped = tally.total();
        self.report.skipped_by_reason = tally.reasons().clone();
        Ok(self.report)
    }

    /// Columns that flags name and no row has. If the whole source was read, they are mistakes.
    fn check_columns(&self) -> Result<(), Failure> {
        let Some((flag, column)) = self.unseen.first().filter(|_| self.report.rows > 0) else { return Ok(()) };
        let done = self.report.submitted + self.report.known;
        if !self.plan.pick.is_everything() {
            if self.act != Act::Check {
                self.global.say(&format!("{flag}: no row of this part has a column `{column}`"));
            }
            return Ok(());
        }
        let after = match (self.act, done) {
            (Act::Send, 1..) => format!("{} submitted without it", output::count(done, "job")),
            _ => "nothing was submitted".to_owned(),
        };
        Err(Failure::Usage(format!("{flag}: no row has a column `{column}`\n{after}")))
    }
}

const OTHER_IDS: &str = "; --drop-column id leaves out the ids of the rows, and each job gets one";

fn refused(ready: Ready, error: JobError) -> Refused {
    Refused { number: ready.number, place: ready.place, error, original: ready.original }
}

/// The first 32 bits of a fingerprint.
fn hash(fingerprint: &str) -> u32 {
    fingerprint.get(..8).and_then(|start| u32::from_str_radix(start, 16).ok()).unwrap_or_default()
}

fn bar(global: &GlobalArgs, what: &'static str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() && !global.is_quiet() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{prefix:>14} {spinner} {pos} rows  {per_sec}") {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

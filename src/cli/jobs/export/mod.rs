//! `acetate jobs export`: the results of a batch as a dataset that other programs read.
//!
//! Rows go into shards: files, or folders of pictures. A shard appears when it is complete, and then the export
//! remembers which rows are in it ([`Memory`]), so that the same command continues after any interruption: a row is in
//! exactly one shard. Rows whose jobs succeed later go into further shards.

mod card;
mod columns;
mod memory;
mod parquet;
mod rows;
mod sample;
mod shape;
mod shard;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use futures_util::{StreamExt, stream::FuturesOrdered};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinHandle};

use super::{Sweep, results::deleted_text};
use crate::{
    app::Submitter,
    cli::{Failure, global::GlobalArgs, output, watch::no_such_batch},
    config::parse_bytes,
    job::{BatchId, JobError, JobState},
    store::Target,
};
use columns::ResultColumns;
use memory::Memory;
use rows::{ExportedRow, ResultRows};
use sample::{Budget, Sample};
use shard::{FinishedShard, ShardFile};

/// How many results are read ahead, as far as [`IN_MEMORY`] allows.
const AHEAD: usize = 16;
/// The pictures that are in memory at a time, in bytes.
const IN_MEMORY: u64 = 64 << 20;
/// The rows in a folder of pictures, because large folders are slow everywhere.
const ROWS_IN_FOLDER: u64 = 1000;
const ROWS_IN_SHARD: u64 = 100_000;

#[derive(Debug, Args)]
#[command(after_help = "\
Each row has its number, the job's id, its input, prompt and seed, the pictures, and the columns of
the dataset that the batch was made of. `acetate run decompose DIR` prints the name of its batch.

Run again, the command adds what is missing: after Ctrl-C, or when more jobs have succeeded.

Examples:
  acetate jobs export --batch posters --as webdataset --out posters-layers
  acetate jobs export --batch posters --as parquet --out s3://datasets/posters/")]
pub struct ExportArgs {
    /// The batch
    #[arg(long, value_name = "NAME")]
    batch: BatchId,
    /// What to write
    #[arg(long = "as", value_name = "FORMAT")]
    format: DatasetFormat,
    /// An empty folder, an s3:// prefix, or where this export was started
    #[arg(long, short, value_name = "DIR")]
    out: String,
    /// Start a new shard after this size, such as 1GB. Not for imagefolder
    #[arg(long, value_name = "SIZE", default_value = "256MB", value_parser = shard_size)]
    shard_size: u64,
    /// Start a new shard, or folder of pictures, after so many rows [default: imagefolder 1000, otherwise 100000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    shard_rows: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DatasetFormat {
    /// Folders of pictures, and metadata.jsonl, as Hugging Face's datasets reads it
    Imagefolder,
    /// Archives (tar) with a row's pictures and its JSON
    Webdataset,
    /// Parquet with the pictures inside
    Parquet,
    /// JSON lines with the addresses of the pictures
    Jsonl,
}

impl DatasetFormat {
    fn as_str(self) -> &'static str {
        match self {
            Self::Imagefolder => "imagefolder",
            Self::Webdataset => "webdataset",
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
        }
    }
}

impl fmt::Display for DatasetFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn shard_size(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0 => Err("a shard has at least one byte; write for instance 256MB".to_owned()),
        bytes => Ok(bytes),
    }
}

/// What was done, and what was left out.
#[derive(Default)]
struct ExportReport {
    /// Rows that are in a finished shard.
    written: u64,
    /// From an earlier run.
    known: u64,
    shards: u64,
    bytes: u64,
    /// Failed rows by the error's code.
    failed: BTreeMap<String, u64>,
    /// Rows that are in another state.
    others: BTreeMap<String, u64>,
    /// Rows whose jobs were deleted.
    deleted: u64,
    /// Rows that have a result which could not be read, with the reasons of the first ones.
    unreadable: u64,
    reasons: Vec<String>,
}

pub async fn export(global: &GlobalArgs, submitter: &Submitter, args: ExportArgs) -> Result<(), Failure> {
    let target = submitter.stores.target(&args.out)?;
    let summary = submitter.jobs.batch_summary(&args.batch).await?.ok_or_else(|| no_such_batch(&args.batch))?;
    let _lock = target.open().await?;
    let mut memory = Memory::open(&target, &args.batch, args.format).await?;
    if memory.is_new() {
        // All rows are looked at, also those without a result yet, so that later shards have the same columns.
        let columns = ResultColumns::of_batch(submitter, &args.batch).await?;
        let is_parquet = args.format == DatasetFormat::Parquet;
        memory.begin(if is_parquet { columns } else { columns.for_json() }).await?;
    }
    let start = Instant::now();
    let mut sweep = Sweep::start(global, "exporting", summary.total());
    let mut work =
        ExportRun { submitter, target: &target, args: &args, finishing: None, report: ExportReport::default() };
    let done = work.all(&mut memory, &mut sweep).await;
    let finished = work.remember(&mut memory).await;
    let stopped = sweep.is_stopped();
    drop(sweep);
    let ExportRun { mut report, .. } = work;
    // Also after an error or Ctrl-C: what is there can be used.
    let described = match args.format {
        _ if memory.rows() == 0 => Ok(()),
        DatasetFormat::Imagefolder => memory.write_metadata().await,
        format => memory.write_card(format).await,
    };
    done?;
    finished?;
    described?;
    report.deleted = submitter.jobs.deleted_rows(&args.batch).await?;
    print(&args, &target, &report, start.elapsed())?;
    if stopped {
        let text = format!("stopped after {}; run the same command to continue", output::count(report.written, "row"));
        return Err(Failure::Cancelled(text));
    }
    match report.unreadable {
        0 => Ok(()),
        rows => {
            let rows = output::count(rows, "row");
            Err(Failure::Job(format!("the result of {rows} could not be read; run the same command to try again")))
        }
    }
}

struct ExportRun<'a> {
    submitter: &'a Submitter,
    target: &'a Target,
    args: &'a ExportArgs,
    /// The shard before the one that is being written.
    finishing: Option<JoinHandle<Result<FinishedShard, JobError>>>,
    report: ExportReport,
}

/// A result that was read.
struct ReadAhead {
    item: ExportedRow,
    key: String,
    sample: Result<Sample, JobError>,
}

impl ExportRun<'_> {
    async fn all(&mut self, memory: &mut Memory<'_>, sweep: &mut Sweep) -> Result<(), Failure> {
        let budget: Budget = Arc::new(Semaphore::new(sample::permits(IN_MEMORY)));
        let mut rows = ResultRows::of(self.submitter, &self.args.batch);
        let (mut ahead, mut is_over) = (FuturesOrdered::new(), false);
        let mut shard: Option<ShardFile> = None;
        loop {
            while ahead.len() < AHEAD && !is_over {
                match rows.next().await? {
                    Some(item) => match self.wanted(memory, item) {
                        Some((item, key)) => {
                            let with_pictures = self.args.format != DatasetFormat::Jsonl;
                            let reading = sample::read(self.submitter, &item, &budget, with_pictures);
                            ahead.push_back(
                                async move { ReadAhead { sample: joined(reading, "result").await, item, key } },
                            );
                        }
                        None if !sweep.add(1) => return Ok(()),
                        None => {}
                    },
                    None => is_over = true,
                }
            }
            let Some(ReadAhead { item, key, sample }) = ahead.next().await else { break };
            match sample {
                Ok(sample) => {
                    let into = match &mut shard {
                        Some(shard) => shard,
                        None => {
                            let number = memory.next_shard() + u64::from(self.finishing.is_some());
                            shard.insert(ShardFile::begin(self.target, self.args.format, number, memory.columns())?)
                        }
                    };
                    into.add(&item, &key, sample).await?;
                }
                Err(error) => self.unreadable(&item, &error),
            }
            if shard.as_ref().is_some_and(|shard| self.is_full(shard)) {
                self.finish(shard.take(), memory).await?;
            }
            if !sweep.add(1) {
                // The next run writes the rows of this shard, which nobody has seen.
                return Ok(());
            }
        }
        self.finish(shard.take(), memory).await
    }

    /// Counts a row; returns those that are still to be written, with their names.
    fn wanted(&mut self, memory: &mut Memory<'_>, item: ExportedRow) -> Option<(ExportedRow, String)> {
        let report = &mut self.report;
        match item.job.state {
            JobState::Succeeded if memory.has(&item) => {
                report.known += memory.columns().variants_of(&item).len() as u64;
            }
            JobState::Succeeded => {
                let key = memory.name(&item);
                return Some((item, key));
            }
            JobState::Failed => {
                let code = item.job.error.as_ref().map_or("unknown", |error| error.code.as_str());
                *report.failed.entry(code.to_owned()).or_default() += 1;
            }
            state @ (JobState::Queued | JobState::Running | JobState::Cancelled) => {
                *report.others.entry(state.to_string()).or_default() += 1;
            }
        }
        None
    }

    fn unreadable(&mut self, item: &ExportedRow, error: &JobError) {
        const SHOWN: usize = 10;
        self.report.unreadable += 1;
        let text = format!("{}: {error}", item.place());
        if self.report.reasons.len() < SHOWN {
            output::error(&text);
            self.report.reasons.push(text);
        }
    }

    fn is_full(&self, shard: &ShardFile) -> bool {
        let usual = if self.args.format == DatasetFormat::Imagefolder { ROWS_IN_FOLDER } else { ROWS_IN_SHARD };
        let is_large = self.args.format != DatasetFormat::Imagefolder && shard.bytes() >= self.args.shard_size;
        is_large || shard.rows() >= self.args.shard_rows.unwrap_or(usual)
    }

    /// Lets a shard become visible while the next one is written: that waits for the disk, or for S3.
    async fn finish(&mut self, shard: Option<ShardFile>, memory: &mut Memory<'_>) -> Result<(), Failure> {
        let Some(shard) = shard else { return Ok(()) };
        // One after the other, so that what is visible has no gap.
        self.remember(memory).await?;
        let target = self.target.clone();
        self.finishing = Some(tokio::spawn(async move { shard.finish(&target).await }));
        Ok(())
    }

    /// Remembers the shard that is becoming visible.
    async fn remember(&mut self, memory: &mut Memory<'_>) -> Result<(), Failure> {
        let Some(task) = self.finishing.take() else { return Ok(()) };
        let finished = joined(task, "shard").await?;
        self.report.shards += 1;
        self.report.written += finished.lines.len() as u64;
        self.report.bytes += finished.bytes;
        Ok(memory.add(finished.lines).await?)
    }
}

async fn joined<T>(task: JoinHandle<Result<T, JobError>>, what: &str) -> Result<T, JobError> {
    match task.await {
        Ok(done) => done,
        Err(error) => Err(JobError::storage(what, format!("its thread stopped: {error}")).caused_by(error)),
    }
}

fn print(args: &ExportArgs, target: &Target, report: &ExportReport, time: Duration) -> Result<(), Failure> {
    let failed: u64 = report.failed.values().sum();
    if args.json {
        return output::json(&json!({
            "batch": args.batch, "format": args.format.as_str(), "out": target.place(""), "written": report.written,
            "known": report.known, "shards": report.shards, "bytes": report.bytes, "failed": failed,
            "failed_by_code": report.failed, "not_finished": report.others, "deleted": report.deleted, "unreadable": report.unreadable,
            "reasons": report.reasons, "seconds": time.as_secs_f64(),
        }));
    }
    let mut parts = vec![format!(
        "{} in {}, {}",
        output::count(report.written, "row"),
        output::count(report.shards, "shard"),
        output::size(report.bytes)
    )];
    if report.known > 0 {
        parts.push(format!("{} already there", report.known));
    }
    if failed > 0 {
        let codes: Vec<_> = report.failed.iter().map(|(code, rows)| format!("{code} {rows}")).collect();
        parts.push(format!("{failed} left out because their jobs failed ({})", codes.join(", ")));
    }
    parts.extend(report.others.iter().map(|(state, rows)| format!("{rows} {state}")));
    parts.extend(deleted_text(report.deleted));
    if report.unreadable > 0 {
        parts.push(format!("{} unreadable", report.unreadable));
    }
    output::line(&format!("{}: {}", target.place(""), parts.join("; ")))
}

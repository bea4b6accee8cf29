//! Runs one job for each of several pictures, or of a folder, in this process: the model is loaded once. A picture that
//! fails does not end it. Run again, it goes on where it stopped.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::{
    checks::{check_models, failure_in_words_of_flags, in_words_of_flags},
    drive::cancel_on_ctrl_c,
    flags::JobFlags,
    pictures::{EarlierNames, LocalPicture, find},
};
use crate::{
    app::EmbeddedApp,
    cli::{
        Failure, dataset::Tally, export, global::GlobalArgs, out_file::check_out_folder, output, runtime::block_on,
        view::progress_text,
    },
    config::LoadedConfig,
    database::{Claim, DatasetJob, DatasetRow, DatasetRun, JobRow, JobStore, RetryOutcome, SubmitOptions, Submitted},
    engine::CancelToken,
    image::ExportFormat,
    job::{
        BatchId, ErrorRecord, InputRef, Inputs, JobError, JobId, JobRequest, JobState, Output, Task, percent_decoded,
    },
    store::{ObjectKey, OutFolder, ResultFiles, file_url},
    worker::{Reporter, Verdict},
};

/// Without a terminal, one line in this time.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What a command line asks for.
pub struct Many {
    pub task: Task,
    pub images: Vec<String>,
    pub flags: JobFlags,
    pub export: Option<ExportFormat>,
}

/// Whether these are several pictures, or a folder.
pub fn are_many(images: &[String]) -> bool {
    images.len() > 1 || images.iter().any(|image| Path::new(image).is_dir())
}

pub fn drive_many(global: &GlobalArgs, loaded: &LoadedConfig, many: Many) -> Result<(), Failure> {
    let Many { task, images, flags, export } = many;
    if flags.id.is_some() || flags.sheet.is_some() {
        let flag = if flags.id.is_some() { "--id" } else { "--sheet" };
        let advice = if are_many(&images) {
            "is for one picture; leave it out, or name one picture"
        } else {
            "cannot be combined with --export, which gives each picture a folder of its own; use one of them, or write \
             the file afterwards with `acetate export`"
        };
        return Err(Failure::Usage(format!("{flag} {advice}")));
    }
    check_models(loaded, &task).map_err(in_words_of_flags)?;
    check_out_folder(&flags.out)?;
    let out = std::fs::create_dir_all(&flags.out)
        .and_then(|()| flags.out.canonicalize())
        .map_err(|error| JobError::invalid("--out", format!("{}: {error}", flags.out.display())))?;
    let batch = batch_of(&out)?;
    let template = JobRequest {
        id: JobId::new(),
        inputs: Inputs::named(task.kind(), Vec::new()),
        output: Output { prefix: "file:///".to_owned() },
        task,
        labels: crate::cli::params::labels(&flags.labels)?,
        priority: 0,
    };
    if flags.reuse {
        template.check_reuse().map_err(in_words_of_flags)?;
    }
    block_on(async {
        let app = EmbeddedApp::open(loaded).await.map_err(|error| loaded.with_origin(error))?;
        let done = match all_pictures(&app, &images, &out, &batch).await {
            Ok((pictures, tally)) => {
                tally.text().into_iter().for_each(|text| global.say(&text));
                let models = models_of(loaded);
                // The folder is the batch, so there is one source.
                let run = DatasetRun { source: String::new(), began: Timestamp::now().as_microsecond() };
                let run = BatchRun { global, app: &app, out, batch, run, template, reuse: flags.reuse, models, export };
                run.all(&pictures, flags.json).await
            }
            Err(failure) => Err(failure),
        };
        app.close().await;
        done
    })
}

async fn all_pictures(
    app: &EmbeddedApp,
    images: &[String],
    out: &Path,
    batch: &BatchId,
) -> Result<(Vec<LocalPicture>, Tally), Failure> {
    let earlier = earlier_names(&app.worker.jobs, out, batch).await?;
    find(app.worker.stores.inputs(), images, out, earlier).await
}

/// The folders that the pictures of earlier runs have.
async fn earlier_names(jobs: &JobStore, out: &Path, batch: &BatchId) -> Result<EarlierNames, JobError> {
    const PAGE: u32 = 500;
    let root = format!("{}/", file_url(out).trim_end_matches('/'));
    let (mut names, mut cursor) = (EarlierNames::new(), jobs.dataset_cursor(batch).await?);
    loop {
        let page = jobs.dataset_jobs(batch, &mut cursor, PAGE).await?;
        if page.is_empty() {
            return Ok(names);
        }
        for DatasetJob { job, .. } in page {
            let Some(input) = job.request.inputs.iter().next().map(InputRef::name) else { continue };
            let Some(name) = job.request.output.prefix.strip_prefix(&root).and_then(percent_decoded) else { continue };
            let (known, name) = (names.entry(input).or_default(), name.trim_end_matches('/').to_owned());
            if !known.contains(&name) {
                known.push_back(name);
            }
        }
    }
}

/// The batch of everything that is written to a folder.
fn batch_of(out: &Path) -> Result<BatchId, JobError> {
    let digest = Sha256::digest(out.as_os_str().as_encoded_bytes());
    format!("run-{}", hex::encode(&digest[..6])).parse()
}

/// The settings that make other pictures of the same request.
fn models_of(loaded: &LoadedConfig) -> String {
    let settings = &loaded.config.qwen_image;
    let mut models = format!("{:?} {:?} {:?}", settings.model_path, settings.device, settings.dtype);
    for file in [&settings.transformer_path, &settings.text_encoder_path].into_iter().flatten() {
        models.push_str(&format!(" {}", file.display()));
    }
    models
}

struct BatchRun<'a> {
    global: &'a GlobalArgs,
    app: &'a EmbeddedApp,
    out: PathBuf,
    batch: BatchId,
    /// Tells the pictures of this run from those of an earlier one.
    run: DatasetRun,
    /// The job without its picture.
    template: JobRequest,
    reuse: bool,
    models: String,
    export: Option<ExportFormat>,
}

#[derive(Default)]
struct RunReport {
    made: u64,
    /// From an earlier run.
    known: u64,
    failures: Vec<(String, ErrorRecord)>,
}

/// How it went with one picture.
enum PictureOutcome {
    Made,
    Known,
    Failed(ErrorRecord),
    Stopped,
}

impl BatchRun<'_> {
    async fn all(&self, pictures: &[LocalPicture], json: bool) -> Result<(), Failure> {
        let (start, mut report) = (Instant::now(), RunReport::default());
        let (bar, mut said) = (self.bar(pictures.len()), Instant::now());
        let cancel = CancelToken::default();
        let on_ctrl_c = tokio::spawn(cancel_on_ctrl_c(cancel.clone()));
        let (mut stopped, mut fatal) = (false, None);
        for (index, picture) in pictures.iter().enumerate() {
            if cancel.is_cancelled() {
                stopped = true;
                break;
            }
            match self.one(index as u64 + 1, picture, &cancel, &bar).await {
                Ok(PictureOutcome::Made) => report.made += 1,
                Ok(PictureOutcome::Known) => report.known += 1,
                Ok(PictureOutcome::Stopped) => {
                    stopped = true;
                    break;
                }
                Ok(PictureOutcome::Failed(error)) => {
                    bar.suspend(|| {
                        output::error(&format!(
                            "{}: {} ({})",
                            picture.shown,
                            failure_in_words_of_flags(&error),
                            error.code
                        ));
                    });
                    let others_fail_too = concerns_all(&error.code) || self.app.worker.broken.is_cancelled();
                    report.failures.push((picture.shown.clone(), error.clone()));
                    if others_fail_too {
                        fatal = Some(error);
                        break;
                    }
                }
                Err(error) => {
                    fatal = Some(ErrorRecord::from(&error));
                    break;
                }
            }
            bar.inc(1);
            if bar.is_hidden() && said.elapsed() >= LINE_EVERY {
                said = Instant::now();
                self.global.say(&format!("{}/{} pictures", index + 1, pictures.len()));
            }
        }
        on_ctrl_c.abort();
        bar.finish_and_clear();
        let is_whole = fatal.is_none() && !stopped;
        self.app.worker.jobs.drop_moved_rows(&self.batch, &self.run, is_whole).await?;
        self.print(pictures.len(), &report, start.elapsed(), json)?;
        let done = report.made + report.known;
        match (fatal, stopped) {
            (Some(error), _) => Err(Failure::Job(format!(
                "stopped at {done} of {} pictures, because the others would fail, too: {} ({})",
                pictures.len(),
                failure_in_words_of_flags(&error),
                error.code
            ))),
            (None, true) => {
                let text =
                    format!("stopped after {done} of {} pictures; run the same command to continue", pictures.len());
                Err(Failure::Cancelled(text))
            }
            (None, false) if report.failures.is_empty() => Ok(()),
            (None, false) => {
                let failed = output::count(report.failures.len() as u64, "picture");
                Err(Failure::Job(format!("{failed} failed; run the same command to try them again")))
            }
        }
    }

    /// Errors concern the database.
    async fn one(
        &self,
        number: u64,
        picture: &LocalPicture,
        cancel: &CancelToken,
        bar: &ProgressBar,
    ) -> Result<PictureOutcome, JobError> {
        bar.set_message(picture.shown.clone());
        let folder = self.out.join(&picture.name);
        let out = match OutFolder::prepare(&folder) {
            Ok(out) => out,
            Err(error) => return Ok(PictureOutcome::Failed(ErrorRecord::from(&in_words_of_flags(error)))),
        };
        let request = match self.request(picture, &out) {
            Ok(request) => request,
            Err(error) => return Ok(PictureOutcome::Failed(ErrorRecord::from(&in_words_of_flags(error)))),
        };
        let jobs = &self.app.worker.jobs;
        let options = SubmitOptions {
            batch: Some(self.batch.clone()),
            reuse: self.reuse,
            local: self.app.is_local,
            ..SubmitOptions::default()
        };
        let row = match jobs.submit(&request, &options).await? {
            Submitted::New(row) | Submitted::Known(row) => *row,
        };
        // So that `jobs results` and `jobs export` have them in this order.
        let meta = Map::from_iter([("picture".to_owned(), json!(picture.shown))]);
        let place = DatasetRow { number, job: row.id(), meta: Some(meta) };
        jobs.record_dataset_rows(&self.batch, &self.run, &[place]).await?;
        let was_known = row.state == JobState::Succeeded;
        let row = match row.state {
            JobState::Succeeded => row,
            JobState::Failed | JobState::Cancelled => match jobs.retry(request.id).await? {
                RetryOutcome::Queued(_) => self.work(request.id, cancel, bar, &picture.shown).await?,
                RetryOutcome::Refused(_) | RetryOutcome::Unknown => row,
            },
            JobState::Queued | JobState::Running => self.work(request.id, cancel, bar, &picture.shown).await?,
        };
        match row.state {
            JobState::Succeeded => {}
            JobState::Cancelled => return Ok(PictureOutcome::Stopped),
            JobState::Running | JobState::Queued | JobState::Failed => {
                let busy = || JobError::Busy { reason: format!("job {} is run by another process", row.id()) };
                let error = row.error.clone().unwrap_or_else(|| ErrorRecord::from(&busy()));
                return Ok(PictureOutcome::Failed(error));
            }
        }
        match self.copy_out(&row, &out, &folder, was_known).await {
            Ok(true) => Ok(PictureOutcome::Known),
            Ok(false) => Ok(PictureOutcome::Made),
            Err(error) => Ok(PictureOutcome::Failed(ErrorRecord::from(&error))),
        }
    }

    /// The job of a picture. Its id comes from everything that its result depends on, so that a changed picture, or
    /// another model, is another job.
    fn request(&self, picture: &LocalPicture, out: &OutFolder) -> Result<JobRequest, JobError> {
        let mut request = self.template.clone();
        request.inputs = Inputs::named(request.task.kind(), vec![picture.input.clone()]);
        request.output.prefix = format!("{}/", file_url(out.path()).trim_end_matches('/'));
        let content = format!("{}\0{}\0{}", request.fingerprint(), picture.stamp, self.models);
        request.id = JobId::in_batch(self.batch.as_str(), &content);
        request.validate()?;
        Ok(request)
    }

    /// Runs the job; returns its row afterwards.
    async fn work(&self, id: JobId, cancel: &CancelToken, bar: &ProgressBar, name: &str) -> Result<JobRow, JobError> {
        let reporter = Reporter::default();
        let mut progress = reporter.watch();
        let mut run = std::pin::pin!(self.app.run_job(id, cancel, &reporter));
        let verdict = loop {
            tokio::select! {
                verdict = &mut run => break verdict?,
                Ok(()) = progress.changed() => {
                    let latest = *progress.borrow_and_update();
                    if let Some(latest) = latest {
                        bar.set_message(format!("{name}  {}", progress_text(&latest)));
                    }
                }
            }
        };
        match verdict {
            Some(Verdict::Settled(row) | Verdict::NotTaken(Claim::Ended(row))) => Ok(*row),
            _ => {
                let row = self.app.worker.jobs.get(id).await?;
                row.ok_or_else(|| JobError::database(format!("job {id} is no longer in the database")))
            }
        }
    }

    /// Copies the files of a result, and writes the export. Returns whether everything was there already.
    async fn copy_out(&self, row: &JobRow, out: &OutFolder, folder: &Path, was_known: bool) -> Result<bool, JobError> {
        let Some(result) = &row.published else {
            return Err(JobError::database(format!("job {} has succeeded without a result", row.id())));
        };
        let there = was_known && out.unfinished.is_none() && is_there(out.path(), row.id()).await;
        if !there {
            let key = ObjectKey::parse(&result.manifest)?;
            // A worker puts results below the output folder.
            out.export(&self.app.worker.stores.at_root(result.root.as_deref())?, &key).await?;
        }
        let Some(format) = self.export else { return Ok(there) };
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", format.as_str()));
        let path = folder.with_file_name(name);
        if there && path.exists() {
            return Ok(true);
        }
        let files = ResultFiles::in_folder(out.path()).await?;
        export::write_result(&files, format, &self.app.worker.options.limits, &path).await?;
        Ok(false)
    }

    fn print(&self, total: usize, report: &RunReport, time: Duration, json: bool) -> Result<(), Failure> {
        let mut codes = BTreeMap::<&str, u64>::new();
        for (_, error) in &report.failures {
            *codes.entry(error.code.as_str()).or_default() += 1;
        }
        if json {
            let failures = report.failures.iter().map(|(picture, error)| json!({"picture": picture, "error": error}));
            return output::json(&json!({
                "batch": self.batch, "out": self.out.display().to_string(), "pictures": total,
                "succeeded": report.made, "known": report.known, "failed": report.failures.len(), "codes": codes,
                "failures": failures.collect::<Vec<_>>(), "seconds": time.as_secs_f64(),
            }));
        }
        let codes: Vec<_> = codes.iter().map(|(code, count)| format!("{code} {count}")).collect();
        let codes = if codes.is_empty() { String::new() } else { format!(" ({})", codes.join(", ")) };
        output::line(&format!(
            "{}\n  {}: {} split, {} already there, {} failed{codes}, {}\n  batch {}",
            self.out.display(),
            output::count(total as u64, "picture"),
            report.made,
            report.known,
            report.failures.len(),
            output::duration(time.as_secs_f64()),
            self.batch,
        ))
    }

    fn bar(&self, total: usize) -> ProgressBar {
        let shown = std::io::stderr().is_terminal() && !self.global.is_quiet();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len}  {eta} left  {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// Whether a folder has the complete result of a job.
async fn is_there(folder: &Path, job: JobId) -> bool {
    let Ok(files) = ResultFiles::in_folder(folder).await else { return false };
    files.manifest.job == job && files.manifest.files.iter().all(|file| folder.join(&file.name).is_file())
}

/// Whether the next picture would fail for the same reason.
fn concerns_all(code: &str) -> bool {
    matches!(code, "model_not_found" | "model_invalid" | "model_too_large" | "download" | "disk_full" | "device")
}

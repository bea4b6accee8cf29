//! Runs a job: checks everything that can be checked, finds or creates the job, runs it, and copies its files to the
//! output folder.

use std::path::Path;

use jiff::Timestamp;

use super::{
    checks::{check_apart, check_models, check_sheet, check_sheet_place, failure_in_words_of_flags, in_words_of_flags},
    flags::JobFlags,
    sheet,
    summary::{self, FinishedJob},
};
use crate::{
    app::EmbeddedApp,
    cli::{
        Failure,
        global::GlobalArgs,
        out_file::{OutFile, check_out_folder},
        output, params, progress,
        runtime::block_on,
        view::{JobJson, progress_text},
    },
    config::LoadedConfig,
    database::{Claim, Hold, JobRow, LeaseState, Submitted},
    engine::CancelToken,
    job::{ErrorRecord, InputRef, Inputs, JobError, JobId, JobRequest, JobState, Manifest, Output, Task},
    store::{MANIFEST, ObjectKey, OutFolder, file_url, path_of},
    trace,
    worker::{Liveness, Reporter, Verdict, WorkerName},
};

/// The job that a command line describes.
pub struct LocalJob {
    pub task: Task,
    pub inputs: Inputs,
    pub flags: JobFlags,
}

pub fn drive(global: &GlobalArgs, loaded: LoadedConfig, plan: LocalJob) -> Result<(), Failure> {
    let LocalJob { task, inputs, flags } = plan;
    let mut request = JobRequest {
        id: flags.id.unwrap_or_else(JobId::new),
        inputs,
        output: Output { prefix: "file:///".to_owned() },
        task,
        labels: params::labels(&flags.labels)?,
        priority: 0,
    };
    request.validate().map_err(in_words_of_flags)?;
    if flags.reuse {
        request.check_reuse().map_err(in_words_of_flags)?;
    }
    check_models(&loaded, &request.task).map_err(in_words_of_flags)?;
    check_out_folder(&flags.out)?;
    check_apart(&request.inputs, &flags.out)?;
    let sheet = flags.sheet_file();
    sheet.as_ref().map_or(Ok(()), |sheet| check_sheet(sheet, &request.inputs))?;
    let out = OutFolder::prepare(&flags.out).map_err(in_words_of_flags)?;
    sheet.as_ref().map_or(Ok(()), |sheet| check_sheet_place(sheet, out.path()))?;
    request.output.prefix = format!("{}/", file_url(out.path()).trim_end_matches('/'));

    let trace = flags.trace.over(&loaded);
    block_on(trace::within(trace.as_ref(), async {
        let app = EmbeddedApp::open(&loaded).await.map_err(|error| loaded.with_origin(error))?;
        let run = JobRun { global, loaded: &loaded, app: &app, out: &out, sheet, reuse: flags.reuse, json: flags.json };
        let result = run.to_the_end(&request, flags.id).await;
        app.close().await;
        result
    }))
}

struct JobRun<'a> {
    global: &'a GlobalArgs,
    loaded: &'a LoadedConfig,
    app: &'a EmbeddedApp,
    out: &'a OutFolder,
    sheet: Option<OutFile<'a>>,
    reuse: bool,
    json: bool,
}

/// The remaining work for a job.
enum RemainingWork {
    Work(JobId),
    Export(Box<JobRow>),
}

impl JobRun<'_> {
    async fn to_the_end(&self, request: &JobRequest, id: Option<JobId>) -> Result<(), Failure> {
        self.load_edit_model(id).await?;
        match self.find(request, id).await? {
            RemainingWork::Work(id) => self.finish(self.work(id).await?).await.map(drop),
            RemainingWork::Export(row) => {
                self.global.say(&format!("job {} has already succeeded; returning its results", row.id()));
                let manifest = self.finish(*row).await?;
                self.warn_of_other_models(&manifest);
                Ok(())
            }
        }
    }

    /// Checks the model before the job exists: a job whose model cannot be loaded must not be left waiting.
    async fn load_edit_model(&self, id: Option<JobId>) -> Result<(), Failure> {
        if !self.loaded.config.qwen_image.load_edit_model {
            return Ok(());
        }
        if let Some(id) = id
            && self.app.worker.jobs.get(id).await?.is_some_and(|row| row.state.is_terminal())
        {
            return Ok(());
        }
        let (cancel, reporter) = (CancelToken::default(), Reporter::default());
        let on_ctrl_c = tokio::spawn(cancel_on_ctrl_c(cancel.clone()));
        let shown = progress::show(reporter.watch(), self.global.progress_style());
        let told = reporter.clone();
        let progress = Box::new(move |stage, step, steps| told.at(stage, step, steps));
        let loaded = self.app.worker.engine.load_edit_model(cancel, progress).await;
        shown.finish().await;
        on_ctrl_c.abort();
        loaded.map_err(|error| match error {
            JobError::Cancelled => Failure::Cancelled("cancelled before the job was created".to_owned()),
            error => error.into(),
        })
    }

    /// The job for this request: the one with the given id, one that was interrupted, or a new one.
    async fn find(&self, request: &JobRequest, id: Option<JobId>) -> Result<RemainingWork, Failure> {
        let jobs = &self.app.worker.jobs;
        if id.is_none() {
            if let Some(row) = jobs.find_unfinished(&request.fingerprint()).await? {
                self.check_free(&row)?;
                let past = match (&row.error, &row.progress) {
                    (Some(error), _) => format!("failed before: {}", error.message),
                    (None, Some(at)) => format!("was interrupted at {}", progress_text(at)),
                    (None, None) => "was interrupted".to_owned(),
                };
                self.global.say(&format!("resuming job {}, which {past}", row.id()));
                return Ok(RemainingWork::Work(row.id()));
            }
            // The process ended while it copied the files, or a worker has done the rest of the job.
            for &done in self.out.unfinished.iter().chain(&self.out.of_workers) {
                if let Some(row) = jobs.get(done).await?
                    && row.state == JobState::Succeeded
                    && row.request.fingerprint() == request.fingerprint()
                {
                    return Ok(RemainingWork::Export(Box::new(row)));
                }
            }
        }
        match self.app.submit(request, self.reuse).await.map_err(in_words_of_flags)? {
            Submitted::New(row) => Ok(RemainingWork::Work(row.id())),
            Submitted::Known(row) => match row.state {
                JobState::Queued | JobState::Running => {
                    self.check_free(&row)?;
                    Ok(RemainingWork::Work(row.id()))
                }
                JobState::Succeeded => Ok(RemainingWork::Export(row)),
                JobState::Failed | JobState::Cancelled => Err(self.ended_badly(*row)),
            },
        }
    }

    /// Refuses a job that another live process runs, before reporting that it is resumed.
    fn check_free(&self, row: &JobRow) -> Result<(), Failure> {
        let Some(worker) = row.worker.as_deref().filter(|_| row.state == JobState::Running) else { return Ok(()) };
        match row.lease(Timestamp::now(), |name| Liveness::of(&self.app.worker.queue).is_dead(name)) {
            LeaseState::Over | LeaseState::WorkerDead => Ok(()),
            LeaseState::Held => Err(busy(row.id(), worker)),
        }
    }

    async fn work(&self, id: JobId) -> Result<JobRow, Failure> {
        let (cancel, reporter) = (CancelToken::default(), Reporter::default());
        let on_ctrl_c = tokio::spawn(cancel_on_ctrl_c(cancel.clone()));
        let shown = progress::show(reporter.watch(), self.global.progress_style());
        let verdict = self.app.run_job(id, &cancel, &reporter).await;
        shown.finish().await;
        on_ctrl_c.abort();

        match verdict? {
            Some(Verdict::Settled(row)) => Ok(*row),
            Some(Verdict::NotTaken(Claim::Ended(row))) => Ok(*row),
            Some(Verdict::NotTaken(Claim::Held { worker, .. })) => Err(busy(id, &worker)),
            Some(Verdict::NotTaken(Claim::NotBefore(at))) => {
                Err(JobError::Busy { reason: format!("job {id} waits until {at} for its next attempt") }.into())
            }
            Some(Verdict::NotTaken(Claim::OnHold(hold))) => {
                let why = match hold {
                    Hold::Paused => "it is paused; `acetate queue resume` ends that",
                    Hold::TenantLimit => "its tenant has as many running jobs as queue.tenant_limit allows",
                };
                Err(JobError::Busy { reason: format!("job {id} waits: {why}") }.into())
            }
            Some(Verdict::Lost) => {
                let reason = format!("another process took over job {id}; `acetate jobs show {id}` shows its progress");
                Err(JobError::Busy { reason }.into())
            }
            None
            | Some(Verdict::NotTaken(Claim::Unknown | Claim::Conflict(_) | Claim::Taken(_)))
            | Some(Verdict::Refused(_)) => {
                Err(JobError::database(format!("job {id} is no longer in the database")).into())
            }
        }
    }

    /// Copies the result to the output folder and prints a summary.
    async fn finish(&self, row: JobRow) -> Result<Manifest, Failure> {
        let Some(result) = row.published.as_ref().filter(|_| row.state == JobState::Succeeded) else {
            return Err(self.ended_badly(row));
        };
        let key = ObjectKey::parse(&result.manifest)?;
        let stores = &self.app.worker.stores;
        // A worker that took the job over has put its files below the output folder.
        let store = stores.at_root(result.root.as_deref())?;
        // The work is done and may have taken hours, so the error says how to get the result.
        let kept = |error| Failure::AfterSuccess {
            error,
            advice: format!(
                "job {id} has succeeded and its files are in {}; fix this and run the same command with --id {id}",
                store.place(&key).trim_end_matches(MANIFEST),
                id = row.id(),
            ),
        };
        let manifest = self.out.export(&store, &key).await.map_err(kept)?;
        if let Some(file) = &self.sheet {
            let limits = &self.app.worker.options.limits;
            sheet::write(file, stores.inputs(), limits, self.out.path(), &manifest).await.map_err(kept)?;
        }
        if self.json {
            output::json(&JobJson::new(row, stores)?)?;
        } else {
            summary::print(&FinishedJob { row: &row, manifest: &manifest, folder: self.out.path() })?;
        }
        Ok(manifest)
    }

    /// A job's identity does not include its model, so an earlier result may come from another model.
    fn warn_of_other_models(&self, manifest: &Manifest) {
        let settings = &self.loaded.config.qwen_image;
        for record in &manifest.models {
            let asked = if record.pipeline.contains("Edit") { &settings.edit_model_path } else { &settings.model_path };
            if asked.as_ref().is_some_and(|asked| !same_model(asked, &record.id)) {
                output::error(&format!(
                    "warning: these pictures were made with {}, not with the model that you named; use another --id \
                     to make new ones",
                    record.id
                ));
            }
        }
    }

    /// The failure for a row without a result; prints its JSON first if requested.
    fn ended_badly(&self, row: JobRow) -> Failure {
        let (id, state) = (row.id(), row.state);
        let shown = row.request.inputs.image.as_ref().filter(|_| row.request.inputs.len() == 1).map(input_for_people);
        let error = row.error.clone().unwrap_or_else(|| ErrorRecord::from(&JobError::Cancelled));
        if self.json {
            let printed =
                JobJson::new(row, &self.app.worker.stores).map_err(Failure::from).and_then(|view| output::json(&view));
            if let Err(failure) = printed {
                return failure;
            }
        }
        match state {
            JobState::Cancelled => Failure::Cancelled(format!("job {id} was cancelled; nothing was written")),
            JobState::Queued | JobState::Running => Failure::Job(format!(
                "{}\nthe job is kept; run the same command again to retry (job {id})",
                error.message
            )),
            JobState::Failed | JobState::Succeeded => {
                let said = failure_in_words_of_flags(&error);
                let said = shown.iter().fold(said, |said, name| named(&said, name));
                let message = format!("{said} (job {id}, {})", error.code);
                if error.is_about_the_request() { Failure::JobRequest(message) } else { Failure::Job(message) }
            }
        }
    }
}

/// The name of a picture in messages.
fn input_for_people(input: &InputRef) -> String {
    match input {
        InputRef::Url(url) => path_of("input", url).map_or_else(|_| url.clone(), |path| path.display().to_string()),
        other => other.to_string(),
    }
}

/// What is said of the only picture, with its name.
fn named(message: &str, name: &str) -> String {
    message.replacen("IMAGE: the picture is ", &format!("IMAGE: {name} is "), 1)
}

fn busy(id: JobId, worker: &str) -> Failure {
    let reason = format!(
        "job {id} is being run by {}; wait for it, or stop it with `acetate jobs cancel {id}`",
        WorkerName::in_words(worker)
    );
    JobError::Busy { reason }.into()
}

/// Whether a model's name refers to the recorded one: a folder by any path, or a hub id.
fn same_model(asked: &str, recorded: &str) -> bool {
    let folder = |name: &str| Path::new(name).canonicalize().ok();
    let id = |name: &str| name.split('@').next().unwrap_or(name).to_owned();
    folder(asked).zip(folder(recorded)).map_or_else(|| id(asked) == id(recorded), |(asked, there)| asked == there)
}

/// The first Ctrl-C cancels the job, which then ends within a step; the second exits at once.
pub async fn cancel_on_ctrl_c(cancel: CancelToken) {
    if tokio::signal::ctrl_c().await.is_err() {
        return;
    }
    output::error("cancelling after this step; press Ctrl-C again to exit now");
    cancel.cancel();
    if tokio::signal::ctrl_c().await.is_ok() {
        // The row is left unchanged; the next run of the same command resumes the job.
        #[expect(clippy::disallowed_methods, reason = "a second Ctrl-C asks for exactly this")]
        std::process::exit(130);
    }
}

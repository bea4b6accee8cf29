//! `acetate submit --estimate`: how long the jobs would take, by what finished jobs took.

use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    app::Submitter,
    cli::{Failure, output},
    database::{Filter, JobRow},
    job::{JobError, JobState, Manifest, Stage, Task},
    store::{ObjectKey, ResultFiles},
};

/// How many finished jobs are looked at, and of how many the manifest is read.
const LOOKED_AT: u32 = 500;
const MEASURED: usize = 20;
const AT_A_TIME: usize = 4;

/// The estimate, as `--json` has it.
#[derive(Debug, Serialize)]
pub struct Estimate {
    /// New jobs.
    pub jobs: u64,
    /// Absent if no finished job is like these.
    pub measured: Option<Measured>,
    /// Live workers; without one, the times are those of one.
    pub workers: u64,
    /// Until all new jobs are done, if nothing else runs.
    pub seconds: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// How many finished jobs were measured.
    pub from_jobs: usize,
    /// Whether these had the same settings, but for prompts and seeds. Otherwise their size is the same, and the passes
    /// are scaled.
    pub same_settings: bool,
    /// Of the transformer. Absent for jobs without one.
    pub passes_per_second: Option<f64>,
    pub seconds_per_job: f64,
}

/// One finished job.
#[derive(Debug, Clone, Copy)]
struct TimedJob {
    /// From its start to its end.
    seconds: f64,
    denoise: f64,
    passes: u32,
    /// The passes that its parameters ask for, without what a step cache skips.
    nominal: f64,
}

pub async fn estimate(submitter: &Submitter, task: &Task, jobs: u64) -> Result<Estimate, Failure> {
    let filter =
        Filter { state: Some(JobState::Succeeded), kind: Some(task.kind()), limit: LOOKED_AT, ..Filter::default() };
    let rows = submitter.jobs.list(&filter).await?.jobs;
    let like = |wanted: fn(&Task) -> Value| -> Vec<&JobRow> {
        // What was copied from another job says nothing about the time that computing takes.
        let is_computed = |row: &&JobRow| row.published.as_ref().is_some_and(|result| result.reused_from.is_none());
        let alike = rows.iter().filter(is_computed).filter(|row| wanted(&row.request.task) == wanted(task));
        alike.take(MEASURED).collect()
    };
    let (same, same_settings) = match like(settings_of) {
        same if same.is_empty() => (like(size_of), false),
        same => (same, true),
    };
    let samples: Vec<_> = stream::iter(same.into_iter().map(|row| measure(submitter, row)).collect::<Vec<_>>())
        .buffered(AT_A_TIME)
        .collect()
        .await;
    let samples: Vec<TimedJob> = samples.into_iter().flatten().collect();
    let measured = judge(&samples, nominal_passes(task), same_settings);
    let workers = submitter.jobs.workers().await?.workers;
    let at_a_time = workers.max(1).min(jobs.max(1));
    let seconds = measured.map(|measured| measured.seconds_per_job * jobs as f64 / at_a_time as f64);
    Ok(Estimate { jobs, measured, workers, seconds })
}

pub fn print(estimate: &Estimate, task: &Task) -> Result<(), Failure> {
    let (jobs, kind) = (output::count(estimate.jobs, "job"), task.kind());
    let Some((Measured { from_jobs, same_settings, passes_per_second, seconds_per_job }, seconds)) =
        estimate.measured.zip(estimate.seconds)
    else {
        let text = format!(
            "{jobs}; there is no measurement: no {kind} job of this size has finished in this database. Submit a few \
             (--limit 3), and ask again"
        );
        return output::line(&text);
    };
    let speed = passes_per_second.map(|speed| format!(", {speed:.2} passes per second")).unwrap_or_default();
    let like = if same_settings { "with these settings" } else { "of this size with other settings" };
    let workers = match estimate.workers {
        0 => "one worker (none is running)".to_owned(),
        workers => output::count(workers, "worker"),
    };
    output::line(&format!(
        "{jobs}, about {} with {workers}: {} each{speed}, measured on {} {like}",
        output::duration(seconds),
        output::duration(seconds_per_job),
        output::count(from_jobs as u64, "finished job"),
    ))
}

/// Nothing for a job whose result cannot be read.
async fn measure(submitter: &Submitter, row: &JobRow) -> Option<TimedJob> {
    let seconds = row.finished_at?.duration_since(row.started_at?).as_secs_f64();
    let manifest = manifest(submitter, row).await.ok()?;
    let denoise = manifest.timings.iter().filter(|timing| timing.stage == Stage::Denoise);
    Some(TimedJob {
        seconds,
        denoise: denoise.map(|timing| timing.seconds).sum(),
        passes: manifest.sampling.iter().map(|sampling| sampling.passes).sum(),
        nominal: nominal_passes(&row.request.task),
    })
}

async fn manifest(submitter: &Submitter, row: &JobRow) -> Result<Manifest, JobError> {
    let missing = || JobError::database("the job has succeeded without a result");
    let result = row.published.as_ref().ok_or_else(missing)?;
    let store = submitter.stores.at_root(result.root.as_deref())?;
    Ok(ResultFiles::published(store, ObjectKey::parse(&result.manifest)?).await?.manifest)
}

/// `nominal`: the passes of the new jobs.
fn judge(samples: &[TimedJob], nominal: f64, same_settings: bool) -> Option<Measured> {
    if samples.is_empty() {
        return None;
    }
    let sum = |of: fn(&TimedJob) -> f64| samples.iter().map(of).sum::<f64>();
    let (count, denoise) = (samples.len() as f64, sum(|sample| sample.denoise));
    let passes = sum(|sample| f64::from(sample.passes));
    let passes_per_second = (denoise > 0.0 && passes > 0.0).then(|| passes / denoise);
    let seconds = sum(|sample| sample.seconds) / count;
    let seconds_per_job = match passes_per_second {
        Some(speed) if !same_settings => {
            let beside = (seconds - denoise / count).max(0.0);
            // What a step cache skips is skipped in the new jobs, too.
            beside + nominal * (passes / sum(|sample| sample.nominal).max(1.0)) / speed
        }
        Some(_) | None => seconds,
    };
    Some(Measured { from_jobs: samples.len(), same_settings, passes_per_second, seconds_per_job })
}

/// The steps, and those with guidance once more.
fn nominal_passes(task: &Task) -> f64 {
    fn of(params: &Value) -> f64 {
        let number = |name: &str| params.get(name).and_then(Value::as_f64);
        let levels = params.get("sigmas").and_then(Value::as_array).map(|sigmas| sigmas.len().saturating_sub(1) as f64);
        let Some(steps) = levels.or_else(|| number("steps")) else { return 0.0 };
        let guided = if number("cfg_scale").is_some_and(|scale| scale > 1.0) { number("cfg_until") } else { Some(0.0) };
        steps * (1.0 + guided.unwrap_or(1.0))
    }
    let params = task.params();
    let parts = params.get("edits").and_then(Value::as_array).into_iter().flatten().chain(params.get("decompose"));
    of(&params) + parts.map(of).sum::<f64>()
}

/// The parameters without those that do not change the time.
fn settings_of(task: &Task) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for name in ["prompt", "instruction", "negative_prompt", "seed", "preset", "region", "feather"] {
                    fields.remove(name);
                }
                fields.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut params = task.params();
    strip(&mut params);
    params
}

/// The parameters that decide how long a pass takes, and how many parts there are.
fn size_of(task: &Task) -> Value {
    let params = task.params();
    let decompose = params.get("decompose").unwrap_or(&params);
    let edits = params.get("edits").and_then(Value::as_array).map(Vec::len);
    json!([decompose.get("layers"), decompose.get("resolution"), edits])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{DecomposeParams, LayerCount};

    fn decompose(steps: u32, cfg_scale: f64, layers: u32) -> Task {
        let (layers, prompt) = (LayerCount::Exactly(layers), format!("prompt of {steps}"));
        Task::Decompose(DecomposeParams { steps, cfg_scale, layers, prompt, ..DecomposeParams::default() })
    }

    #[test]
    fn prompts_do_not_matter_and_steps_do() {
        let other = |task: &Task| match task {
            Task::Decompose(params) => {
                Task::Decompose(DecomposeParams { prompt: "x".to_owned(), seed: Some(1), ..params.clone() })
            }
            task => task.clone(),
        };
        let task = decompose(50, 4.0, 4);
        assert_eq!(settings_of(&task), settings_of(&other(&task)));
        assert_ne!(settings_of(&task), settings_of(&decompose(20, 4.0, 4)));
        assert_eq!(size_of(&task), size_of(&decompose(20, 1.0, 4)));
        assert_ne!(size_of(&task), size_of(&decompose(50, 4.0, 5)));
        assert!((nominal_passes(&task) - 100.0).abs() < 1e-9);
        assert!((nominal_passes(&decompose(50, 1.0, 4)) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn jobs_with_other_steps_are_scaled() {
        let sample = TimedJob { seconds: 12.0, denoise: 10.0, passes: 100, nominal: 100.0 };
        let same = judge(&[sample, sample], 100.0, true).unwrap();
        assert_eq!((same.from_jobs, same.seconds_per_job, same.passes_per_second), (2, 12.0, Some(10.0)));
        let half = judge(&[sample], 50.0, false).unwrap();
        assert!((half.seconds_per_job - 7.0).abs() < 1e-9, "{half:?}");
        assert_eq!(judge(&[], 100.0, true), None);
    }
}

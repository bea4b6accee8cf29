//! `acetate doctor`: checks whether this machine is ready, and says what is missing.

use std::{net::SocketAddr, path::Path, time::Duration};

use clap::Args;
use qwen_image::{
    DeviceChoice, PipelineKind,
    hub::{self, ModelRef},
    models::check,
};
use serde::Serialize;
use serde_json::json;

use super::{Failure, global::GlobalArgs, output, runtime::block_on, what_if};
use crate::{
    app,
    config::{LoadedConfig, Traces, parse_bytes},
    database::{DatabaseUrl, Inspected, JobStore},
    job::JobError,
    queue::{EVENTS, MissingRights, Queue, queue_of},
    store::{Store, Trust},
};

/// How long to wait for a broker that does not respond.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  acetate doctor\n  acetate doctor --json")]
pub struct DoctorArgs {
    /// Show what a GPU with this much memory would do with the configured models and the published ones in every form,
    /// for instance 24GiB; may be repeated
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = card)]
    pub vram: Vec<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The memory of a card; a number alone would be bytes.
fn card(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes < 1 << 30 => Err(format!("`{text}` is less than 1 GiB; write the unit, for instance 24GiB")),
        bytes => Ok(bytes),
    }
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: CheckState,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum CheckState {
    Ok,
    /// Works, and is probably not what was meant.
    Warning,
    /// Some jobs need this, and get it on first use.
    Missing,
    /// Some jobs need this, and will fail.
    #[serde(rename = "missing")]
    Absent,
    Broken,
}

impl DoctorArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load(Vec::new())?;
        if !self.vram.is_empty() {
            return what_if::print(&loaded, &self.vram, self.json);
        }
        let mut checks = vec![
            settings(&loaded),
            block_on(async { Ok(objects(&loaded).await) })?,
            block_on(async { Ok(database(&loaded).await) })?,
            block_on(async { Ok(queue(&loaded).await) })?,
            api(&loaded),
            device(&loaded),
            model("model", &loaded, app::model(&loaded), PipelineKind::Layered),
            model("edit model", &loaded, app::edit_model(&loaded), PipelineKind::EditPlus),
        ];
        checks.extend(traces(&loaded));
        let ready = checks
            .iter()
            .all(|check| matches!(check.state, CheckState::Ok | CheckState::Warning | CheckState::Missing));
        if self.json {
            output::json(&json!({ "ready": ready, "checks": checks }))?;
        } else {
            for check in &checks {
                let state = match check.state {
                    CheckState::Ok => "ok",
                    CheckState::Warning => "warning",
                    CheckState::Missing | CheckState::Absent => "missing",
                    CheckState::Broken => "BROKEN",
                };
                output::line(&format!("{:<11} {state:<8} {}", check.name, check.text))?;
            }
        }
        if ready { Ok(()) } else { Err(Failure::Silent(1)) }
    }
}

fn settings(loaded: &LoadedConfig) -> Check {
    let text = match &loaded.file {
        Some(path) => format!("{}, profile {}", path.display(), loaded.profile),
        None => "the defaults; no file".to_owned(),
    };
    if let Err(error) = app::check_settings(loaded) {
        let error = error.with_origin(loaded);
        return Check { name: "settings", state: CheckState::Broken, text: format!("{text}; {error}") };
    }
    match loaded.remarks.is_empty() {
        true => Check { name: "settings", state: CheckState::Ok, text },
        false => Check {
            name: "settings",
            state: CheckState::Warning,
            text: format!("{text}; {}", loaded.remarks.join("; ")),
        },
    }
}

/// Only if OpenTelemetry's variables ask for traces.
fn traces(loaded: &LoadedConfig) -> Option<Check> {
    let (state, text) = match &loaded.traces {
        Traces::Off => return None,
        Traces::Unsupported(reason) => (CheckState::Warning, format!("not exported: {reason}")),
        Traces::Otlp(target) => (CheckState::Ok, format!("exported to the collector in {}", target.variable)),
    };
    Some(Check { name: "traces", state, text })
}

async fn objects(loaded: &LoadedConfig) -> Check {
    let checked = async {
        let stores = app::stores(&loaded.config, Trust::Local)?;
        let exists = stores.own().inspect().await?;
        // The rules for jobs that others submit; local commands do not need them.
        app::stores(&loaded.config, Trust::Submitted)?;
        Ok(match stores.own() {
            Store::Folder(folder) => {
                let (root, free) = (folder.root().display(), output::size(folder.free_space()?));
                match exists {
                    true => (CheckState::Ok, format!("{root}: can be written to, {free} free")),
                    false => {
                        (CheckState::Missing, format!("{root} does not exist yet, {free} free; the first job makes it"))
                    }
                }
            }
            Store::S3(_) => (CheckState::Ok, format!("{}: can write, read and delete", stores.own().root_url())),
        })
    };
    from_found("results", checked.await)
}

async fn database(loaded: &LoadedConfig) -> Check {
    let inspected = async {
        let place = app::database_url(&loaded.config)?;
        // Without tables, the first process makes them, unless that is left to one command.
        let (later, how) = match loaded.config.status.migrate {
            true => (
                CheckState::Missing,
                "`acetate migrate` makes or migrates them now, otherwise the next worker, server or submission does",
            ),
            false => (
                CheckState::Absent,
                "run `acetate migrate`: status.migrate is off, so nothing else makes or migrates them",
            ),
        };
        match app::inspect_jobs(&loaded.config).await? {
            Inspected::Tables(jobs) => {
                let found = rows(&jobs).await;
                jobs.close().await;
                found
            }
            Inspected::Older { has, needs } => {
                Ok((later, format!("{place}: its tables have schema {has} and must be migrated to {needs}; {how}")))
            }
            Inspected::Nothing(may) => {
                may?;
                Ok(match place {
                    DatabaseUrl::Sqlite(path) if later == CheckState::Missing => {
                        (later, format!("{} does not exist yet; the first job makes it", path.display()))
                    }
                    DatabaseUrl::Sqlite(path) => (later, format!("{} does not exist yet; {how}", path.display())),
                    DatabaseUrl::Postgres(url) => (later, format!("{url}: can be used, and has no tables yet; {how}")),
                })
            }
        }
    };
    from_found("database", inspected.await)
}

/// What is in the tables, and what an operator should know of them.
async fn rows(jobs: &JobStore) -> Result<(CheckState, String), JobError> {
    let counts: Vec<String> = jobs.count().await?.into_iter().map(|(state, jobs)| format!("{jobs} {state}")).collect();
    let counts = if counts.is_empty() { "no jobs".to_owned() } else { counts.join(", ") };
    let checked = jobs.check().await?;
    let mut state = if checked.warnings.is_empty() { CheckState::Ok } else { CheckState::Warning };
    let said = checked.warnings.into_iter().chain(checked.remarks);
    let mut remarks: String = said.map(|remark| format!("; {remark}")).collect();
    let refused = jobs.refused_events().await?;
    if refused > 0 {
        remarks.push_str(&format!(
            "; {} refused by a queue that is bound to the exchange {EVENTS}, and sent again later: is it full? \
             rabbitmqctl list_bindings source_name destination_name | grep {EVENTS}",
            output::count(refused, "event")
        ));
    }
    for (kind, refused) in jobs.refused_jobs().await? {
        remarks.push_str(&format!(
            "; {} not dispatched, because RabbitMQ refuses their messages: is the queue {} full? rabbitmqctl list_queues \
             name messages policy",
            output::count(refused, &format!("{kind} job")),
            queue_of(kind)
        ));
    }
    for pause in jobs.pauses().await? {
        let why = pause.reason.unwrap_or_else(|| "acetate queue status".to_owned());
        remarks.push_str(&format!("; paused: {} ({why})", pause.scope));
    }
    if let Some(why) = jobs.lineage().await?.mixed() {
        state = CheckState::Warning;
        remarks.push_str(&format!("; {why}; the first worker pauses everything before it starts a job"));
    }
    Ok((state, format!("{}: can be written to, {counts}{remarks}", jobs.place())))
}

async fn queue(loaded: &LoadedConfig) -> Check {
    let asked = async {
        let queue = app::queue(&loaded.config)?;
        let Queue::Rabbit(rabbit) = &queue else {
            return Ok((CheckState::Ok, "inside the process; set queue.url for RabbitMQ".to_owned()));
        };
        let missing = queue.missing(QUEUE_TIMEOUT).await?;
        if !missing.is_empty() {
            let what = missing.join(", ");
            let text =
                format!("{}: the first worker or server declares what does not exist yet: {what}", rabbit.place());
            return Ok((CheckState::Missing, text));
        }
        let rights = queue.missing_rights().await?;
        if let Some(MissingRights { needed, command, .. }) = &rights
            && !needed.is_empty()
        {
            let reason =
                format!("the user of {} may not {}; to allow it: {command}", rabbit.place(), needed.join(", "));
            return Err(JobError::invalid("queue.url", reason));
        }
        // A broker that is short of memory or disk answers, and accepts nothing.
        queue.accepts().await?;
        let mut text = format!("{}: exchanges and queues exist, messages are accepted", rabbit.place());
        let mut state = CheckState::Ok;
        if let Some(MissingRights { useful, command, .. }) = rights {
            state = CheckState::Warning;
            let may_not = useful.join(", nor ");
            text.push_str(&format!("; the user may not {may_not}; to allow it: {command}"));
        }
        let (remarks, unknown) = app::queue_policies(&loaded.config, rabbit).await?;
        if !remarks.is_empty() {
            state = CheckState::Warning;
        }
        for remark in remarks.into_iter().chain(unknown) {
            text.push_str(&format!("; {remark}"));
        }
        Ok((state, text))
    };
    from_found("queue", asked.await)
}

/// Who may use the API. Also said where nothing serves it: a worker has the same settings.
fn api(loaded: &LoadedConfig) -> Check {
    let http = &loaded.config.http;
    let checked = http.check_tokens().map_err(|(setting, reason)| JobError::invalid(setting, reason)).map(|()| {
        let one = http.token.iter().map(|_| "http.token (operate)".to_owned());
        let named = http.tokens.iter().map(|token| format!("{} ({})", token.name, token.role.as_str()));
        let tokens: Vec<String> = one.chain(named).collect();
        let own = http.bind.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
            || http.bind.starts_with("localhost:");
        match (tokens.is_empty(), own) {
            (false, _) => format!("requests need a token: {}", tokens.join(", ")),
            (true, false) if http.bind.is_empty() => {
                "http.bind is empty: nothing serves the API, which `acetate serve` needs".to_owned()
            }
            (true, true) => format!("no token is set: everyone on this machine may use the API ({})", http.bind),
            (true, false) => format!(
                "no token is set: `acetate serve` does not start on {} without one, for instance ACETATE__HTTP__TOKEN from \
                 `openssl rand -hex 32`; a worker needs none",
                http.bind
            ),
        }
    });
    from_result("api", checked)
}

fn device(loaded: &LoadedConfig) -> Check {
    let settings = &loaded.config.qwen_image;
    let text = settings.dtype().map_err(|reason| JobError::invalid("qwen_image.dtype", reason)).and_then(|dtype| {
        let groups = app::devices(settings)?;
        if settings.device.first() == DeviceChoice::Cpu {
            let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            return Ok(format!("cpu, {threads} threads, {}", dtype.as_str()));
        }
        let described = groups.iter().flat_map(|group| std::iter::once(group.device).chain(group.cfg_parallel));
        let described = described.map(|device| qwen_image::describe_device(device, dtype).map_err(JobError::from));
        let mut lines = described.collect::<Result<Vec<_>, _>>()?;
        let pairs = groups.iter().filter(|group| group.cfg_parallel.is_some());
        lines.extend(pairs.map(|group| format!("guidance in parallel on {}", group.name())));
        Ok(lines.join("; "))
    });
    from_result("device", text)
}

fn model(
    name: &'static str,
    loaded: &LoadedConfig,
    model: Result<ModelRef, JobError>,
    pipeline: PipelineKind,
) -> Check {
    match model {
        Err(error) => from_result(name, Err(error)),
        Ok(ModelRef::Folder(folder)) => checkpoint(name, &folder, "", place(loaded, &folder, pipeline)),
        Ok(ModelRef::Small { which, paths }) => match paths.find(which) {
            Ok(folder) => {
                let remark = "; the small one, because none is configured";
                checkpoint(name, &folder, remark, place(loaded, &folder, pipeline))
            }
            Err(error) => Check { name, state: CheckState::Absent, text: error.to_string() },
        },
        Ok(ModelRef::Hub { id, .. }) => {
            let cached = hub::list(&loaded.hub).unwrap_or_default();
            let complete = cached.iter().any(|model| model.id == id && model.revisions.iter().any(|r| r.complete));
            if complete {
                return Check { name, state: CheckState::Ok, text: format!("{id}, downloaded") };
            }
            let (state, how) = match loaded.hub.offline {
                true => (CheckState::Absent, "and the hub is offline"),
                false => (CheckState::Missing, "`acetate models pull` downloads it now, otherwise the first use does"),
            };
            Check { name, state, text: format!("{id} is not downloaded; {how}") }
        }
    }
}

/// How a checkpoint would be placed on a GPU.
fn place(loaded: &LoadedConfig, folder: &Path, pipeline: PipelineKind) -> Result<Option<String>, JobError> {
    if loaded.config.qwen_image.device.first() == DeviceChoice::Cpu {
        return Ok(None);
    }
    let options = app::engine_config(loaded)?.pipeline;
    Ok(Some(options.describe_placement(folder, pipeline)?))
}

fn checkpoint(name: &'static str, folder: &Path, remark: &str, place: Result<Option<String>, JobError>) -> Check {
    let report = match check(folder) {
        Ok(report) => report,
        Err(error) => return Check { name, state: CheckState::Broken, text: error.to_string() },
    };
    match report.components.into_iter().find_map(|part| part.error) {
        Some(error) => Check { name, state: CheckState::Broken, text: error },
        None => match place {
            Err(error) => from_result(name, Err(error)),
            Ok(place) => {
                let place = place.map(|place| format!("; {place}")).unwrap_or_default();
                let text = format!("{}, {}{remark}{place}", folder.display(), report.pipeline);
                Check { name, state: CheckState::Ok, text }
            }
        },
    }
}

fn from_found(name: &'static str, found: Result<(CheckState, String), JobError>) -> Check {
    match found {
        Ok((state, text)) => Check { name, state, text },
        Err(error) => Check { name, state: CheckState::Broken, text: error.to_string() },
    }
}

fn from_result(name: &'static str, result: Result<String, JobError>) -> Check {
    match result {
        Ok(text) => Check { name, state: CheckState::Ok, text },
        Err(error) => Check { name, state: CheckState::Broken, text: error.to_string() },
    }
}

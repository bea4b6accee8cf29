//! Submits one job.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    flags::{SubmitFlags, start_time},
    row::{address, check_addresses, named},
    template::{Template, Values},
};
use crate::{
    app::Submitter,
    cli::{Failure, fetch, global::GlobalArgs, output, run::flags::input, runtime::block_on, watch},
    config::LoadedConfig,
    database::{SubmitOptions, Submitted},
    job::{InputRef, Inputs, JobError, JobId, JobRequest, JobState, Output, Task},
    trace,
};

pub fn submit(global: &GlobalArgs, loaded: &LoadedConfig, task: Task, flags: &SubmitFlags) -> Result<(), Failure> {
    if flags.dry_run {
        return Err(Failure::Usage("--dry-run needs --from".to_owned()));
    }
    let trace = flags.trace.over(loaded);
    block_on(trace::within(trace.as_ref(), async {
        let front = Submitter::open(loaded).await?;
        let done = one(global, &front, task, flags).await;
        front.close().await;
        done
    }))
}

async fn one(global: &GlobalArgs, front: &Submitter, task: Task, flags: &SubmitFlags) -> Result<(), Failure> {
    let inputs = flags.input.iter().map(|text| input(text)).collect::<Result<Vec<_>, _>>()?;
    let inputs = if flags.upload { upload(front, inputs).await? } else { inputs };
    let request = request(task, flags, inputs)?;
    check_addresses(&request)?;
    front.check_allowed(&request, flags.upload)?;
    let options = SubmitOptions {
        batch: flags.batch.clone(),
        at: start_time(front, flags).await?,
        local: front.is_local(),
        ..SubmitOptions::default()
    };
    let submitted = front.submit(&request, &options).await?;
    front.dispatch().await;
    let id = request.id;
    if flags.wait {
        let row = watch::job(global, front, id).await?;
        if let Some(out) = flags.out.as_ref().filter(|_| row.state == JobState::Succeeded) {
            let kept = |error: JobError| Failure::AfterSuccess {
                error,
                advice: format!("the job has succeeded; copy its result with acetate jobs fetch {id} --out FOLDER"),
            };
            fetch::into(front, &row, out).await.map_err(kept)?;
        }
        return watch::report(front, row, flags.json);
    }
    if flags.json {
        return output::json(&json!({ "id": id }));
    }
    output::line(&id.to_string())?;
    global.say(match submitted {
        Submitted::New(_) => "submitted; acetate jobs watch shows its progress",
        Submitted::Known(_) => "already submitted; this is the same job",
    });
    Ok(())
}

fn request(task: Task, flags: &SubmitFlags, inputs: Vec<InputRef>) -> Result<JobRequest, JobError> {
    let labels: BTreeMap<_, _> = flags.labels.iter().cloned().collect();
    let output = Template::parse(&address(flags.output.as_deref().unwrap_or_default())?)?;
    let input = inputs.first().map(named).unwrap_or_default();
    let values = Values { input: &input, below: "", row: 1, batch: "none", labels: &labels };
    let request = JobRequest {
        id: flags.id.unwrap_or_else(JobId::new),
        output: Output { prefix: output.fill(&values)? },
        inputs: Inputs::named(task.kind(), inputs),
        task,
        labels,
        priority: flags.priority,
    };
    request.validate()?;
    Ok(request)
}

/// Copies local files into the store, and returns their addresses there.
async fn upload(front: &Submitter, inputs: Vec<InputRef>) -> Result<Vec<InputRef>, JobError> {
    let mut stored = Vec::with_capacity(inputs.len());
    for input in inputs {
        stored.push(match input {
            InputRef::Url(url) if url.starts_with("file://") => InputRef::Url(front.upload(&url).await?),
            other => other,
        });
    }
    Ok(stored)
}

//! Submits one job.

use serde_json::json;

use super::{
    earlier::missing,
    flags::{SubmitFlags, start_time},
    row::{address, check_addresses, named},
    template::{Template, Values},
};
use crate::{
    app::Submitter,
    cli::{
        Failure, fetch,
        global::GlobalArgs,
        out_file::check_out_folder,
        output,
        params::labels,
        run::flags::{input, write_whole_ids},
        runtime::block_on,
        watch,
    },
    config::LoadedConfig,
    database::{SubmitOptions, Submitted},
    job::{InputRef, Inputs, JobError, JobId, JobRequest, JobState, Output, Task},
    trace,
};

pub fn submit(
    global: &GlobalArgs,
    loaded: &LoadedConfig,
    task: Task,
    mask: Option<&str>,
    flags: &SubmitFlags,
) -> Result<(), Failure> {
    if flags.dry_run {
        return Err(Failure::Usage("--dry-run needs --from".to_owned()));
    }
    let trace = flags.trace.over(loaded);
    block_on(trace::within(trace.as_ref(), async {
        let submitter = Submitter::open(loaded).await?;
        let done = one(global, &submitter, task, mask, flags).await;
        submitter.close().await;
        done
    }))
}

async fn one(
    global: &GlobalArgs,
    submitter: &Submitter,
    task: Task,
    mask: Option<&str>,
    flags: &SubmitFlags,
) -> Result<(), Failure> {
    let (mut pictures, mut mask) = (flags.input.clone(), mask.map(str::to_owned));
    write_whole_ids(submitter, pictures.iter_mut().chain(mask.as_mut())).await?;
    let inputs = pictures.iter().map(|text| input(text)).collect::<Result<Vec<_>, _>>()?;
    let mask = mask.as_deref().map(input).transpose()?;
    let mut inputs = Inputs { mask, ..Inputs::named(task.kind(), inputs) };
    if flags.upload {
        upload(submitter, &mut inputs).await?;
    }
    let request = request(task, flags, inputs)?;
    check_addresses(&request)?;
    flags.out.as_deref().map_or(Ok(()), check_out_folder)?;
    if flags.reuse {
        request.check_reuse()?;
    }
    submitter.check_allowed(&request, flags.upload)?;
    if let Some(error) = missing(submitter, std::iter::once(&request)).await?.into_iter().flatten().next() {
        return Err(error.into());
    }
    let options = SubmitOptions {
        batch: flags.batch.clone(),
        at: start_time(submitter, flags).await?,
        local: submitter.is_local(),
        reuse: flags.reuse,
        ..SubmitOptions::default()
    };
    let submitted = submitter.submit(&request, &options).await?;
    submitter.dispatch().await;
    let id = request.id;
    if flags.wait {
        let row = watch::job(global, submitter, id).await?;
        if let Some(out) = flags.out.as_ref().filter(|_| row.state == JobState::Succeeded) {
            let kept = |error: JobError| Failure::AfterSuccess {
                error,
                advice: format!("the job has succeeded; copy its result with acetate jobs fetch {id} --out FOLDER"),
            };
            fetch::into(submitter, &row, out).await.map_err(kept)?;
        }
        return watch::report(submitter, row, flags.json);
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

fn request(task: Task, flags: &SubmitFlags, inputs: Inputs) -> Result<JobRequest, JobError> {
    let labels = labels(&flags.labels)?;
    let output = Template::parse(&address(flags.output.as_deref().unwrap_or_default())?)?;
    let input = inputs.iter().next().map(named).unwrap_or_default();
    let values = Values { input: &input, below: "", row: 1, batch: "none", labels: &labels };
    let request = JobRequest {
        id: flags.id.unwrap_or_else(JobId::new),
        output: Output { prefix: output.fill(&values)? },
        inputs,
        task,
        labels,
        priority: flags.priority,
    };
    request.validate()?;
    Ok(request)
}

/// Copies local files into the store, and names them by their addresses there.
async fn upload(submitter: &Submitter, inputs: &mut Inputs) -> Result<(), JobError> {
    for input in inputs.with_mask_mut() {
        if let InputRef::Url(url) = input
            && url.starts_with("file://")
        {
            *url = submitter.upload(url).await?;
        }
    }
    Ok(())
}

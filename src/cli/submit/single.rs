//! Submits one job.

use serde_json::{Value, json};

use super::{
    flags::SubmitFlags,
    row::{Defaults, Fields, address},
    template::Template,
};
use crate::{
    app::Submitter,
    cli::{Failure, fetch, global::GlobalArgs, output, run::flags::input, runtime::block_on, watch},
    config::Loaded,
    database::{SubmitOptions, Submitted},
    job::{InputRef, JobError, JobId, JobKind, JobRequest, JobState},
};

pub fn submit(
    global: &GlobalArgs,
    loaded: &Loaded,
    kind: JobKind,
    params: Value,
    flags: &SubmitFlags,
) -> Result<(), Failure> {
    if flags.dry_run {
        return Err(Failure::Usage("--dry-run needs --from".to_owned()));
    }
    block_on(async {
        let front = Submitter::open(loaded).await?;
        let done = one(global, &front, kind, params, flags).await;
        front.close().await;
        done
    })
}

async fn one(
    global: &GlobalArgs,
    front: &Submitter,
    kind: JobKind,
    params: Value,
    flags: &SubmitFlags,
) -> Result<(), Failure> {
    let inputs = flags.input.iter().map(|text| input(text)).collect::<Result<Vec<_>, _>>()?;
    let inputs = if flags.upload { upload(front, inputs).await? } else { inputs };
    let request = request(kind, params, flags, &inputs)?;
    let submitted = front
        .status
        .submit(&request, &SubmitOptions { batch: flags.batch.clone(), ..SubmitOptions::default() })
        .await?;
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

fn request(kind: JobKind, params: Value, flags: &SubmitFlags, inputs: &[InputRef]) -> Result<JobRequest, Failure> {
    let output = flags.output.as_deref().unwrap_or_default();
    let defaults = Defaults {
        kind,
        params,
        labels: flags.labels.iter().cloned().collect(),
        priority: flags.priority,
        output: Some(Template::parse(&address(output)?)?),
        batch: "none".parse()?,
        below: String::new(),
    };
    let mut row = Fields::new();
    row.insert("id".to_owned(), json!(flags.id.unwrap_or_else(JobId::new)));
    let input = if let [one] = inputs { json!({ "image": one }) } else { json!({ "images": inputs }) };
    row.insert("input".to_owned(), input);
    Ok(defaults.request(1, row)?)
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

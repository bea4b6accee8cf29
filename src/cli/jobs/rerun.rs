//! `acetate jobs rerun`: submits a job again, with other parameters.

use clap::Args;
use serde_json::{Map, Value, json};

use super::job;
use crate::{
    app::Submitter,
    cli::{Failure, global::GlobalArgs, job_name::JobName, output, params::parse_seed, watch},
    database::SubmitOptions,
    job::{BatchId, JobId},
};

#[derive(Debug, Args)]
#[command(after_help = "\
The new job has the pictures, the labels and the priority of the old one, which stays as it is. Without --seed, a job \
that was submitted without a seed gets a new one.

Examples:
  acetate jobs rerun last --seed 8
  acetate jobs rerun 018f2b6e --param layers=3 --param preset=balanced --wait
  acetate jobs rerun 018f2b6e --param decompose.prompt='A cat on a mat.'   # of a workflow")]
pub struct RerunArgs {
    /// The job: its id, the beginning of the id, or `last`
    #[arg(value_name = "ID")]
    id: JobName,
    /// Another seed
    #[arg(long, allow_negative_numbers = true, value_parser = parse_seed)]
    seed: Option<u64>,
    /// Another value of a parameter, named as in messages; `null` takes it away. May be repeated
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = change)]
    params: Vec<(String, Value)>,
    /// Submit as part of a batch [default: none]
    #[arg(long, value_name = "NAME")]
    batch: Option<BatchId>,
    /// Wait for the job to end, and show its progress
    #[arg(long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub async fn rerun(global: &GlobalArgs, submitter: &Submitter, args: RerunArgs) -> Result<(), Failure> {
    let id = args.id.id(submitter).await?;
    let row = job(submitter, id).await?;
    let mut changes = Map::new();
    if let Some(seed) = args.seed {
        let Some(path) = row.request.seed_parameter() else {
            let kind = row.request.task.kind();
            return Err(Failure::Usage(format!("--seed: job {id} is a {kind} job, which has no seed")));
        };
        set(&mut changes, path.iter().copied(), json!(seed));
    }
    for (name, value) in args.params {
        set(&mut changes, name.split('.'), value);
    }
    let request = row.request.rerun(JobId::new(), &changes)?;
    submitter.check_allowed(&request, false)?;
    let options = SubmitOptions { batch: args.batch, local: submitter.is_local(), ..SubmitOptions::default() };
    submitter.submit(&request, &options).await?;
    submitter.dispatch().await;
    if args.wait {
        let row = watch::job(global, submitter, request.id).await?;
        return watch::report(submitter, row, args.json);
    }
    if args.json {
        return output::json(&json!({ "id": request.id }));
    }
    output::line(&request.id.to_string())
}

/// Puts a value at the path of a parameter.
fn set<'a>(changes: &mut Map<String, Value>, mut path: impl Iterator<Item = &'a str>, value: Value) {
    let Some(first) = path.next() else { return };
    let mut at = changes.entry(first).or_insert(Value::Null);
    for name in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[name];
    }
    *at = value;
}

/// `layers=3`: the value is JSON, or else a text.
fn change(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && name.split('.').all(|part| !part.is_empty()) => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            Ok((name.to_owned(), value))
        }
        _ => Err("write NAME=VALUE, for instance layers=3 or decompose.steps=20".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_a_path_and_json_or_text() {
        let mut changes = Map::new();
        for text in ["decompose.steps=8", "decompose.prompt=a cat = a cat", "layers=null", "sigmas=[1.0, 0]"] {
            let (name, value) = change(text).unwrap();
            set(&mut changes, name.split('.'), value);
        }
        let wanted = json!({
            "decompose": { "steps": 8, "prompt": "a cat = a cat" }, "layers": null, "sigmas": [1.0, 0]
        });
        assert_eq!(Value::from(changes), wanted);
        for wrong in ["layers", "=3", ".a=1", "a..b=1"] {
            assert!(change(wrong).is_err(), "{wrong}");
        }
    }
}

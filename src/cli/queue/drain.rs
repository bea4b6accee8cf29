//! `acetate queue drain`: pauses, and waits until nothing runs.

use std::time::Duration;

use serde_json::json;

use super::{ScopeArgs, resume_command};
use crate::{
    app::Submitter,
    cli::{Failure, global::GlobalArgs, output, watch::no_such_batch, worker::asked_to_leave},
    database::Scope,
};

/// The most jobs of dead workers that are counted.
const MOST_SHOWN: u32 = 10_000;
const CHECK_EVERY: Duration = Duration::from_millis(500);

pub async fn drain(global: &GlobalArgs, submitter: &Submitter, args: &ScopeArgs) -> Result<(), Failure> {
    let scope = args.scope();
    // Nothing would be waited for, and the pause would stay.
    if let Scope::Batch(batch) = &scope
        && submitter.jobs.remark_on(&scope).await?.is_some()
    {
        return Err(no_such_batch(batch).into());
    }
    // Before the pause, so that a signal never leaves it unsaid.
    let mut stop = std::pin::pin!(asked_to_leave());
    submitter.jobs.pause(&scope).await?;
    let resume = resume_command(&scope);
    let (mut shown, mut idle) = (None, 0);
    // A job that was being claimed during the pause shows up at the second look.
    while idle < 2 {
        let running = submitter.jobs.running_in(&scope).await?;
        idle = if running == 0 { idle + 1 } else { 0 };
        if running > 0 && shown != Some(running) {
            global.say(&format!("{scope}: paused; waiting for {} to end", output::count(running, "running job")));
            shown = Some(running);
        }
        tokio::select! {
            () = tokio::time::sleep(CHECK_EVERY) => {}
            () = &mut stop => {
                let text = format!(
                    "{scope}: still paused, with {} ({resume} ends the pause)",
                    output::count(running, "running job")
                );
                return Err(Failure::Cancelled(text));
            }
        }
    }
    let abandoned = submitter.jobs.abandoned_in(&scope, MOST_SHOWN).await?.len();
    if args.json {
        return output::json(&json!({ "paused": scope.to_string(), "running": 0, "abandoned": abandoned }));
    }
    let idle = match u64::try_from(abandoned).unwrap_or_default() {
        0 => "no job is running".to_owned(),
        jobs => {
            format!("no live worker runs a job; {} of workers that died will run again", output::count(jobs, "job"))
        }
    };
    output::line(&format!("{scope}: drained, {idle}; {resume} starts jobs again"))
}

//! `acetate queue drain`: pauses, and waits until nothing runs.

use std::time::Duration;

use serde_json::json;

use super::{ScopeArgs, resume_command};
use crate::{
    app::Submitter,
    cli::{Failure, global::GlobalArgs, output},
};

const LOOK_EVERY: Duration = Duration::from_millis(500);

pub async fn drain(global: &GlobalArgs, submitter: &Submitter, args: &ScopeArgs) -> Result<(), Failure> {
    let scope = args.scope();
    // Before the pause, so that Ctrl-C never leaves it unsaid.
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
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
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = &mut stop => {
                let text = format!(
                    "{scope}: still paused, with {} ({resume} ends the pause)",
                    output::count(running, "running job")
                );
                return Err(Failure::Cancelled(text));
            }
        }
    }
    if args.json {
        return output::json(&json!({ "paused": scope.to_string(), "running": 0 }));
    }
    output::line(&format!("{scope}: drained, no job is running; {resume} starts jobs again"))
}

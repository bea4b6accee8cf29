//! `acetate queue status`.

use crate::{
    app::Submitter,
    cli::{Failure, output},
    database::{KindStatus, QueueStatus},
};

pub async fn show(submitter: &Submitter, json: bool) -> Result<(), Failure> {
    let status = submitter.jobs.queue_status().await?;
    if json {
        return output::json(&status);
    }
    let rows: Vec<Vec<String>> = status.kinds.iter().map(table_row).collect();
    output::table(&["KIND", "WAITING", "SCHEDULED", "DISPATCHED", "RUNNING", ""], &rows)?;
    output::line(&around(&status))?;
    for pause in &status.paused {
        let name = pause.name.as_deref().map_or(String::new(), |name| format!(" {name}"));
        let since = pause.paused_at.strftime("%Y-%m-%d %H:%M:%SZ");
        let why = pause.reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
        output::line(&format!("paused: {}{name}, since {since}{why}", pause.scope))?;
    }
    for tenant in &status.tenants {
        let limit = tenant.limit.map_or(String::new(), |limit| format!(" of {limit}"));
        output::line(&format!("tenant {}: {}{limit} running", tenant.tenant, tenant.running))?;
    }
    Ok(())
}

fn table_row(kind: &KindStatus) -> Vec<String> {
    let remark = if kind.paused { "paused" } else { "" };
    vec![
        kind.kind.to_string(),
        kind.waiting.to_string(),
        kind.scheduled.to_string(),
        kind.dispatched.to_string(),
        kind.running.to_string(),
        remark.to_owned(),
    ]
}

/// The workers, and how many jobs are dispatched ahead of them.
fn around(status: &QueueStatus) -> String {
    let (workers, slots) = (output::count(status.workers, "worker"), output::count(status.slots, "slot"));
    match status.window {
        Some(window) => {
            format!("{workers} with {slots}; at most {} of a kind dispatched ahead", output::count(window, "job"))
        }
        None => format!("{workers} with {slots}; all jobs are dispatched at once"),
    }
}

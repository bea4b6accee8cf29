//! Looks at the policies of acetate's queues in RabbitMQ.

use super::wiring::private_cas;
use crate::{
    config::Config,
    egress::{ManagementAnswer, ManagementClient},
    job::JobError,
    queue::{ManagementApi, RabbitQueue, policy_remarks},
};

/// What an operator should know of the policies of acetate's queues, and otherwise why they could not be looked at.
pub async fn queue_policies(config: &Config, rabbit: &RabbitQueue) -> Result<(Vec<String>, Option<String>), JobError> {
    let Some(api) = rabbit.management_api() else {
        return Ok((Vec::new(), Some("policies were not looked at, because a certificate logs in".to_owned())));
    };
    let private_cas = private_cas(config)?;
    let mut queues = Vec::new();
    for queue in api.queues() {
        queues.push((queue, rabbit.waiting(queue).await));
    }
    let asked = tokio::task::spawn_blocking(move || {
        let client = ManagementClient::new(&api.user, &api.password, private_cas.as_ref());
        remarks(&api, &queues, &client)
    });
    asked.await.map_err(|error| JobError::queue(error.to_string()))
}

/// `queues`: with the numbers of their messages.
fn remarks(
    api: &ManagementApi,
    queues: &[(&str, Option<u32>)],
    client: &ManagementClient,
) -> (Vec<String>, Option<String>) {
    let mut why = None;
    'urls: for url in &api.urls {
        let mut remarks = Vec::new();
        for (queue, waiting) in queues {
            match client.get(&format!("{url}{}", api.path(queue))) {
                ManagementAnswer::Found(told) => remarks.extend(policy_remarks(queue, *waiting, &told)),
                ManagementAnswer::Missing => {}
                ManagementAnswer::Unknown(reason) => {
                    why = Some(format!("policies were not looked at: the management API at {url} {reason}"));
                    continue 'urls;
                }
            }
        }
        return (remarks, None);
    }
    (Vec::new(), why)
}

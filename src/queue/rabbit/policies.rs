//! What the policies of acetate's queues do to its messages. AMQP does not tell policies; RabbitMQ's management API
//! does, to the same user on the same hosts.

use std::fmt;

use lapin::uri::AMQPUri;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    DEAD_LETTERS, RabbitQueue,
    address::is_tls,
    full::makes_room,
    topology::{LATER, queue_of},
};
use crate::job::JobKind;

/// The API's usual port is that of AMQP plus this number, with and without TLS.
const API_PORT: u32 = 10_000;

/// Where the management API is likely to be, and who asks.
pub struct ManagementApi {
    /// `http://host:15672` and the like; the first one that answers counts.
    pub urls: Vec<String>,
    pub user: String,
    pub password: String,
    vhost: String,
}

impl ManagementApi {
    /// The names of acetate's queues.
    pub fn queues(&self) -> Vec<&'static str> {
        JobKind::ALL.map(queue_of).into_iter().chain([DEAD_LETTERS, LATER]).collect()
    }

    /// The path of what the API says of a queue.
    pub fn path(&self, queue: &str) -> String {
        format!("/api/queues/{}/{queue}", utf8_percent_encode(&self.vhost, NON_ALPHANUMERIC))
    }
}

impl fmt::Debug for ManagementApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagementApi").field("urls", &self.urls).finish_non_exhaustive()
    }
}

impl RabbitQueue {
    /// How many messages wait in a queue; absent if the broker does not say.
    pub async fn waiting(&self, queue: &str) -> Option<u32> {
        self.publisher.waiting(queue).await
    }

    /// None if a certificate logs in, which the API does not accept. A password goes only where TLS protects it as in
    /// `queue.url`.
    pub fn management_api(&self) -> Option<ManagementApi> {
        let connector = &self.core.connector;
        let (user, password) = connector.login()?;
        let urls = |node: &AMQPUri| {
            let (host, port) = (&node.authority.host, u32::from(node.authority.port) + API_PORT);
            match is_tls(node) {
                true => vec![format!("https://{host}:{port}"), format!("https://{host}")],
                false => vec![format!("http://{host}:{port}")],
            }
        };
        Some(ManagementApi {
            urls: connector.nodes().iter().flat_map(urls).collect(),
            user: user.to_owned(),
            password: password.to_owned(),
            vhost: connector.vhost().to_owned(),
        })
    }
}

/// What an operator should know of a queue, by what the API says of it. `waiting`: the number of its messages, which
/// the API knows some seconds later.
pub fn policy_remarks(queue: &str, waiting: Option<u32>, told: &Value) -> Vec<String> {
    let policy = &told["effective_policy_definition"];
    let names: Vec<_> = ["policy", "operator_policy"]
        .iter()
        .filter_map(|field| told[field].as_str().filter(|name| !name.is_empty()))
        .map(|name| format!("`{name}`"))
        .collect();
    let by = format!("the policy {} of {queue}", names.join(" and "));
    let limits = ["max-length", "max-length-bytes"].map(|limit| policy[limit].as_u64().map(|most| (limit, most)));
    let shown: Vec<_> = limits.iter().flatten().map(|(limit, most)| format!("{limit} {most}")).collect();
    let mut remarks = Vec::new();
    if let Some(overflow) = policy["overflow"].as_str().filter(|overflow| *overflow != "reject-publish") {
        let limit = if shown.is_empty() { String::new() } else { format!(" (now {})", shown.join(", ")) };
        remarks.push(format!(
            "{by} has overflow {overflow}, so that RabbitMQ removes messages when the queue is full{limit}: set overflow \
             to reject-publish in it"
        ));
    }
    if let (Some(waiting), Some(most)) = (waiting, policy["max-length"].as_u64())
        && u64::from(waiting) >= most
    {
        let what = makes_room(queue);
        remarks.push(format!("{queue} is full, {waiting} messages wait: {what}, or raise max-length {most} in {by}"));
    }
    for (setting, does) in [
        ("message-ttl", "removes messages that wait for longer; jobs need no such limit"),
        ("expires", "deletes the queue while no worker is connected"),
    ] {
        if let Some(most) = policy[setting].as_u64() {
            remarks.push(format!("{by} has {setting} {most}, which {does}: remove it from the policy"));
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn remarks_name_the_policy_and_the_value() {
        let remarks = |definition: Value, waiting| {
            let told =
                json!({ "policy": "limits", "operator_policy": null, "effective_policy_definition": definition });
            policy_remarks("acetate.edit", Some(waiting), &told).join("\n")
        };
        assert_eq!(remarks(json!({}), 9), "");
        assert_eq!(remarks(json!([]), 9), "", "how the API writes an empty table");
        assert_eq!(remarks(json!({ "max-length": 5, "overflow": "reject-publish", "delivery-limit": 9 }), 4), "");
        assert_eq!(
            remarks(json!({ "max-length": 5, "overflow": "drop-head" }), 4),
            "the policy `limits` of acetate.edit has overflow drop-head, so that RabbitMQ removes messages when the \
             queue is full (now max-length 5): set overflow to reject-publish in it"
        );
        assert_eq!(
            remarks(json!({ "max-length": 5 }), 5),
            "acetate.edit is full, 5 messages wait: start more workers, or raise max-length 5 in the policy `limits` of \
             acetate.edit"
        );
        assert!(remarks(json!({ "message-ttl": 60_000 }), 0).contains("has message-ttl 60000, which removes"));
        assert!(remarks(json!({ "expires": 60_000 }), 0).contains("deletes the queue"));
    }
}

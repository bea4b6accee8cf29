//! Questions to the management API of a broker that the owner names.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use ureq::Agent;

use super::trust::{self, PrivateCas};

const USER_AGENT: &str = concat!("acetate/", env!("CARGO_PKG_VERSION"));
const LONGEST_ANSWER: u64 = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks with a user and a password. Blocks.
pub struct ManagementClient {
    agent: Agent,
    authorization: String,
}

/// What became of a question.
#[derive(Debug)]
pub enum ManagementAnswer {
    Found(Value),
    /// There is no such thing.
    Missing,
    /// Why nothing is known; completes "the management API ...".
    Unknown(String),
}

impl ManagementClient {
    pub fn new(user: &str, password: &str, private_cas: Option<&PrivateCas>) -> Self {
        let config = Agent::config_builder()
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .tls_config(trust::tls(private_cas))
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            .build();
        let authorization = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        Self { agent: config.new_agent(), authorization }
    }

    pub fn get(&self, url: &str) -> ManagementAnswer {
        let unknown = |reason: String| ManagementAnswer::Unknown(reason);
        let answer = match self.agent.get(url).header("authorization", &self.authorization).call() {
            Ok(answer) => answer,
            Err(error) => return unknown(format!("does not respond ({error})")),
        };
        match answer.status().as_u16() {
            200 => {}
            404 => return ManagementAnswer::Missing,
            401 | 403 => return unknown("refuses the user of queue.url, which needs the tag `management`".to_owned()),
            status => return unknown(format!("responds with {status}")),
        }
        let body = answer.into_body().into_with_config().limit(LONGEST_ANSWER).read_to_vec();
        match body
            .map_err(|error| error.to_string())
            .and_then(|body| serde_json::from_slice(&body).map_err(|error| error.to_string()))
        {
            Ok(value) => ManagementAnswer::Found(value),
            Err(error) => unknown(format!("cannot be read ({error})")),
        }
    }
}

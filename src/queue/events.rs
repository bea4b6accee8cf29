//! Events about jobs.

use tokio::sync::broadcast::{self, error::RecvError};
use tracing::debug;

use super::rabbit::Subscription;
use crate::job::TraceContext;

/// An event such as `job.succeeded`, with the job as JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Also its routing key.
    pub name: String,
    pub body: Vec<u8>,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
}

/// The events of one listener.
#[derive(Debug)]
pub struct EventStream(EventsBackend);

#[derive(Debug)]
enum EventsBackend {
    Embedded { events: broadcast::Receiver<Event>, pattern: String },
    Rabbit(Subscription),
}

impl EventStream {
    pub(super) fn embedded(events: broadcast::Receiver<Event>, pattern: &str) -> Self {
        Self(EventsBackend::Embedded { events, pattern: pattern.to_owned() })
    }

    pub(super) fn rabbit(subscription: Subscription) -> Self {
        Self(EventsBackend::Rabbit(subscription))
    }

    /// Waits for the next event, across lost connections. `None` once the in-process queue is closed.
    pub async fn next(&mut self) -> Option<Event> {
        match &mut self.0 {
            EventsBackend::Embedded { events, pattern } => loop {
                match events.recv().await {
                    Ok(event) if matches(pattern, &event.name) => return Some(event),
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => debug!(missed, "a listener was too slow; events were skipped"),
                    Err(RecvError::Closed) => return None,
                }
            },
            EventsBackend::Rabbit(subscription) => Some(subscription.next().await),
        }
    }
}

/// The matching rule of topic exchanges: `*` is one word, `#` any number of words.
fn matches(pattern: &str, name: &str) -> bool {
    fn words(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => {
                words(rest, name) || name.split_first().is_some_and(|(_, name)| words(pattern, name))
            }
            (Some((word, rest)), Some((found, name))) => (*word == "*" || word == found) && words(rest, name),
            _ => false,
        }
    }
    words(&pattern.split('.').collect::<Vec<_>>(), &name.split('.').collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_topic_exchange() {
        for (pattern, name, wanted) in [
            ("#", "job.succeeded", true),
            ("job.*", "job.succeeded", true),
            ("job.#", "job", true),
            ("*", "job.succeeded", false),
            ("job.failed", "job.succeeded", false),
            ("#.failed", "job.failed", true),
            ("job.*.x", "job.failed", false),
        ] {
            assert_eq!(matches(pattern, name), wanted, "{pattern} {name}");
        }
    }
}

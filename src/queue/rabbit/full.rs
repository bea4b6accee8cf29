//! Queues of acetate that take no more messages, because a policy limits their length.

use lapin::Connection;
use tokio::time::timeout;

use super::{
    publish::Publisher,
    topology::{self, DEAD_LETTERS},
};

/// What makes room in a queue.
pub(super) fn makes_room(queue: &str) -> &'static str {
    match queue {
        DEAD_LETTERS => "retry or drop dead letters (acetate dead-letters list)",
        _ => "start more workers",
    }
}

impl Publisher {
    /// How many messages wait in a queue; a quorum queue's limit counts no others. Absent if the broker does not say.
    pub(super) async fn waiting(&self, queue: &str) -> Option<u32> {
        let limit = self.core.options.connect_timeout;
        let asked = async |connection: &Connection| Ok(timeout(limit, topology::waiting(connection, queue)).await);
        self.with_connection(asked).await.ok()?.ok()?.ok()
    }

    /// Says what a queue holds that takes no more, for health checks.
    pub(super) async fn note_full(&self, queue: &'static str) {
        let holds = match self.waiting(queue).await {
            Some(waiting) => format!("holds {waiting} messages and takes no more"),
            None => "takes no more messages".to_owned(),
        };
        let (what, vhost) = (makes_room(queue), self.core.connector.vhost());
        let why = format!(
            "{queue} {holds}: {what}, or raise the max-length of its policy (rabbitmqctl list_policies -p {vhost}; \
             rabbitmqctl list_queues -p {vhost} name messages policy)"
        );
        self.core.links.full(queue, &why);
    }
}

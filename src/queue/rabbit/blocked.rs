//! A broker that is short of memory or disk stops reading from connections that publish: `connection.blocked`.

use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use lapin::{ConnectionStatus, Event};
use tracing::{info, warn};

use super::{Core, errors::broken};
use crate::job::JobError;

/// Notes and logs why the broker blocks the publishing connection, until the connection ends.
pub(super) async fn watch(core: Arc<Core>, status: ConnectionStatus, events: impl Stream<Item = Event>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(why) => {
                warn!("{}", error(&core.connector.place(), &why));
                core.links.publish_blocked(Some(why));
            }
            Event::ConnectionUnblocked => {
                info!("{} accepts messages again", core.connector.place());
                core.links.publish_blocked(None);
            }
            _ => {}
        }
        if !status.connected() {
            return;
        }
    }
}

/// `why` is the broker's reason.
pub(super) fn error(place: &str, why: &str) -> JobError {
    broken(format!(
        "{place} does not accept messages at the moment (connection.blocked: {why}): it is short of memory or disk; \
         `rabbitmq-diagnostics alarms` shows more"
    ))
}

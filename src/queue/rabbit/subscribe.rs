//! Listens to events, with a queue that the broker deletes when we disconnect.

use std::sync::Arc;

use futures_util::StreamExt;
use lapin::{
    Connection, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::warn;

use super::{
    Core,
    errors::{broken, reason},
    outgoing::trace_of,
    pauses,
    topology::{self, EVENTS},
};
use crate::{job::JobError, queue::Event};

/// The maximum number of events buffered for a listener.
const AHEAD: u16 = 256;
/// The maximum number of events that the broker keeps for a slow listener; older ones are dropped.
const KEPT: i32 = 10_000;

#[derive(Debug)]
pub(in crate::queue) struct Subscription {
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Subscription {
    /// Returns when events are being collected.
    pub(super) async fn start(core: Arc<Core>, pattern: &str) -> Result<Self, JobError> {
        let pattern = ShortString::try_new(pattern).map_err(|error| JobError::invalid("pattern", error.to_string()))?;
        let live = listen(&core, &pattern).await?;
        let (sender, events) = mpsc::channel(1);
        let task = tokio::spawn(pump(core, pattern, live, sender));
        Ok(Self { events, task })
    }

    pub(in crate::queue) async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // The task ends only with the runtime, and this one with it.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pump(core: Arc<Core>, pattern: ShortString, first: (Connection, Consumer), events: mpsc::Sender<Event>) {
    let mut live = Some(first);
    let mut pauses = pauses();
    loop {
        if let Some((_connection, mut messages)) = live.take() {
            pauses.reset();
            while let Some(Ok(message)) = messages.next().await {
                let trace = trace_of(&message.properties);
                let event = Event { name: message.routing_key.to_string(), body: message.data, trace };
                if events.send(event).await.is_err() {
                    return;
                }
                // A failed acknowledgment only means that the queue is gone; the event was already delivered.
                let _ = message.acker.ack(BasicAckOptions::default()).await;
            }
        }
        let wait = pauses.next_pause();
        warn!(
            retry_in_s = wait.as_secs_f64(),
            "not receiving events: the connection to {} is lost",
            core.connector.place()
        );
        sleep(wait).await;
        live = listen(&core, &pattern).await.inspect_err(|error| warn!("not receiving events: {error}")).ok();
    }
}

async fn listen(core: &Core, pattern: &ShortString) -> Result<(Connection, Consumer), JobError> {
    let connection = core.connector.connect("events").await?;
    topology::declare(&core.connector, &connection, &core.options).await?;
    let begin = async {
        let channel = connection.create_channel().await?;
        let mine = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let mut bounds = FieldTable::default();
        bounds.insert("x-max-length".into(), AMQPValue::LongInt(KEPT));
        let queue = channel.queue_declare("".into(), mine, bounds).await?.name().clone();
        let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(queue.clone(), EVENTS.into(), pattern.clone(), bind, none.clone()).await?;
        channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
        channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), none).await
    };
    match timeout(core.options.connect_timeout, begin).await {
        Ok(Ok(consumer)) => Ok((connection, consumer)),
        Ok(Err(error)) => Err(broken(format!("{}: {}", core.connector.place(), reason(&error))).caused_by(error)),
        Err(_) => Err(broken(format!("{} did not respond", core.connector.place()))),
    }
}

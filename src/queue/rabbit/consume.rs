//! Consuming: one task that keeps a connection with one channel per kind, and reconnects after every loss.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::try_join_all};
use lapin::{
    Acker, Channel, Connection,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Core, LONGEST_PAUSE,
    buffer::Buffer,
    errors::{broken, is_consumer_timeout, reason},
    handle::Handle,
    pauses,
    publish::Publisher,
    topology::{self, queue_of},
};
use crate::{
    job::{JobError, JobKind},
    queue::ConsumeOptions,
    retry::Pauses,
};

/// How often a connection is looked at on which nothing is consumed.
const CHECK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(in crate::queue) struct RabbitConsumer {
    feed: Arc<Feed>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// The state shared by the task and the consumer.
#[derive(Debug)]
struct Feed {
    core: Arc<Core>,
    publisher: Publisher,
    options: ConsumeOptions,
    buffer: Mutex<Buffer<Handle>>,
    changed: Notify,
    closing: CancellationToken,
}

impl RabbitConsumer {
    pub(super) fn start(core: Arc<Core>, publisher: Publisher, options: ConsumeOptions) -> Self {
        core.links.consume_wanted(options.kinds.len());
        let feed = Arc::new(Feed {
            core,
            publisher,
            options,
            buffer: Mutex::default(),
            changed: Notify::new(),
            closing: CancellationToken::new(),
        });
        let task = tokio::spawn(feed.clone().run());
        Self { feed, task: Mutex::new(Some(task)) }
    }

    pub(in crate::queue) async fn next(&self, prefer: Option<JobKind>) -> Option<Handle> {
        loop {
            let changed = self.feed.changed.notified();
            if self.feed.closing.is_cancelled() {
                return None;
            }
            if let Some(handle) = self.feed.take(prefer) {
                return Some(handle);
            }
            tokio::select! { () = changed => {}, () = self.feed.closing.cancelled() => {} }
        }
    }

    pub(in crate::queue) async fn close(&self) {
        self.feed.closing.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let limit = self.feed.core.options.connect_timeout * 2;
        if let Some(task) = task
            && timeout(limit, task).await.is_err()
        {
            debug!("the broker has not taken back all waiting messages; it will when the connection ends");
        }
    }
}

impl Drop for RabbitConsumer {
    fn drop(&mut self) {
        self.feed.closing.cancel();
    }
}

impl Feed {
    async fn run(self: Arc<Self>) {
        let mut pauses = pauses();
        while !self.closing.is_cancelled() {
            let Err(error) = self.session(&mut pauses).await else { break };
            let wait = pauses.next_pause();
            self.core.links.consume_down(&error);
            warn!(retry_in_s = wait.as_secs_f64(), "not receiving jobs: {error}");
            tokio::select! { () = sleep(wait) => {}, () = self.closing.cancelled() => {} }
        }
        let waiting = self.lock().take_unless(|_| false);
        for handle in waiting {
            handle.give_back().await;
        }
        self.core.links.consume_closed();
    }

    /// Runs one connection until it ends. `Ok` if the consumer was closed.
    async fn session(&self, pauses: &mut Pauses) -> Result<(), JobError> {
        let connector = &self.core.connector;
        let connection = tokio::select! {
            connection = connector.connect("consume") => connection?,
            () = self.closing.cancelled() => return Ok(()),
        };
        topology::declare(connector, &connection, &self.core.options).await?;
        self.core.links.consume_up(connection.status().clone());
        pauses.reset();
        info!("receiving jobs from {}", connector.place());
        try_join_all(self.options.kinds.iter().map(|kind| self.lane(&connection, *kind))).await?;
        Ok(())
    }

    /// Consumes one kind of job while the connection lives. If the broker closes its channel, the others continue.
    async fn lane(&self, connection: &Connection, kind: JobKind) -> Result<(), JobError> {
        let mut pauses = pauses();
        loop {
            if self.core.holds.is_held(kind) {
                // Not receiving is intended.
                let _up = self.core.links.lane_up();
                tokio::select! {
                    () = self.core.holds.end(kind) => {}
                    () = self.closing.cancelled() => return Ok(()),
                    () = lost(connection) => return Err(broken(format!("{}: lost", self.core.connector.place()))),
                }
            }
            let begun = Instant::now();
            let error = match self.channel(connection, kind).await {
                Ok(()) if self.closing.is_cancelled() => return Ok(()),
                Ok(()) => continue,
                Err(error) => error,
            };
            if begun.elapsed() > LONGEST_PAUSE {
                pauses.reset();
            }
            if !connection.status().connected() {
                return Err(error);
            }
            let wait = pauses.next_pause();
            self.core.links.failed(&error);
            warn!(retry_in_s = wait.as_secs_f64(), "not receiving {kind} jobs: {error}");
            tokio::select! { () = sleep(wait) => {}, () = self.closing.cancelled() => return Ok(()) }
            topology::declare(&self.core.connector, connection, &self.core.options).await?;
        }
    }

    /// Runs one channel until it ends. `Ok` if the consumer was closed, or the kind is held.
    async fn channel(&self, connection: &Connection, kind: JobKind) -> Result<(), JobError> {
        let queue = queue_of(kind);
        let ended = |why: &str| broken(format!("{}, the queue {queue}: {why}", self.core.connector.place()));
        let begin = async {
            let channel = connection.create_channel().await?;
            channel.basic_qos(self.options.prefetch, BasicQosOptions::default()).await?;
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            let consumer = channel.basic_consume(queue.into(), "".into(), options, none).await?;
            Ok::<_, lapin::Error>((channel, consumer))
        };
        let (channel, mut messages) = match timeout(self.core.options.connect_timeout, begin).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return Err(ended(&reason(&error))),
            Err(_) => return Err(ended("no response")),
        };
        let _up = self.core.links.lane_up();
        let mut cancelled = false;
        let mut held = UnackedDeliveries::default();
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(Ok(message)) => {
                        if is_from_stream(&message) {
                            return Err(ended("it is a stream, which never runs empty; jobs need a quorum queue"));
                        }
                        held.add(&message.acker);
                        let handle = Handle::new(kind, message, channel.clone(), self.publisher.clone());
                        self.put(kind, handle).await;
                    }
                    Some(Err(error)) if is_consumer_timeout(&error) => {
                        return Err(ended(&self.timed_out(&reason(&error))));
                    }
                    Some(Err(error)) => return Err(ended(&reason(&error))),
                    None if cancelled => return Ok(()),
                    // With the consumer, the broker took back what it had delivered, or it will now: the channel must
                    // not get further messages for a consumer that nobody listens to.
                    None => {
                        let oldest = held.oldest();
                        let closed = channel.close(200, "OK".into());
                        if timeout(self.core.options.connect_timeout, closed).await.is_err() {
                            debug!("{}", ended("the broker did not confirm that the channel is closed"));
                        }
                        return Err(ended(&self.why_cancelled(connection, queue, oldest).await));
                    }
                },
                () = self.core.holds.begin(kind), if !cancelled => {
                    cancelled = true;
                    let waiting = self.lock().take_unless(|handle| handle.kind() != kind);
                    for handle in waiting {
                        handle.give_back().await;
                    }
                    if !self.cancel(&channel, messages.tag().as_str()).await {
                        return Ok(());
                    }
                }
                () = self.closing.cancelled(), if !cancelled => {
                    cancelled = true;
                    if !self.cancel(&channel, messages.tag().as_str()).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The broker cancels a consumer if its queue is deleted and, since RabbitMQ 4.3, if a delivery is not acknowledged
    /// in time; it does not say which.
    async fn why_cancelled(&self, connection: &Connection, queue: &str, oldest: Option<Duration>) -> String {
        match (topology::exists(&self.core.connector, connection, queue).await, oldest) {
            (Some(false), _) => "it was deleted".to_owned(),
            (Some(true) | None, Some(oldest)) => {
                self.timed_out(&format!("a message was not acknowledged for {:.0} s", oldest.as_secs_f64()))
            }
            (Some(true) | None, None) => "the broker ended the consumer".to_owned(),
        }
    }

    fn timed_out(&self, said: &str) -> String {
        format!(
            "consumer timeout: {said}. The job goes on, and nothing runs twice. If jobs take that long, raise the \
             timeout: the queue has {} s (queue.consumer_timeout_seconds, when it was declared), unless a policy with \
             consumer-timeout or consumer_timeout in rabbitmq.conf is lower",
            self.core.options.consumer_timeout.as_secs()
        )
    }

    /// The broker sends no more messages; the stream still yields those already sent, and then ends.
    async fn cancel(&self, channel: &Channel, tag: &str) -> bool {
        let cancel = channel.basic_cancel(tag.into(), BasicCancelOptions::default());
        matches!(timeout(self.core.options.connect_timeout, cancel).await, Ok(Ok(())))
    }

    async fn put(&self, kind: JobKind, handle: Handle) {
        if self.closing.is_cancelled() || self.core.holds.is_held(kind) {
            handle.give_back().await;
            return;
        }
        self.lock().push(kind, handle.priority(), handle, Instant::now());
        self.changed.notify_one();
    }

    fn take(&self, prefer: Option<JobKind>) -> Option<Handle> {
        let mut buffer = self.lock();
        // The broker took these back when their channel closed.
        drop(buffer.take_unless(Handle::is_usable));
        buffer.pop(prefer, self.options.affinity, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Buffer<Handle>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns once the connection has ended; nothing is consumed on it meanwhile that would say so.
async fn lost(connection: &Connection) {
    while connection.status().connected() {
        sleep(CHECK_EVERY).await;
    }
}

/// The deliveries of a channel that are not finished, with the times when they came.
#[derive(Default)]
struct UnackedDeliveries(VecDeque<(Instant, Acker)>);

impl UnackedDeliveries {
    fn add(&mut self, acker: &Acker) {
        self.0.retain(|(_, acker)| acker.usable());
        self.0.push_back((Instant::now(), acker.clone()));
    }

    /// The age of the oldest.
    fn oldest(&self) -> Option<Duration> {
        self.0.iter().find(|(_, acker)| acker.usable()).map(|(since, _)| since.elapsed())
    }
}

/// A user that may not declare queues does not learn their types, but deliveries of a stream have their offset.
fn is_from_stream(message: &lapin::message::Delivery) -> bool {
    let headers = message.properties.headers().as_ref();
    headers.is_some_and(|headers| headers.inner().contains_key("x-stream-offset"))
}

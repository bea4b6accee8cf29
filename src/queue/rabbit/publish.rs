//! Publishing: nothing counts as published before the broker confirms it.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use lapin::{
    Channel, Confirmation, Connection, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    Core, blocked,
    errors::{broken, differs, is_gone, is_refused, reason},
    outgoing::Outgoing,
    rights::{self, MissingRights},
    topology::{self, LATER},
};
use crate::{
    job::{JobError, JobKind},
    queue::{Dispatch, Event, Reply},
};

/// The publishing connection. Opened on first use, and again after it was lost.
#[derive(Debug, Clone)]
pub(in crate::queue) struct Publisher {
    pub(super) core: Arc<Core>,
    connection: Arc<Mutex<Option<Connection>>>,
    /// Messages that must arrive in a queue. A lane is locked while a batch is in flight, so that returned messages can
    /// be identified.
    jobs: Arc<Mutex<Option<Channel>>>,
    /// Messages that need no listener.
    events: Arc<Mutex<Option<Channel>>>,
    /// Messages to queues that senders named. The broker may refuse one, which closes the channel.
    replies: Arc<Mutex<Option<Channel>>>,
    /// Messages that only find out whether the broker accepts messages.
    asking: Arc<Mutex<Option<Channel>>>,
    /// Whether messages can wait for newer workers in the broker; absent: not known since the last connection.
    later: Arc<Mutex<Option<bool>>>,
}

/// How often a publisher that waits looks whether the broker has blocked it.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// How long after a confirmation the broker may say that it blocks the connection.
const SAID_WITHIN: Duration = Duration::from_millis(500);

impl Publisher {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let [jobs, events, replies, asking] = [(); 4].map(|()| Arc::default());
        Self { core, connection: Arc::default(), jobs, events, replies, asking, later: Arc::default() }
    }

    pub(in crate::queue) async fn dispatch(&self, dispatches: &[Dispatch]) -> Vec<Result<(), JobError>> {
        self.batch(&self.jobs, &dispatches.iter().map(Outgoing::dispatch).collect::<Vec<_>>()).await
    }

    pub(in crate::queue) async fn events(&self, events: &[Event]) -> Vec<Result<(), JobError>> {
        self.valid(&self.events, events.iter().map(Outgoing::event).collect()).await
    }

    pub(in crate::queue) async fn replies(&self, replies: &[Reply]) -> Vec<Result<(), JobError>> {
        self.valid(&self.replies, replies.iter().map(Outgoing::reply).collect()).await
    }

    /// Those that could be built; the results are in the order of all.
    async fn valid(
        &self,
        lane: &Mutex<Option<Channel>>,
        built: Vec<Result<Outgoing<'_>, JobError>>,
    ) -> Vec<Result<(), JobError>> {
        let messages: Vec<_> = built.iter().flatten().cloned().collect();
        let mut published = self.batch(lane, &messages).await.into_iter();
        built.into_iter().map(|message| message.and_then(|_| published.next().unwrap_or(Ok(())))).collect()
    }

    /// One message that must arrive in a queue.
    pub(super) async fn one(&self, message: Outgoing<'_>) -> Result<(), JobError> {
        self.batch(&self.jobs, &[message]).await.remove(0)
    }

    /// Messages that must arrive in a queue; the results are in their order.
    pub(super) async fn many(&self, messages: &[Outgoing<'_>]) -> Vec<Result<(), JobError>> {
        self.batch(&self.jobs, messages).await
    }

    /// Whether messages can wait for newer workers in the broker. The first question declares the queue.
    pub(super) async fn has_later(&self) -> Result<bool, JobError> {
        let mut later = self.later.lock().await;
        if let Some(known) = *later {
            return Ok(known);
        }
        let limit = self.core.options.connect_timeout;
        let declared = self
            .with_connection(async |connection| Ok(timeout(limit, topology::declare_later(connection)).await))
            .await?;
        match declared {
            Ok(Ok(())) => Ok(*later.insert(true)),
            Ok(Err(error)) if differs(&error) || is_refused(&error) => {
                warn!(
                    "messages that must wait keep a part of this worker busy, because they cannot wait in the queue {}: {}. \
                     Declare it as docs/messages.md shows",
                    LATER,
                    reason(&error)
                );
                Ok(*later.insert(false))
            }
            Ok(Err(error)) => Err(self.lost(&reason(&error)).caused_by(error)),
            Err(_) => Err(self.lost("no response")),
        }
    }

    /// Declares the queue again before the next use; it may have been deleted.
    pub(super) async fn forget_later(&self) {
        *self.later.lock().await = None;
    }

    /// Ensures that there is a connection with its channels.
    pub(super) async fn connect(&self) -> Result<(), JobError> {
        self.with_connection(async |_| Ok(())).await
    }

    /// What acetate needs and does not exist.
    pub(super) async fn missing(&self) -> Result<Vec<String>, JobError> {
        let Core { connector, options, .. } = &*self.core;
        self.with_connection(async |connection| topology::missing(connector, connection, options).await).await
    }

    /// What the user may not do.
    pub(in crate::queue) async fn missing_rights(&self) -> Result<Option<MissingRights>, JobError> {
        let Core { connector, options, .. } = &*self.core;
        self.with_connection(async |connection| {
            tokio::select! {
                biased;
                tried = timeout(options.connect_timeout, rights::missing(connector, connection)) => match tried {
                    Ok(Ok(missing)) => Ok(missing),
                    Ok(Err(error)) => Err(self.lost(&reason(&error)).caused_by(error)),
                    Err(_) => Err(self.lost("no answer")),
                },
                error = self.until_blocked() => Err(error),
            }
        })
        .await
    }

    /// Whether the broker accepts messages.
    pub(in crate::queue) async fn accepts(&self) -> Result<(), JobError> {
        self.ask().await?;
        // It confirms the first message, and says only then that it accepts no others.
        match timeout(SAID_WITHIN, self.until_blocked()).await {
            Ok(error) => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Finds out whether the broker accepts messages, with one that no queue takes: an idle connection is not told.
    async fn ask(&self) -> Result<(), JobError> {
        self.batch(&self.asking, &[Outgoing::question()]).await.remove(0)
    }

    /// The kinds whose queue has no message that waits for a worker.
    pub(in crate::queue) async fn empty(&self) -> Result<Vec<JobKind>, JobError> {
        self.with_connection(async |connection| {
            // Who is blocked gets no answer, and could not dispatch anything.
            if let Some(error) = self.blocked() {
                return Err(error);
            }
            match timeout(self.core.options.connect_timeout, topology::empty(connection)).await {
                Ok(Ok(empty)) => Ok(empty),
                Ok(Err(error)) => Err(self.lost(&reason(&error)).caused_by(error)),
                Err(_) => Err(self.lost("no answer")),
            }
        })
        .await
    }

    /// Reopens a lost connection when nothing is published, to notice when the broker is back, and asks from time to
    /// time whether it accepts messages.
    pub(super) fn revive(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let publisher = self.clone();
        // If one of them fails, the links record it, and the next check retries.
        if self.core.links.shall_revive() {
            runtime.spawn(async move { publisher.connect().await });
        } else if self.core.links.shall_ask() {
            runtime.spawn(async move { publisher.ask().await });
        }
    }

    pub(in crate::queue) async fn close(&self) {
        *self.jobs.lock().await = None;
        *self.events.lock().await = None;
        *self.replies.lock().await = None;
        *self.asking.lock().await = None;
        // A blocked connection is not read any more, so a goodbye would not be answered.
        let open = self.connection.lock().await.take().filter(|connection| !connection.status().blocked());
        if let Some(connection) = open {
            let closed = connection.close(200, "OK".into());
            if !matches!(timeout(self.core.options.connect_timeout, closed).await, Ok(Ok(()))) {
                debug!("the publishing connection was not closed cleanly");
            }
        }
        self.core.links.publish_closed();
    }

    /// Publishes all messages, then waits for the confirmation of each.
    async fn batch(&self, lane: &Mutex<Option<Channel>>, messages: &[Outgoing<'_>]) -> Vec<Result<(), JobError>> {
        if messages.is_empty() {
            return Vec::new();
        }
        let mut lane = lane.lock().await;
        // Put back only after all confirmations: later confirmations on the channel of a failed or abandoned batch
        // would belong to messages that were given up.
        let channel = match self.channel(lane.take()).await {
            Ok(channel) => channel,
            Err(error) => return messages.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut results = self.send(&channel, messages).await;
        let (mut returned, mut refusing) = (HashSet::new(), BTreeSet::new());
        let mut limit = self.core.options.publish_timeout;
        let mut settled = Vec::with_capacity(messages.len());
        for (sent, message) in results.drain(..).zip(messages) {
            settled.push(match sent {
                Ok(confirm) => self.confirmed(confirm, message, &mut limit, &mut returned, &mut refusing).await,
                Err(error) => Err(error),
            });
        }
        // Nor after a refusal: RabbitMQ tells a channel that a queue is full, and does not always tell it of the end,
        // for instance if the policy is deleted. A new channel asks again.
        if settled.iter().all(Result::is_ok) {
            *lane = Some(channel);
        }
        // A returned message is confirmed, too, and if the broker confirms many at once, lapin may deliver it with
        // another message's confirmation: only its id identifies it.
        let mut unbound = false;
        for (result, message) in settled.iter_mut().zip(messages) {
            let id = message.properties.message_id().as_ref();
            if message.mandatory && id.is_some_and(|id| returned.contains(id)) {
                let place = self.core.connector.place();
                let reason = match message.exchange {
                    "" => format!("{place}: there is no queue {}", message.key),
                    exchange => {
                        format!(
                            "{place}: no queue is bound to the exchange {exchange} with the routing key {}",
                            message.key
                        )
                    }
                };
                if !matches!(message.exchange, "" | LATER) {
                    unbound = true;
                    self.core.links.refused(message.exchange, message.key, &reason);
                }
                *result = Err(JobError::Unconfirmed { reason });
            } else if result.is_ok() {
                self.core.links.sent(message.exchange, message.key);
                if let Some(queue) = message.queue().filter(|queue| !refusing.contains(queue)) {
                    self.core.links.has_room(queue);
                }
            }
        }
        for queue in refusing {
            self.note_full(queue).await;
        }
        let gone = |result: &Result<(), JobError>| matches!(result, Err(error) if is_gone(error));
        if unbound || settled.iter().any(gone) {
            self.declare_again().await;
        }
        settled
    }

    /// An exchange, a queue or a binding was deleted. It is declared at each connect, and this is as good.
    async fn declare_again(&self) {
        let Core { connector, options, passive, .. } = &*self.core;
        if passive.load(Ordering::Relaxed) {
            return;
        }
        let declared =
            self.with_connection(async |connection| topology::declare(connector, connection, options).await).await;
        if let Err(error) = declared {
            debug!(%error, "what was deleted is not declared again");
        }
    }

    /// The channel or the connection is closed. The broker closes a channel over what it refuses.
    fn not_sent(&self, exchange: &'static str, error: lapin::Error) -> JobError {
        match rights::cannot_publish(&self.core.connector, exchange, &error) {
            Some(why) => {
                if !matches!(exchange, "" | LATER) {
                    self.core.links.refused(exchange, "", &why);
                }
                broken(why).caused_by(error)
            }
            None => self.lost(&reason(&error)).caused_by(error),
        }
    }

    /// Writes the messages to the socket, and stops at the first failure.
    async fn send(&self, channel: &Channel, messages: &[Outgoing<'_>]) -> Vec<Result<PublisherConfirm, JobError>> {
        let mut sent = Vec::with_capacity(messages.len());
        let mut failed: Option<JobError> = None;
        for message in messages {
            if let Some(error) = &failed {
                sent.push(Err(error.clone()));
                continue;
            }
            let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
            let publish = channel.basic_publish(
                message.exchange.into(),
                message.key.into(),
                options,
                message.body,
                message.properties.clone(),
            );
            let result = tokio::select! {
                biased;
                sent = timeout(self.core.options.publish_timeout, publish) => match sent {
                    Ok(Ok(confirm)) => Ok(confirm),
                    Ok(Err(error)) => Err(self.not_sent(message.exchange, error)),
                    Err(_) => Err(self.stuck().await),
                },
                error = self.until_blocked() => Err(error),
            };
            failed = result.as_ref().err().cloned();
            sent.push(result);
        }
        sent
    }

    /// `limit` is the timeout for one confirmation; after one timeout, the others get none.
    async fn confirmed(
        &self,
        confirm: PublisherConfirm,
        message: &Outgoing<'_>,
        limit: &mut Duration,
        returned: &mut HashSet<ShortString>,
        refusing: &mut BTreeSet<&'static str>,
    ) -> Result<(), JobError> {
        let confirmation = tokio::select! {
            biased;
            confirmation = timeout(*limit, confirm) => match confirmation {
                Ok(Ok(confirmation)) => confirmation,
                Ok(Err(error)) => return Err(self.not_sent(message.exchange, error)),
                Err(_) => {
                    *limit = Duration::ZERO;
                    return Err(self.unconfirmed(message).await);
                }
            },
            // It may take hours. What was sent may arrive after that; sending it again would duplicate it.
            error = self.until_blocked() => return Err(error),
        };
        let accepted = !confirmation.is_nack();
        if let Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message)) = confirmation {
            returned.extend(message.properties.message_id().clone());
        }
        if accepted {
            Ok(())
        } else {
            refusing.extend(message.queue());
            let (place, vhost) = (self.core.connector.place(), self.core.connector.vhost());
            Err(JobError::Unconfirmed { reason: format!("{place} refused {}", message.refusal(vhost)) })
        }
    }

    /// The broker is silent about a message. One of the queues that get it may be without a leader.
    async fn unconfirmed(&self, message: &Outgoing<'_>) -> JobError {
        match self.stuck().await {
            JobError::Queue { reason, .. } => {
                JobError::Unconfirmed { reason: format!("{reason}: {}", message.destination()) }
            }
            other => other,
        }
    }

    fn lost(&self, reason: &str) -> JobError {
        broken(format!("{}: the connection was lost while publishing: {reason}", self.core.connector.place()))
    }

    /// Returns when the broker has told us to wait.
    async fn until_blocked(&self) -> JobError {
        loop {
            if let Some(error) = self.blocked() {
                return error;
            }
            sleep(CHECK_EVERY).await;
        }
    }

    fn blocked(&self) -> Option<JobError> {
        let why = self.core.links.blocked()?;
        Some(blocked::error(&self.core.connector.place(), &why))
    }

    /// The broker stopped responding.
    async fn stuck(&self) -> JobError {
        if let Some(error) = self.blocked() {
            return error;
        }
        let (place, waited) = (self.core.connector.place(), self.core.options.publish_timeout);
        // A silent connection is abandoned, so that the next message gets a new one.
        *self.connection.lock().await = None;
        let error = broken(format!("{place} did not confirm a message within {waited:?}"));
        self.core.links.publish_down(&error);
        error
    }

    /// The `old` channel if it is still open, otherwise a new one.
    async fn channel(&self, old: Option<Channel>) -> Result<Channel, JobError> {
        self.with_connection(async |connection| {
            if let Some(error) = self.blocked() {
                return Err(error);
            }
            if let Some(channel) = old.filter(|channel| channel.status().connected()) {
                return Ok(channel);
            }
            let opened = async {
                let channel = connection.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                Ok::<_, lapin::Error>(channel)
            };
            match timeout(self.core.options.connect_timeout, opened).await {
                Ok(Ok(channel)) => Ok(channel),
                Ok(Err(error)) => Err(self.lost(&reason(&error)).caused_by(error)),
                Err(_) => Err(self.lost("no response")),
            }
        })
        .await
    }

    pub(super) async fn with_connection<T>(
        &self,
        work: impl AsyncFnOnce(&Connection) -> Result<T, JobError>,
    ) -> Result<T, JobError> {
        let mut slot = self.connection.lock().await;
        let live = slot.take().filter(|connection| connection.status().connected());
        let connection = match live {
            Some(connection) => connection,
            None => match self.open().await {
                Ok(connection) => connection,
                Err(error) => {
                    self.core.links.publish_down(&error);
                    return Err(error);
                }
            },
        };
        work(slot.insert(connection)).await
    }

    async fn open(&self) -> Result<Connection, JobError> {
        // Another connection may be to another broker. Who asks for it holds the lock.
        if let Ok(mut later) = self.later.try_lock() {
            *later = None;
        }
        let connection = self.core.connector.connect("publish").await?;
        if !self.core.passive.load(Ordering::Relaxed) {
            topology::declare(&self.core.connector, &connection, &self.core.options).await?;
        }
        self.core.links.publish_blocked(None);
        self.core.links.publish_up(connection.status().clone());
        tokio::spawn(blocked::watch(self.core.clone(), connection.status().clone(), connection.events_listener()));
        Ok(connection)
    }
}

//! Notifies other processes of changes, and listens to theirs.
//!
//! A notification is only a hint, because waiters also poll the rows. So notifications are sent separately after
//! changes, and several changes share one. Inside the change's transaction they would make the server commit
//! transactions one after the other, because notifications are delivered in commit order.
//!
//! The listener has a connection of its own, to a server and not to a pooler in transaction mode: there `LISTEN` would
//! stay on a session that others use. It sends itself a notification to find out whether any arrive, and it is pinged,
//! because a connection that was cut off silently looks like one on which nothing happens.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sqlx::{
    Executor,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    connect::{CONNECT_TIMEOUT, Connector},
    pool::Connections,
    session::Mode,
};
use crate::{
    database::{
        PostgresUrl,
        notify::{AbortOnDrop, Signal},
    },
    job::{JobError, JobId},
};

const CHANNEL: &str = "acetate_changes";

/// The pause between two notifications; changes in between share one.
const PAUSE: Duration = Duration::from_millis(20);
/// The pause before reconnecting.
const RECONNECT: Duration = Duration::from_secs(2);
/// The pause where no notification arrives, or while it is unknown whether there is a pooler.
const LATER: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(5);
/// How often the connection is pinged.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a ping, and our own notification, may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn tell_others(connections: Connections, mut changed: watch::Receiver<u64>) -> AbortOnDrop {
    AbortOnDrop(tokio::spawn(async move {
        while changed.changed().await.is_ok() {
            if let Err(error) = notify(&connections, CHANNEL).await {
                debug!(%error, "no notification sent");
                sleep(RECONNECT).await;
            }
            sleep(PAUSE).await;
        }
    }))
}

async fn notify(connections: &Connections, channel: &str) -> Result<(), JobError> {
    // Polling finds changes that are lost here, so the commit need not reach the disk.
    let query = sqlx::query("SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')").bind(channel);
    connections.run(query).await.map(drop)
}

/// Where to listen.
#[derive(Debug)]
pub(super) struct Listener {
    connections: Connections,
    /// `status.listen_url`, if it is set.
    apart: Option<Connector>,
}

/// Why nothing is heard.
enum ListenFault {
    /// The connection was lost, or cannot be made.
    Lost(String),
    /// It can be made, and no notification arrives.
    Silent,
}

/// Turns notifications into our own signal.
pub(super) fn listen(listener: Arc<Listener>, signal: Signal) -> AbortOnDrop {
    AbortOnDrop(tokio::spawn(async move {
        // The same news is told once.
        let mut told = false;
        loop {
            let pause = match listener.mode() {
                Mode::Unknown => SOON,
                Mode::Shared => {
                    info!("{}", listener.through_a_pooler());
                    return;
                }
                Mode::Own => {
                    let deaf = listener.hear(&signal, &mut told).await;
                    let (reason, pause) = match &deaf {
                        ListenFault::Lost(reason) => {
                            listener.connections.listener_lost().fetch_add(1, Ordering::Relaxed);
                            (listener.named(reason.clone()), RECONNECT)
                        }
                        ListenFault::Silent => (listener.silent(), LATER),
                    };
                    if told {
                        debug!(reason, "no notifications");
                    } else {
                        warn!(reason, "no notifications for now; polling job rows");
                    }
                    told = true;
                    pause
                }
            };
            sleep(pause).await;
        }
    }))
}

impl Listener {
    pub(super) fn new(connections: Connections, apart: Option<&PostgresUrl>) -> Self {
        Self { connections, apart: apart.map(Connector::new) }
    }

    /// Whether notifications arrive; the reason is written for an operator.
    pub(super) async fn check(&self) -> Result<(), String> {
        match self.mode() {
            Mode::Own => {}
            Mode::Shared | Mode::Unknown => return Err(self.through_a_pooler()),
        }
        let heard = async {
            let (mut listener, own) = self.connect().await?;
            self.hear_ourselves(&mut listener, &own).await
        };
        match heard.await {
            Ok(_) => Ok(()),
            Err(ListenFault::Lost(reason)) => Err(format!("no connection to listen on: {}", self.named(reason))),
            Err(ListenFault::Silent) => Err(self.silent()),
        }
    }

    /// An address of its own is taken for one that leads past poolers.
    fn mode(&self) -> Mode {
        if self.apart.is_some() { Mode::Own } else { self.connections.mode() }
    }

    fn through_a_pooler(&self) -> String {
        "notifications do not pass a pooler in transaction mode, so job rows are polled; set status.listen_url to the \
         server's own address to hear of changes at once"
            .to_owned()
    }

    /// A reason with the setting that its address is from.
    fn named(&self, reason: String) -> String {
        match self.apart {
            Some(_) => reason.replace("ACETATE__STATUS__URL", "ACETATE__STATUS__LISTEN_URL (status.listen_url)"),
            None => reason,
        }
    }

    fn silent(&self) -> String {
        let place = match &self.apart {
            Some(connector) => format!("{}, which status.listen_url names,", connector.url),
            None => self.connections.connector().url.to_string(),
        };
        format!(
            "{place} takes LISTEN, and no notification arrives; is there a pooler before it, or is it another server or \
             database? Job rows are polled; set status.listen_url to the server's own address"
        )
    }

    /// Returns when the connection is lost, or no notification arrives on it.
    async fn hear(&self, signal: &Signal, told: &mut bool) -> ListenFault {
        match self.hear_until_lost(signal, told).await {
            Ok(never) => match never {},
            Err(deaf) => deaf,
        }
    }

    async fn hear_until_lost(&self, signal: &Signal, told: &mut bool) -> Result<std::convert::Infallible, ListenFault> {
        let (mut listener, own) = self.connect().await?;
        self.hear_ourselves(&mut listener, &own).await?;
        if std::mem::take(told) {
            info!("notifications arrive again");
        }
        // Some may have been missed.
        signal.heard();
        let mut ping_at = Instant::now() + PING_EVERY;
        loop {
            tokio::select! {
                received = listener.try_recv() => match received {
                    Ok(Some(_)) => signal.heard(),
                    Ok(None) => return Err(ListenFault::Lost("the connection that listens was closed".to_owned())),
                    Err(error) => return Err(self.lost(error)),
                },
                () = tokio::time::sleep_until(ping_at) => {
                    match timeout(PING_TIMEOUT, listener.execute("SELECT 1")).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => return Err(self.lost(error)),
                        Err(_) => {
                            let seconds = PING_TIMEOUT.as_secs();
                            return Err(ListenFault::Lost(format!("the connection that listens did not respond for {seconds} s")));
                        }
                    }
                    ping_at = Instant::now() + PING_EVERY;
                }
            }
        }
    }

    /// A connection that listens to changes, and to a channel of its own.
    async fn connect(&self) -> Result<(PgListener, String), ListenFault> {
        let connector = self.apart.as_ref().unwrap_or(self.connections.connector());
        // It finds the host; the listener's own kind of connection can only be made by its options.
        let (found, host) =
            connector.connect_to_one().await.map_err(|error| ListenFault::Lost(connector.error(error).to_string()))?;
        drop(found);
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIMEOUT);
        let pool = pool.connect_lazy_with(host.options.clone());
        let own = format!("acetate_{}", JobId::new());
        let connected = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            // The next connection must resolve the host again.
            listener.eager_reconnect(false);
            listener.listen_all([CHANNEL, &own]).await?;
            Ok(listener)
        };
        match timeout(CONNECT_TIMEOUT, connected).await {
            Ok(Ok(listener)) => Ok((listener, own)),
            Ok(Err(error)) => Err(self.lost(error)),
            Err(_) => Err(ListenFault::Lost(format!("no connection within {} seconds", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    /// Sends a notification through the pool, as others would, and waits for it.
    async fn hear_ourselves(&self, listener: &mut PgListener, own: &str) -> Result<(), ListenFault> {
        notify(&self.connections, own).await.map_err(|error| ListenFault::Lost(error.to_string()))?;
        let heard = async {
            loop {
                match listener.try_recv().await {
                    Ok(Some(heard)) if heard.channel() == own => return Ok(()),
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(ListenFault::Lost("the connection that listens was closed".to_owned())),
                    Err(error) => return Err(self.lost(error)),
                }
            }
        };
        timeout(PING_TIMEOUT, heard).await.unwrap_or(Err(ListenFault::Silent))
    }

    fn lost(&self, error: sqlx::Error) -> ListenFault {
        ListenFault::Lost(error.to_string())
    }
}

//! Notifies other processes of changes, and listens to theirs.
//!
//! A notification is only a hint, because waiters also poll the rows. So notifications are sent separately after
//! changes, and several changes share one. Inside the change's transaction they would make the server commit
//! transactions one after the other, because notifications are delivered in commit order.

use std::time::Duration;

use sqlx::{PgPool, postgres::PgListener};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::database::notify::{AbortOnDrop, Signal};

const CHANNEL: &str = "acetate_changes";

/// The pause between two notifications; changes in between share one.
const PAUSE: Duration = Duration::from_millis(20);

/// The pause before reconnecting.
const RECONNECT: Duration = Duration::from_secs(2);

pub(super) fn tell_others(pool: PgPool, mut changed: watch::Receiver<u64>) -> AbortOnDrop {
    AbortOnDrop(tokio::spawn(async move {
        while changed.changed().await.is_ok() {
            // Polling finds changes that are lost here, so the commit need not reach the disk.
            let told = sqlx::query("SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')")
                .bind(CHANNEL)
                .execute(&pool)
                .await;
            if let Err(error) = told {
                debug!(%error, "no notification sent");
                tokio::time::sleep(RECONNECT).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }))
}

/// Turns notifications into our own signal, on a separate connection that is reopened when it fails.
pub(super) fn listen(pool: PgPool, signal: Signal) -> AbortOnDrop {
    AbortOnDrop(tokio::spawn(async move {
        loop {
            match hear(&pool, &signal).await {
                Err(sqlx::Error::PoolClosed) => return,
                Err(error) => warn!(%error, "no notifications for now; polling job rows"),
                Ok(()) => {}
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }))
}

async fn hear(pool: &PgPool, signal: &Signal) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // `None` means that the connection was reopened: notifications may have been missed.
        listener.try_recv().await?;
        signal.heard();
    }
}

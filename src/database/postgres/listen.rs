//! Telling other processes of changes, and hearing of theirs.
//!
//! A notification is only a hint: who waits looks at the rows from time to time anyway. So it is sent after the
//! change, on its own and not for each one. Within the change's transaction it would make the server commit one
//! transaction after the other, because notifications are delivered in the order of commits.

use std::time::Duration;

use sqlx::{PgPool, postgres::PgListener};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::database::notify::{AbortOnDrop, Signal};

const CHANNEL: &str = "acetate_changes";

/// Between two notifications: changes in between share one.
const PAUSE: Duration = Duration::from_millis(20);

/// Before a connection that failed is tried again.
const RECONNECT: Duration = Duration::from_secs(2);

pub(super) fn tell_others(pool: PgPool, mut changed: watch::Receiver<u64>) -> AbortOnDrop {
    AbortOnDrop(tokio::spawn(async move {
        while changed.changed().await.is_ok() {
            // What is lost here is found by polling; the commit need not reach the disk.
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

/// Turns notifications into our own signal, on a connection of its own that is made anew when it fails.
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
        // `None` is a connection that was made anew: something may have been missed.
        listener.try_recv().await?;
        signal.heard();
    }
}

//! Finds out whether a pooler in transaction mode stands before the server.
//!
//! No command asks for this, and poolers hide themselves. So this looks at what they do: two connections never have the
//! same session, and none ever has another one, if each has its own.

use std::time::Duration;

use sqlx::{PgConnection, Row};
use tokio::time::timeout;

use super::{
    connect::ConnectError,
    fault::{Fault, fault},
    pool::Connections,
    session::Mode,
};
use crate::job::JobError;

/// A session-mode pooler may have no second session for us, and lets us wait.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Which of two connections is asked. A pooler that hands out its sessions in turn never does it in this order.
const TURNS: [usize; 8] = [0, 1, 1, 0, 1, 0, 0, 1];

impl Connections {
    /// Sets the mode of the sessions if it is unknown. If it cannot be found out now, it stays unknown.
    pub(super) async fn find_out(&self) -> Result<(), JobError> {
        if self.mode() != Mode::Unknown {
            return Ok(());
        }
        let connector = self.connector();
        // The second is beside the pool: it counts as the connection that listens, which does not exist before this is
        // known.
        let (first, second) = tokio::join!(self.lend(), timeout(TIMEOUT, connector.connect()));
        let mut first = first?;
        let Ok(Ok(mut second)) = second else {
            first.give_back();
            return Ok(());
        };
        let looked = timeout(TIMEOUT, are_shared(first.connection(), &mut second)).await;
        let shared = match looked {
            Ok(Ok(shared)) => shared,
            Ok(Err(error)) if fault(&error) == Fault::Connection => {
                return Err(connector.error(ConnectError::Server(error)));
            }
            // They stay as they are, and are closed.
            Ok(Err(_)) | Err(_) => return Ok(()),
        };
        if shared {
            connector.sessions.set_mode(Mode::Shared);
            first.give_back();
        } else if connector.prepare_session(first.connection()).await.is_ok() {
            connector.sessions.set_mode(Mode::Own);
            self.replace_others();
            first.give_back();
        }
        Ok(())
    }
}

/// No transaction is held while the other connection is asked: through a small pooler, processes that start together
/// would wait for each other.
async fn are_shared(first: &mut PgConnection, second: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let mut seen = [None; 2];
    for turn in TURNS {
        let connection = if turn == 0 { &mut *first } else { &mut *second };
        let row = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?;
        // The process in the server that serves this connection at this moment.
        let session: i32 = row.try_get(0)?;
        if seen[turn].is_some_and(|known| known != session) || seen[1 - turn] == Some(session) {
            return Ok(true);
        }
        seen[turn] = Some(session);
    }
    Ok(false)
}

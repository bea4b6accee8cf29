//! Finds out whether a pooler in transaction mode stands before the server.
//!
//! No command asks for this, and poolers hide themselves. So this looks at what they do: while one connection holds a
//! transaction, two connections never have the same session if each has its own.

use std::time::Duration;

use sqlx::{PgConnection, Row};
use tokio::time::timeout;

use super::{
    connect::{ConnectError, run},
    fault::{Fault, fault},
    pool::Connections,
    session::Mode,
};
use crate::job::JobError;

/// A session-mode pooler may have no second session for us, and lets us wait.
const PATIENCE: Duration = Duration::from_secs(3);
/// Other clients may take turns with us by chance, so one look is not enough.
const ROUNDS: usize = 3;

impl Connections {
    /// Sets the mode of the sessions if it is unknown. If it cannot be found out now, it stays unknown.
    pub(super) async fn find_out(&self) -> Result<(), JobError> {
        if self.mode() != Mode::Unknown {
            return Ok(());
        }
        let connector = self.connector();
        // The second is beside the pool: it counts as the connection that listens, which does not exist before this is
        // known.
        let (first, second) = tokio::join!(self.lend(), timeout(PATIENCE, connector.connect()));
        let mut first = first?;
        let Ok(Ok(mut second)) = second else {
            first.give_back();
            return Ok(());
        };
        let looked = timeout(PATIENCE, are_shared(first.connection(), &mut second)).await;
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

async fn are_shared(first: &mut PgConnection, second: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let known = session(first, "SELECT pg_backend_pid()").await?;
    for _ in 0..ROUNDS {
        if session(second, "BEGIN; SELECT pg_backend_pid()").await? == known {
            run(second, "ROLLBACK".into()).await?;
            return Ok(true);
        }
        let again = session(first, "SELECT pg_backend_pid()").await?;
        run(second, "ROLLBACK".into()).await?;
        if again != known {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The process in the server that serves this connection at this moment.
async fn session(connection: &mut PgConnection, sql: &'static str) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql(sql).fetch_one(connection).await?.try_get(0)
}

//! The connections: opening, timeouts and the meaning of errors.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use sqlx::{
    PgPool, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, PgSslMode},
    query::Query,
};
use tokio::{net::TcpStream, time::timeout};

use super::{listen, migrate::migrate};
use crate::{
    database::{
        Changes, OutboxMode, PostgresUrl,
        notify::{AbortOnDrop, Signal},
    },
    job::JobError,
};

/// Heartbeats, the relay and a few jobs at a time need no more, and many workers share the server's connections.
const MOST_CONNECTIONS: u32 = 10;

/// How long to wait for a connection, new or from the pool.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The server's statement timeout.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait for a reply; by then the server would have stopped the statement.
const REPLY_TIMEOUT: Duration = Duration::from_secs(40);

/// Job rows in a Postgres database, in the first schema of its search path; clones share the connections.
#[derive(Debug, Clone)]
pub struct PostgresJobStore {
    pub(super) pool: PgPool,
    pub(super) mode: OutboxMode,
    pub(super) signal: Signal,
    place: Arc<str>,
    /// Notifies other processes of our changes.
    _teller: Arc<AbortOnDrop>,
    /// Listens to their notifications once there is a waiter; this uses one connection of the pool.
    listener: Arc<OnceLock<AbortOnDrop>>,
}

impl PostgresJobStore {
    /// Connects and migrates the tables.
    pub async fn open(url: &PostgresUrl, mode: OutboxMode) -> Result<Self, JobError> {
        let place: Arc<str> = url.to_string().into();
        let options = options(url);
        reach(&options).await.map_err(|error| database(&place, error))?;
        let pool = PgPoolOptions::new()
            .max_connections(MOST_CONNECTIONS)
            .acquire_timeout(CONNECT_TIMEOUT)
            .test_before_acquire(true)
            .connect_lazy_with(options);
        let mut first = pool.acquire().await.map_err(|error| database(&place, error))?;
        migrate(&mut first).await.map_err(|reason| JobError::database(format!("{place}: {reason}")))?;
        drop(first);

        let signal = Signal::default();
        let teller = listen::tell_others(pool.clone(), signal.own());
        Ok(Self { pool, mode, signal, place, _teller: Arc::new(teller), listener: Arc::default() })
    }

    pub fn place(&self) -> String {
        self.place.to_string()
    }

    pub async fn close(&self) {
        // Does not wait for hanging connections.
        let _ = timeout(CONNECT_TIMEOUT, self.pool.close()).await;
    }

    pub async fn ping(&self) -> Result<(), JobError> {
        self.one(sqlx::query("SELECT 1")).await.map(drop)
    }

    pub fn changes(&self) -> Changes {
        self.listener.get_or_init(|| listen::listen(self.pool.clone(), self.signal.clone()));
        self.signal.changes()
    }

    pub(super) fn service(&self) -> bool {
        self.mode == OutboxMode::Service
    }

    /// The first row, if there is one.
    pub(super) async fn one(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Option<PgRow>, JobError> {
        Ok(self.all(query).await?.into_iter().next())
    }

    /// All rows of one statement, which is its own transaction. All statements go through here, so that a silently dead
    /// connection costs only one deadline: it is discarded together with the statement.
    pub(super) async fn all(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, JobError> {
        let mut connection = self.pool.acquire().await.map_err(|error| database(&self.place, error))?;
        match timeout(REPLY_TIMEOUT, query.fetch_all(&mut *connection)).await {
            Ok(rows) => rows.map_err(|error| database(&self.place, error)),
            Err(_) => {
                connection.close_on_drop();
                Err(no_answer(&self.place, REPLY_TIMEOUT))
            }
        }
    }

    pub(super) async fn execute(&self, query: Query<'_, Postgres, PgArguments>) -> Result<u64, JobError> {
        let mut connection = self.pool.acquire().await.map_err(|error| database(&self.place, error))?;
        match timeout(REPLY_TIMEOUT, query.execute(&mut *connection)).await {
            Ok(done) => Ok(done.map_err(|error| database(&self.place, error))?.rows_affected()),
            Err(_) => {
                connection.close_on_drop();
                Err(no_answer(&self.place, REPLY_TIMEOUT))
            }
        }
    }
}

/// Checks that a server is listening. The pool would retry until its timeout, and then report only the timeout.
async fn reach(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    if options.get_socket().is_some() {
        return Ok(());
    }
    match timeout(CONNECT_TIMEOUT, TcpStream::connect((options.get_host(), options.get_port()))).await {
        Ok(connected) => connected.map(drop).map_err(sqlx::Error::Io),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

fn options(url: &PostgresUrl) -> PgConnectOptions {
    let ms = |duration: Duration| duration.as_millis().to_string();
    let mut options = url.0.clone().application_name("acetate");
    // TLS between two processes on one machine protects nothing, and its handshake costs 90 ms.
    if matches!(options.get_ssl_mode(), PgSslMode::Prefer) && is_loopback(options.get_host()) {
        options = options.ssl_mode(PgSslMode::Disable);
    }
    options.options([
        ("statement_timeout", ms(STATEMENT_TIMEOUT)),
        ("idle_in_transaction_session_timeout", ms(STATEMENT_TIMEOUT)),
        // A client that is cut off must not hold its locks for the hours until TCP notices.
        ("tcp_keepalives_idle", "30".to_owned()),
        ("tcp_keepalives_interval", "10".to_owned()),
        ("tcp_keepalives_count", "3".to_owned()),
    ])
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn no_answer(place: &str, waited: Duration) -> JobError {
    let reason = format!("{place} did not respond for {} seconds; is the server healthy?", waited.as_secs());
    JobError::database(reason)
}

/// The server's message, with advice for the usual errors.
pub(super) fn database(place: &str, error: sqlx::Error) -> JobError {
    JobError::database(format!("{place}: {}", explain(&error))).caused_by(error)
}

pub(super) fn explain(error: &sqlx::Error) -> String {
    let advice = match error {
        sqlx::Error::Database(error) => match error.code().as_deref().unwrap_or_default() {
            "28000" if error.message().contains("no encryption") => {
                "this server requires TLS: add ?sslmode=require to ACETATE__STATUS__URL"
            }
            "28P01" | "28000" => "check the user and password in ACETATE__STATUS__URL",
            "3D000" => "create the database with `createdb`, or name another one in ACETATE__STATUS__URL",
            "3F000" => "make the schema that the search path names with `CREATE SCHEMA`",
            "42501" => {
                "give this user the permission, or let the database's owner start acetate once to create the tables"
            }
            "42P01" | "42703" | "42883" => "its tables do not match this version; restart acetate to migrate them",
            "53300" => "the server has no free connections; raise its `max_connections` or start fewer workers",
            "53100" => "the server's disk is full; free some space and try again",
            "57014" => "the statement took too long; is the server overloaded?",
            "57P01" | "57P02" | "57P03" => "the server is stopping or starting; acetate retries",
            "25006" => "this server is a read-only replica; name the primary in ACETATE__STATUS__URL",
            _ => return error.message().to_owned(),
        },
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => {
            "is the server running, and does ACETATE__STATUS__URL name it?"
        }
        sqlx::Error::Tls(_) => "add ?sslmode=disable to ACETATE__STATUS__URL if the server does not use TLS",
        _ => return error.to_string(),
    };
    match error {
        sqlx::Error::Database(error) => format!("{}; {advice}", error.message()),
        sqlx::Error::PoolTimedOut => {
            format!("no connection within {} seconds; {advice}", CONNECT_TIMEOUT.as_secs())
        }
        other => format!("{other}; {advice}"),
    }
}

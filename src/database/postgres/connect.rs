//! New connections: the hosts in turn, until one is acceptable.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row};
use tokio::time::{Instant, sleep, timeout};

use super::{
    fault::{explain, passes_soon},
    session::{Mode, Sessions},
    timeline::{self, Newest, Primary},
};
use crate::{
    database::{PostgresUrl, postgres_options::SessionAttributes, postgres_url::Host},
    job::{JobError, JobId},
};

/// How long to wait for the only host, and for each of several.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HOST_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before a server that is full or starting is asked again.
const PAUSE: Duration = Duration::from_millis(250);

/// Makes connections to one database.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) url: PostgresUrl,
    pub(super) sessions: Sessions,
    /// Whether there has been a connection.
    reached: AtomicBool,
    pub(super) newest: Newest,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    Server(sqlx::Error),
    NoAnswer(Duration),
    /// Texts of jobs are Unicode; in another encoding some cannot be stored.
    Encoding {
        database: String,
        encoding: String,
    },
    /// The server is not what `target_session_attrs` asks for.
    ReadOnly,
    File {
        parameter: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    /// It accepts writes, but another host was promoted after it.
    Overtaken {
        by: String,
    },
    /// What each of several hosts said.
    Hosts(Vec<(String, Self)>),
}

impl Connector {
    pub(super) fn new(url: &PostgresUrl) -> Self {
        let mode = if url.pooled { Mode::Shared } else { Mode::Unknown };
        let sessions = Sessions::new(&url.settings, mode);
        Self { url: url.clone(), sessions, reached: AtomicBool::new(false), newest: Newest::default() }
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, ConnectError> {
        self.connect_to_one().await.map(|(connection, _)| connection)
    }

    /// A connection, and the host that it leads to. A server that is full, or restarts, is waited for.
    pub(super) async fn connect_to_one(&self) -> Result<(PgConnection, &Host), ConnectError> {
        let deadline = Instant::now() + self.url.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        loop {
            match self.ask_each().await {
                Ok(found) => {
                    self.reached.store(true, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(error) if self.passes_soon(&error) && Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }

    fn passes_soon(&self, error: &ConnectError) -> bool {
        let reached = self.reached.load(Ordering::Relaxed);
        match error {
            ConnectError::Server(error) => passes_soon(error, reached),
            // A replica that is about to be promoted.
            ConnectError::ReadOnly => reached,
            ConnectError::Hosts(hosts) => hosts.iter().any(|(_, error)| self.passes_soon(error)),
            ConnectError::NoAnswer(_)
            | ConnectError::Encoding { .. }
            | ConnectError::File { .. }
            | ConnectError::Overtaken { .. } => false,
        }
    }

    async fn ask_each(&self) -> Result<(PgConnection, &Host), ConnectError> {
        self.check_files().await?;
        let mut refused = Vec::new();
        for host in self.in_order() {
            match self.reach(host).await {
                Ok((connection, primary)) => match primary.map_or(Ok(()), |primary| self.newest.see(primary)) {
                    Ok(()) => return Ok((connection, host)),
                    Err(newer) => refused.push((host.place(), ConnectError::Overtaken { by: newer.place })),
                },
                // The others have the same database.
                Err(error @ ConnectError::Encoding { .. }) => return Err(error),
                Err(error) => refused.push((host.place(), error)),
            }
        }
        Err(match <[_; 1]>::try_from(refused) {
            Ok([(_, error)]) => error,
            Err(refused) => ConnectError::Hosts(refused),
        })
    }

    /// Named files are read at each connection; a missing one would be reported without its name.
    async fn check_files(&self) -> Result<(), ConnectError> {
        for (parameter, path) in &self.url.files {
            let wrong = |error| ConnectError::File { parameter, path: path.clone(), error };
            // Opening a pipe would wait for a writer.
            if !tokio::fs::metadata(path).await.map_err(wrong)?.is_file() {
                return Err(wrong(io::Error::other("it is not a regular file, or a link to one")));
            }
            tokio::fs::File::open(path).await.map_err(wrong)?;
        }
        Ok(())
    }

    fn in_order(&self) -> Vec<&Host> {
        let mut hosts: Vec<&Host> = self.url.hosts.iter().collect();
        if self.url.shuffled {
            // Any source of chance will do.
            hosts.sort_by_cached_key(|_| JobId::new().to_string().chars().rev().collect::<String>());
        }
        hosts
    }

    /// Asks all of several hosts which timeline they are at, and returns what is wrong if more than one accepts writes.
    pub(super) async fn compare_hosts(&self) -> Option<String> {
        if self.url.hosts.len() < 2 {
            return None;
        }
        let asked = self.url.hosts.iter().map(|host| timeout(timeline::ANSWER, self.try_once(host)));
        let answers = join_all(asked).await.into_iter().filter_map(|answer| answer.ok()?.ok()?.1);
        let primaries: Vec<Primary> = answers.collect();
        for primary in &primaries {
            let _ = self.newest.see(primary.clone());
        }
        timeline::several(&primaries)
    }

    async fn reach(&self, host: &Host) -> Result<(PgConnection, Option<Primary>), ConnectError> {
        let usual = if self.url.hosts.len() == 1 { CONNECT_TIMEOUT } else { HOST_TIMEOUT };
        let limit = self.url.connect_timeout.unwrap_or(usual);
        timeout(limit, self.try_once(host)).await.unwrap_or(Err(ConnectError::NoAnswer(limit)))
    }

    /// With several hosts, also what it is if it accepts writes.
    async fn try_once(&self, host: &Host) -> Result<(PgConnection, Option<Primary>), ConnectError> {
        let mut connection = host.options.connect().await.map_err(ConnectError::Server)?;
        let mut sql = "SELECT current_database()::TEXT, current_setting('server_encoding'),
                              current_setting('transaction_read_only'), pg_is_in_recovery()::TEXT"
            .to_owned();
        if self.sessions.mode() == Mode::Own {
            sql = format!("{sql}; {}", self.sessions.settings());
        }
        let seen = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection).await.map_err(ConnectError::Server)?;
        let text = |column: usize| -> Result<String, ConnectError> {
            let row = seen.first().ok_or(ConnectError::Server(sqlx::Error::RowNotFound))?;
            row.try_get(column).map_err(ConnectError::Server)
        };
        let encoding = text(1)?;
        if encoding != "UTF8" {
            return Err(ConnectError::Encoding { database: text(0)?, encoding });
        }
        let acceptable = match self.url.target {
            SessionAttributes::Any => true,
            SessionAttributes::Writable => text(2)? == "off",
            SessionAttributes::Primary => text(3)? == "false",
        };
        if !acceptable {
            let _ = connection.close().await;
            return Err(ConnectError::ReadOnly);
        }
        let primary = match self.url.hosts.len() > 1 && text(3)? == "false" {
            true => Primary::ask(host.place(), &mut connection).await,
            false => None,
        };
        Ok((connection, primary))
    }

    /// Applies the settings to a connection that was made before it was known to have a session of its own.
    pub(super) async fn prepare_session(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        run(connection, self.sessions.settings()).await
    }

    pub(super) fn error(&self, error: ConnectError) -> JobError {
        let url = &self.url;
        match error {
            ConnectError::Encoding { .. } | ConnectError::File { .. } => {
                JobError::invalid("status.url", self.reason(&error))
            }
            ConnectError::Server(source) => {
                JobError::database(format!("{url}: {}", explain(url, &source))).caused_by(source)
            }
            error => JobError::database(format!("{url}: {}", self.reason(&error))),
        }
    }

    fn reason(&self, error: &ConnectError) -> String {
        match error {
            ConnectError::Server(error) => explain(&self.url, error),
            ConnectError::NoAnswer(limit) => format!(
                "no connection within {} seconds; is the server running, does ACETATE__STATUS__URL name it, and does a \
                 pooler before it have free connections?",
                limit.as_secs()
            ),
            ConnectError::Encoding { database, encoding } => format!(
                "the database {database} has the encoding {encoding}, which cannot store every text; make one with \
                 `createdb --template=template0 --encoding=UTF8 NAME` and name it"
            ),
            ConnectError::ReadOnly => {
                "is a replica or read-only, and target_session_attrs wants the primary".to_owned()
            }
            ConnectError::Overtaken { by } => {
                format!("accepts writes, but {by} was promoted after it; stop it, or make it a replica")
            }
            ConnectError::File { parameter, path, error } => {
                format!("{parameter}={}: {error}", path.display())
            }
            ConnectError::Hosts(hosts) => {
                let said: Vec<_> =
                    hosts.iter().map(|(place, error)| format!("{place}: {}", self.reason(error))).collect();
                format!("no host can be used: {}", said.join("; "))
            }
        }
    }
}

/// Statements without values, as one message.
pub(super) async fn run(connection: &mut PgConnection, sql: Arc<str>) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

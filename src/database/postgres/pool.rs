//! The connections of this process, and the one way in which statements are run on them.

use std::{
    collections::HashMap,
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool::managed::{self, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult};
use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Connection, Either, Execute, Executor, PgConnection, Postgres, SqlStr,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    connect::{CONNECT_TIMEOUT, ConnectError, Connector, run},
    fault::{Fault, fault, no_answer, statement_error, stays},
    session::{Mode, Sessions},
};
use crate::job::JobError;

/// How long to wait for a reply; by then the server would have stopped the statement.
const REPLY_TIMEOUT: Duration = Duration::from_secs(40);
/// After this time, it is said that a reply is waited for.
const SAY_AFTER: Duration = Duration::from_secs(5);
/// How long an idle connection may take to show that it is alive.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a failed write counts although the tables can be written to: it fails for a reason of its own.
const STAYS_FOR: Duration = Duration::from_secs(10);
/// So many different statements are remembered.
const MOST_FAILED: usize = 100;
/// Stands for [`Connections::try_to_write`].
const TRIAL: &str = "trial";
/// How often a statement that another transaction was in the way of is repeated, each time after a longer pause.
const MOST_CONFLICTS: u32 = 8;
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);
/// Idle connections are closed after a while: through a pooler, each may hold one of the server's.
const LONGEST_IDLE: Duration = Duration::from_secs(60);
/// After this time a connection is replaced, so that it follows changes of names and certificates.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Clones share the connections.
#[derive(Clone)]
pub(super) struct Connections(Arc<PoolInner>);

struct PoolInner {
    pool: managed::Pool<Manager>,
    most: u32,
    /// The writes that failed and have not succeeded since, by their statement: another one that succeeds, such as a
    /// heartbeat, says nothing about them.
    failed: Mutex<HashMap<String, FailedWrite>>,
    replaced: AtomicU64,
    listener_lost: AtomicU64,
}

struct FailedWrite {
    error: JobError,
    at: Instant,
    /// See [`stays`].
    stays: bool,
}

/// What a statement returned.
#[derive(Default)]
pub(super) struct StatementResult {
    pub(super) rows: Vec<PgRow>,
    pub(super) affected: u64,
}

/// Something to run once, and again on another connection.
enum PoolStatement<'a> {
    Statement {
        sql: SqlStr,
        arguments: PgArguments,
    },
    /// Statements without values, in a transaction that is rolled back.
    Trial(&'a str),
}

impl Connections {
    /// `most` counts the connection that listens, too. Connects nothing yet.
    pub(super) fn new(connector: Connector, most: u32) -> Result<Self, JobError> {
        let manager = Manager { connector: Arc::new(connector), stale: Mutex::default() };
        let size = usize::try_from(most.saturating_sub(1).max(1)).unwrap_or(1);
        let pool = managed::Pool::builder(manager)
            .max_size(size)
            .wait_timeout(Some(CONNECT_TIMEOUT))
            // The others age, so that they can be closed.
            .queue_mode(QueueMode::Lifo)
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| JobError::database(error.to_string()))?;
        let inner = PoolInner {
            pool,
            most,
            failed: Mutex::default(),
            replaced: AtomicU64::default(),
            listener_lost: AtomicU64::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    pub(super) fn connector(&self) -> &Arc<Connector> {
        &self.0.pool.manager().connector
    }

    pub(super) fn mode(&self) -> Mode {
        self.connector().sessions.mode()
    }

    /// Runs one statement, which is its own transaction. Statements are made to be repeated: if the connection turns
    /// out to be useless, this runs it once more on a new one.
    pub(super) async fn run(&self, mut query: Query<'_, Postgres, PgArguments>) -> Result<StatementResult, JobError> {
        let arguments = query.take_arguments().map_err(|error| self.wrong(sqlx::Error::Encode(error)))?;
        let sql = query.sql();
        let writes = !sql.as_str().trim_start_matches('(').starts_with("SELECT");
        let written = writes.then(|| sql.clone());
        let result = self.work(PoolStatement::Statement { sql, arguments: arguments.unwrap_or_default() }).await;
        if let Some(sql) = written {
            self.note(sql.as_str(), result.as_ref().err());
        }
        result
    }

    /// Runs statements, and rolls them back.
    pub(super) async fn try_statements(&self, sql: &str) -> Result<(), JobError> {
        self.work(PoolStatement::Trial(sql)).await.map(drop)
    }

    /// Runs statements that write to the tables, and rolls them back. If they succeed, writes that have failed may
    /// succeed again.
    pub(super) async fn try_to_write(&self, sql: &str) -> Result<(), JobError> {
        let result = self.try_statements(sql).await;
        self.note(TRIAL, result.as_ref().err());
        if result.is_ok() {
            self.failed().retain(|_, failed| failed.stays && failed.at.elapsed() < STAYS_FOR);
        }
        result
    }

    /// Why the last of the writes failed that have not succeeded since.
    pub(super) fn failed_write(&self) -> Option<JobError> {
        self.failed().values().max_by_key(|failed| failed.at).map(|failed| failed.error.clone())
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<String, FailedWrite>> {
        self.0.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, sql: &str, error: Option<&JobError>) {
        let mut failed = self.failed();
        match error {
            None if failed.is_empty() => {}
            None => drop(failed.remove(sql)),
            Some(error) if error.is_transient() => {
                if failed.len() < MOST_FAILED || failed.contains_key(sql) {
                    let write = FailedWrite { error: error.clone(), at: Instant::now(), stays: stays(error) };
                    failed.insert(sql.to_owned(), write);
                }
            }
            // Values that cannot be stored say nothing about the database.
            Some(_) => {}
        }
    }

    async fn work(&self, work: PoolStatement<'_>) -> Result<StatementResult, JobError> {
        let (mut last_try, mut conflicts) = (false, 0);
        loop {
            let mut lent = self.lend().await?;
            let (sessions, mode) = (&self.connector().sessions, self.mode());
            let done = timeout(REPLY_TIMEOUT, self.with_wait_log(work.once(lent.connection(), sessions)));
            let Ok(done) = done.await else {
                // Dropped here, together with the statement.
                return Err(no_answer(&self.connector().url, REPLY_TIMEOUT));
            };
            let (error, clean) = match done {
                Ok(answer) => {
                    lent.give_back();
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            let fault = fault(&error);
            match fault {
                Fault::Conflict if conflicts < MOST_CONFLICTS => {
                    if clean {
                        lent.give_back();
                    }
                    conflicts += 1;
                    debug!(%error, "the statement is repeated");
                    tokio::time::sleep(CONFLICT_PAUSE * conflicts).await;
                    continue;
                }
                Fault::Data | Fault::Conflict | Fault::Statement => {
                    if clean {
                        lent.give_back();
                    }
                    return Err(self.wrong(error));
                }
                Fault::Connection | Fault::Broken => {}
                Fault::Failover => self.0.pool.manager().replace_all(),
                Fault::SharedSession => {
                    if mode == Mode::Own {
                        warn!(
                            "{} is behind a pooler in transaction mode; statements are no longer prepared",
                            self.connector().url
                        );
                        sessions.set_mode(Mode::Shared);
                    }
                }
            }
            self.0.replaced.fetch_add(1, Ordering::Relaxed);
            if last_try || fault == Fault::Broken {
                return Err(self.wrong(error));
            }
            debug!(%error, "the connection is replaced, and the statement repeated");
            last_try = true;
        }
    }

    /// Says that a statement takes long, so that the user of a command knows what it waits for.
    async fn with_wait_log<T>(&self, done: impl Future<Output = T>) -> T {
        let mut done = pin!(done);
        match timeout(SAY_AFTER, &mut done).await {
            Ok(done) => done,
            Err(_) => {
                warn!(
                    "{}: waiting for the database for more than {} seconds; another session may hold a lock, which \
                     pg_stat_activity shows there (wait_event_type = 'Lock', pg_blocking_pids(pid))",
                    self.connector().url,
                    SAY_AFTER.as_secs()
                );
                done.await
            }
        }
    }

    /// A connection that is alive. It is closed unless [`Lent::give_back`] is called, also when the caller is dropped
    /// in the middle of a transaction.
    pub(super) async fn lend(&self) -> Result<Lent, JobError> {
        let url = &self.connector().url;
        match self.0.pool.get().await {
            Ok(object) => Ok(Lent { object, clean: false }),
            Err(PoolError::Backend(error)) => Err(self.connector().error(error)),
            Err(PoolError::Timeout(_)) => Err(JobError::database(format!(
                "{url}: all connections of this process have been busy for {} seconds; raise status.max_connections ({}), \
                 or look for slow statements in the server",
                CONNECT_TIMEOUT.as_secs(),
                self.0.most
            ))),
            Err(PoolError::Closed) => Err(JobError::database(format!("{url}: the connections are closed"))),
            Err(error @ (PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_))) => {
                Err(JobError::database(format!("{url}: {error:?}")))
            }
        }
    }

    /// Connections that were made before the mode was known have no settings.
    pub(super) fn replace_others(&self) {
        if self.0.pool.status().size > 1 {
            self.0.pool.manager().replace_all();
        }
    }

    /// Closes connections that have been idle for a while, or are old.
    pub(super) async fn close_idle(&self) {
        let keep =
            |_: &PooledConnection, metrics: Metrics| metrics.last_used() < LONGEST_IDLE && metrics.age() < LIFETIME;
        close_all(self.0.pool.retain(keep).removed).await;
    }

    pub(super) async fn close(&self) {
        let idle = self.0.pool.retain(|_, _| false).removed;
        self.0.pool.close();
        close_all(idle).await;
    }

    /// How many connections were replaced because the server went away or changed its role.
    pub(super) fn replaced(&self) -> u64 {
        self.0.replaced.load(Ordering::Relaxed)
    }

    pub(super) fn listener_lost(&self) -> &AtomicU64 {
        &self.0.listener_lost
    }

    fn wrong(&self, error: sqlx::Error) -> JobError {
        statement_error(&self.connector().url, error)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connections({})", self.connector().url)
    }
}

impl PoolStatement<'_> {
    /// After an error, also whether the connection is in no transaction.
    async fn once(
        &self,
        connection: &mut PgConnection,
        sessions: &Sessions,
    ) -> Result<StatementResult, (sqlx::Error, bool)> {
        if let PoolStatement::Statement { sql, arguments } = self
            && sessions.mode() == Mode::Own
        {
            return ask(connection, sql, arguments, true).await.map_err(|error| (error, true));
        }
        let (tried, end) = match run(connection, sessions.begin()).await {
            Err(error) => (Err(error), "ROLLBACK"),
            Ok(()) => match self {
                PoolStatement::Statement { sql, arguments } => match ask(connection, sql, arguments, false).await {
                    Ok(answer) => (Ok(answer), "COMMIT"),
                    Err(error) => (Err(error), "ROLLBACK"),
                },
                PoolStatement::Trial(sql) => {
                    let tried = sqlx::raw_sql(AssertSqlSafe(*sql)).execute(&mut *connection).await;
                    (tried.map(|_| StatementResult::default()), "ROLLBACK")
                }
            },
        };
        match (tried, run(connection, end.into()).await) {
            (Ok(answer), Ok(())) => Ok(answer),
            (Ok(_), Err(error)) => Err((error, false)),
            (Err(error), ended) => Err((error, ended.is_ok())),
        }
    }
}

/// The rows of one statement. Named, it is prepared once for the session.
async fn ask(
    connection: &mut PgConnection,
    sql: &SqlStr,
    arguments: &PgArguments,
    named: bool,
) -> Result<StatementResult, sqlx::Error> {
    let query = sqlx::query_with::<Postgres, _>(sql.clone(), arguments.clone()).persistent(named);
    let mut answer = StatementResult::default();
    let mut steps = connection.fetch_many(query);
    while let Some(step) = steps.try_next().await? {
        match step {
            Either::Left(done) => answer.affected += done.rows_affected(),
            Either::Right(row) => answer.rows.push(row),
        }
    }
    Ok(answer)
}

async fn close_all(sessions: Vec<PooledConnection>) {
    for connection in sessions.into_iter().filter_map(|session| session.connection) {
        // Does not wait for hanging connections.
        let _ = timeout(PING_TIMEOUT, connection.close()).await;
    }
}

/// A connection from the pool, which goes back there only if it is said so.
pub(super) struct Lent {
    object: Object<Manager>,
    clean: bool,
}

impl Lent {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.object.connection.as_mut().unwrap_or_else(|| unreachable!("only the drop takes it"))
    }

    /// It is in no transaction, and nothing is under way.
    pub(super) fn give_back(mut self) {
        self.clean = true;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.clean {
            // Closes it now, so that no transaction stays open.
            self.object.connection = None;
        }
    }
}

/// Makes connections for the pool, and looks at idle ones before they are used.
struct Manager {
    connector: Arc<Connector>,
    /// Connections that are older lead to a server that has changed its role, or does not respond.
    stale: Mutex<Option<Instant>>,
}

pub(super) struct PooledConnection {
    /// Absent after something was left unfinished on it.
    connection: Option<PgConnection>,
    made: Instant,
}

impl Manager {
    fn replace_all(&self) {
        *self.stale.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_stale(&self, session: &PooledConnection) -> bool {
        let stale = *self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        let overtaken = self.connector.newest.changed();
        [stale, overtaken].into_iter().flatten().any(|stale| session.made <= stale)
    }
}

impl managed::Manager for Manager {
    type Type = PooledConnection;
    type Error = ConnectError;

    async fn create(&self) -> Result<PooledConnection, ConnectError> {
        let made = Instant::now();
        Ok(PooledConnection { connection: Some(self.connector.connect().await?), made })
    }

    async fn recycle(&self, session: &mut PooledConnection, _: &Metrics) -> RecycleResult<ConnectError> {
        if self.is_stale(session) || session.made.elapsed() > LIFETIME {
            return Err(RecycleError::message("it is old"));
        }
        let Some(connection) = &mut session.connection else { return Err(RecycleError::message("it was cut off")) };
        match timeout(PING_TIMEOUT, connection.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(RecycleError::Backend(ConnectError::Server(error))),
            Err(_) => {
                // The others lead the same way, and each would cost as much time.
                self.replace_all();
                Err(RecycleError::Backend(ConnectError::NoAnswer(PING_TIMEOUT)))
            }
        }
    }
}

//! What an error of the server means: for the statement, for the connection, and in words.

use std::{io, time::Duration};

use sqlx::{
    error::DatabaseError,
    postgres::{PgDatabaseError, PgSeverity},
};

use super::tables::{LINEAGE, MISSING};
use crate::{
    database::PostgresUrl,
    job::{JobError, NO_OPEN_FILES, certificate_advice, lacks_open_files},
};

/// What is to be done after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The statement's values are at fault; no server would take them.
    Data,
    /// The connection is of no more use: the server is going away, or has become a replica. The statement may be
    /// repeated on another one.
    Connection,
    /// As [`Fault::Connection`], and the same holds for all connections that were made before.
    Failover,
    /// The server does not have what this connection prepared: a pooler gives each transaction another session.
    SharedSession,
    /// Another transaction was in the way. The connection can be used, and the statement may be repeated.
    Conflict,
    /// The statement failed, the connection can be used.
    Statement,
    /// The statement failed, and the connection is broken; repeating it would fail again.
    Broken,
}

/// By SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(super) fn fault(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            let fatal = error
                .try_downcast_ref::<PgDatabaseError>()
                .is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic));
            match &*code {
                "25006" => Fault::Failover,
                // A transaction that was left open belongs to nobody who asks now.
                "57P01" | "57P02" | "57P03" | "57P05" | "25P02" => Fault::Connection,
                // Named statements exist per session: missing, or there already.
                "26000" | "42P05" => Fault::SharedSession,
                // A serialization failure, and a deadlock.
                "40001" | "40P01" => Fault::Conflict,
                // A newer version has changed the tables.
                "0A000" if routine(error.as_ref()) == "RevalidateCachedQuery" => Fault::Connection,
                code if code.starts_with("08") => Fault::Connection,
                // Data exceptions, integrity constraints, and values larger than an index can hold.
                code if code.starts_with("22") || code.starts_with("23") || code == "54000" => Fault::Data,
                _ if fatal => Fault::Broken,
                _ => Fault::Statement,
            }
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => Fault::Connection,
        sqlx::Error::Tls(_) | sqlx::Error::WorkerCrashed => Fault::Broken,
        // Errors of this program, before anything was sent or after everything was received.
        _ => Fault::Statement,
    }
}

/// Whether a write will probably fail again although others succeed, such as without room in one tablespace. Missing
/// tables and rights are seen by a check of their own; locks and connections pass.
pub(super) fn stays(error: &JobError) -> bool {
    let JobError::Database { source: Some(cause), .. } = error else { return false };
    cause.downcast_ref::<sqlx::Error>().is_some_and(|error| {
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
        fault(error) == Fault::Statement
            && error.as_database_error().is_some()
            && !matches!(&*code, "42501" | "42P01" | "55P03" | "57014")
    })
}

/// The function of the server that raised the error. Unlike the message, it is the same in every language
/// (`lc_messages`). Empty for a pooler's errors.
fn routine(error: &dyn DatabaseError) -> &str {
    error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::routine).unwrap_or_default()
}

/// The error of a statement.
pub(super) fn statement_error(url: &PostgresUrl, error: sqlx::Error) -> JobError {
    match fault(&error) {
        Fault::Data => {
            let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
            let reason =
                error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
            JobError::invalid("request", format!("the job database cannot store it ({code}: {reason})"))
        }
        Fault::Connection
        | Fault::Failover
        | Fault::SharedSession
        | Fault::Conflict
        | Fault::Statement
        | Fault::Broken => JobError::database(format!("{url}: {}", explain(url, &error))).caused_by(error),
    }
}

pub(super) fn no_answer(url: &PostgresUrl, waited: Duration) -> JobError {
    let seconds = waited.as_secs();
    JobError::database(format!(
        "{url} did not respond for {seconds} seconds; is the server healthy, and does a pooler before it have free \
         connections (at least two)? Behind pgpool, set load_balance_mode = off"
    ))
}

/// Whether a new connection may be accepted in a moment. `reached`: there has been one, so the address is right.
pub(super) fn passes_soon(error: &sqlx::Error, reached: bool) -> bool {
    match error {
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("53300" | "57P03")),
        sqlx::Error::Io(error) => {
            let away = [
                io::ErrorKind::ConnectionRefused,
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::UnexpectedEof,
                // The socket of a server that restarts.
                io::ErrorKind::NotFound,
            ];
            reached && away.contains(&error.kind())
        }
        _ => false,
    }
}

/// The server's message, with advice for the usual errors.
pub(super) fn explain(url: &PostgresUrl, error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let message = error.message();
            match advice(url, error.as_ref()) {
                Some(advice) => format!("{message}; {advice}"),
                None => message.to_owned(),
            }
        }
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => tls_advice(url, &error.to_string()),
        sqlx::Error::Tls(error) => tls_advice(url, &error.to_string()),
        sqlx::Error::Io(error) if is_length_of_text(&error.to_string()) => not_postgres("it answers something else"),
        sqlx::Error::Io(error)
            if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof) =>
        {
            format!(
                "{error}; is the server stopping, or is it something other than Postgres, whose port is usually 5432? \
                 ACETATE__STATUS__URL names it"
            )
        }
        sqlx::Error::Io(error) if lacks_open_files(error) => format!("{error}; {NO_OPEN_FILES}"),
        sqlx::Error::Io(error) => {
            format!("{error}; is the server running, and does ACETATE__STATUS__URL name it?")
        }
        sqlx::Error::Protocol(reason) => not_postgres(reason),
        other => other.to_string(),
    }
}

fn not_postgres(reason: &str) -> String {
    format!(
        "{reason}; what answers there does not speak as Postgres does: correct the host and port in ACETATE__STATUS__URL \
         (Postgres' port is usually 5432)"
    )
}

/// Whether the length of a message is text: a web server's `HTTP/1.1` would be one of more than a gigabyte.
fn is_length_of_text(reason: &str) -> bool {
    const LONGEST: u64 = 512 << 20;
    let length = reason.strip_prefix("expected to read ").and_then(|rest| rest.split(' ').next());
    length.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > LONGEST)
}

fn advice(url: &PostgresUrl, error: &dyn DatabaseError) -> Option<String> {
    let (code, message, routine) = (error.code().unwrap_or_default(), error.message(), routine(error));
    // Poolers write English.
    let pooler = |text: &str| message.contains(text);
    let text = match &*code {
        _ if pooler("unsupported startup parameter") => {
            "a pooler refuses what is sent when a session starts; unset PGOPTIONS, and write settings as ?options=-c \
             name=value into ACETATE__STATUS__URL"
        }
        _ if pooler("statement pooling mode") => {
            "this PgBouncer has pool_mode = statement, in which there are no transactions; set pool_mode = transaction \
             or session for this database"
        }
        _ if pooler("query_wait_timeout") => {
            "the pooler has no free connection to the server; raise its default_pool_size, or lower \
             status.max_connections or the number of processes"
        }
        _ if pooler("PQexec disallowed") => {
            "this PgBouncer refuses statements without parameters, which acetate needs; remove disable_pqexec from its \
             settings"
        }
        _ if pooler("is disabled") => {
            "it was disabled in PgBouncer; on its console run `ENABLE` with the database's name"
        }
        _ if pooler("no such database") => {
            "add the database to [databases] of the pooler's settings, or name another one in ACETATE__STATUS__URL"
        }
        _ if pooler("no such user") => "add the user to the pooler's auth_file, or check it in ACETATE__STATUS__URL",
        _ if pooler("no more connections allowed") => "raise the pooler's max_client_conn, or start fewer processes",
        "28000" if pooler("no encryption") => "this server requires TLS: add ?sslmode=require to ACETATE__STATUS__URL",
        // As opposed to a role that does not exist or may not log in.
        "28000" if routine == "ClientAuthentication" => {
            "add a line for it to the server's pg_hba.conf and reload that; a line that begins with hostssl needs \
             ?sslmode=require in ACETATE__STATUS__URL"
        }
        "28P01" | "28000" => "check the user and password in ACETATE__STATUS__URL",
        "3D000" => "create the database with `createdb`, or name another one in ACETATE__STATUS__URL",
        "3F000" => "make the schema that the search path names with `CREATE SCHEMA`",
        "42501" => return Some(grants(url, message)),
        "42P01" if message.strip_prefix(MISSING) == Some(LINEAGE) => {
            "run `acetate migrate`, which makes it again and pauses everything, or restore it from a backup"
        }
        "42P01" if message.starts_with(MISSING) => "restore them from a backup, or use an empty schema",
        "42P01" | "42703" | "42883" => {
            "its tables do not match this version; run `acetate migrate`, or restart acetate to migrate them"
        }
        "53300" if routine == "InitializeSessionUserId" => {
            let user = identifier(url.user());
            return Some(format!(
                "this role has a limit of its own, whatever the server's max_connections: as a superuser run `ALTER ROLE \
                 {user} CONNECTION LIMIT -1`, or lower status.max_connections or the number of processes"
            ));
        }
        "53300" if routine == "CheckMyDatabase" => {
            let database = identifier(url.database());
            return Some(format!(
                "this database has a limit of its own: as its owner run `ALTER DATABASE {database} CONNECTION LIMIT -1`, or \
                 lower status.max_connections or the number of processes"
            ));
        }
        "53300" => {
            "all connections of the server are in use (max_connections there); a process of acetate takes up to \
             status.max_connections: lower that, start fewer processes, or put PgBouncer before the server"
        }
        "53100" => "the server's disk is full; free some space and try again",
        "57014" => "the statement took too long; is the server overloaded?",
        "57P01" | "57P02" | "57P03" => "the server is stopping or starting; acetate retries",
        "25006" => {
            let (user, database) = (identifier(url.user()), identifier(url.database()));
            return Some(format!(
                "this server is a replica or read-only; name the primary in ACETATE__STATUS__URL, or all hosts with \
                 target_session_attrs=read-write; if it is the primary, default_transaction_read_only is on: \
                 `ALTER ROLE {user} RESET default_transaction_read_only`, or the same with `ALTER DATABASE {database}`"
            ));
        }
        "40001" | "40P01" => "other transactions were in the way each time; what else writes into acetate's tables?",
        "55P03" => "another session holds a lock on the tables; acetate retries",
        _ => return None,
    };
    Some(text.to_owned())
}

/// What the owner of the database has to type.
fn grants(url: &PostgresUrl, message: &str) -> String {
    let user = identifier(url.user());
    let tables = format!(
        "as the owner of the tables run `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}` \
         (with the schema's name), or connect as the owner"
    );
    match message.strip_prefix("permission denied for schema ") {
        Some(schema) => format!(
            "PostgreSQL 15 and newer let only the owner create tables there: as the database's owner run \
             `GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}`, or make a schema of its own and name it with \
             ?options=-csearch_path%3DNAME in ACETATE__STATUS__URL"
        ),
        None if message.starts_with("permission denied") || message.starts_with("must be owner") => tables,
        // In another language, and the same function of the server refuses both.
        None => format!("for a table, {tables}; for a schema, run `GRANT USAGE, CREATE ON SCHEMA public TO {user}`"),
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn tls_advice(url: &PostgresUrl, reason: &str) -> String {
    let file = url.files.iter().find(|(name, _)| *name == "sslrootcert").map(|(_, file)| file.display().to_string());
    let certificate = || certificate_advice(reason, &url.to_string());
    let advice = if let Some(advice) = certificate() {
        advice
    } else if reason.contains("UnknownIssuer") {
        match file {
            Some(file) => format!(
                "the server's certificate is not signed by a CA in sslrootcert={file}; name the file of the right CA"
            ),
            None => "the server's certificate is signed by a CA that this machine does not know; name the CA's file \
                     with sslrootcert=/path/ca.pem in ACETATE__STATUS__URL"
                .to_owned(),
        }
    } else if reason.contains("not valid for name") || reason.contains("NotValidForName") {
        "the server's certificate is for another host name; connect by that name, or use sslmode=verify-ca".to_owned()
    } else if reason.contains("does not support TLS") {
        "turn TLS on in the server, or use sslmode=disable in ACETATE__STATUS__URL on a network that you trust"
            .to_owned()
    } else if reason.contains("InvalidContentType") {
        "the port does not speak TLS; is it that of Postgres?".to_owned()
    } else if let Some(file) = file {
        format!("check sslrootcert={file}, and sslcert and sslkey, if there are any")
    } else {
        "check sslmode, and sslcert and sslkey, if there are any, in ACETATE__STATUS__URL".to_owned()
    };
    format!("{reason}; {advice}")
}

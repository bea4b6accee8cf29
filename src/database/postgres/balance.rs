//! Finds out whether something before the server sends reads elsewhere, or loses writes: pgpool.
//!
//! It decides by the text of a statement, and some of its modes do not understand a `WITH` that writes. Whether a
//! transaction that is rolled back succeeds says nothing of that. So this writes a row of its own, looks for it on
//! other connections, and removes it.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};
use tokio::time::timeout;

use super::{
    connect::{Connector, run},
    fault::{no_answer, statement_error},
    pool::Connections,
    session::Mode,
};
use crate::{
    database::PostgresUrl,
    job::{JobError, JobId},
};

/// A load balancer decides when a session begins, so several are looked at.
const SESSIONS: usize = 4;
const LIMIT: Duration = Duration::from_secs(15);
/// How long a replica may be behind that is read by mistake, so that it is named as such.
const LATER: Duration = Duration::from_millis(500);

const ADVICE: &str = "In pgpool, set backend_clustering_mode = 'streaming_replication' and load_balance_mode = off (or \
                      app_name_redirect_preference_list = 'acetate:primary'); or name the primary itself in \
                      ACETATE__STATUS__URL";

pub(super) async fn check(connections: &Connections) -> Result<(), JobError> {
    let url = &connections.connector().url;
    let id = format!("check {}", JobId::new());
    // As jobs are claimed: in one statement, which is its own transaction.
    let write = sqlx::query(
        "WITH written AS (INSERT INTO rejections (id, received_at, error, body) VALUES ($1, 0, '', '') RETURNING id)
         SELECT id FROM written",
    )
    .bind(id.clone());
    connections.run(write).await?;
    let found = limited(url, read_back(connections.connector(), &id, true)).await;
    let removed = connections.run(sqlx::query("DELETE FROM rejections WHERE id = $1").bind(id.clone())).await;
    let mut found = found?;
    removed?;
    if matches!(found, TrialSeen::Everywhere) {
        // Whether this ends with the statement, and not with the connection.
        found = limited(url, read_back(connections.connector(), &id, false)).await?;
    }
    let wrong = match found {
        TrialSeen::Everywhere => return Ok(()),
        TrialSeen::OnReplica => "writes go to the primary and reads to a replica, which may be behind",
        TrialSeen::Nowhere => {
            let _ = limited(url, remove(connections.connector(), &id)).await;
            "a change is not there when its statement has ended; something before the server loses or delays it"
        }
    };
    Err(JobError::database(format!("{url}: {wrong}. {ADVICE}")))
}

async fn limited<T>(url: &PostgresUrl, work: impl Future<Output = Result<T, JobError>>) -> Result<T, JobError> {
    timeout(LIMIT, work).await.unwrap_or_else(|_| Err(no_answer(url, LIMIT)))
}

/// As one message, which no mode of a pooler takes apart.
async fn remove(connector: &Connector, id: &str) -> Result<(), JobError> {
    let mut connection = connector.connect().await.map_err(|error| connector.error(error))?;
    let sql = format!("{}; DELETE FROM rejections WHERE id = '{id}'; COMMIT", connector.sessions.begin());
    run(&mut connection, sql.into()).await.map_err(|error| statement_error(&connector.url, error))?;
    let _ = connection.close().await;
    Ok(())
}

enum TrialSeen {
    Everywhere,
    OnReplica,
    Nowhere,
}

/// `wanted`: whether the row should be there.
async fn read_back(connector: &Connector, id: &str, wanted: bool) -> Result<TrialSeen, JobError> {
    for _ in 0..SESSIONS {
        let mut connection = connector.connect().await.map_err(|error| connector.error(error))?;
        let wrong = |error| statement_error(&connector.url, error);
        let (mut there, read_only) = read(connector, &mut connection, id).await.map_err(wrong)?;
        if there != wanted && !read_only {
            tokio::time::sleep(LATER).await;
            there = read(connector, &mut connection, id).await.map_err(wrong)?.0;
        }
        let _ = connection.close().await;
        // A server that is read-only as a whole has refused the write.
        if read_only {
            return Ok(TrialSeen::OnReplica);
        }
        if there != wanted {
            return Ok(TrialSeen::Nowhere);
        }
    }
    Ok(TrialSeen::Everywhere)
}

/// Whether the row is there, and whether the server that says it is a replica. Questions about a server alone would go
/// to the primary.
async fn read(connector: &Connector, connection: &mut PgConnection, id: &str) -> Result<(bool, bool), sqlx::Error> {
    let sessions = &connector.sessions;
    // A session that is shared has no settings of ours, such as the schema's name.
    let shared = sessions.mode() != Mode::Own;
    if shared {
        run(connection, sessions.begin()).await?;
    }
    let query = "SELECT COUNT(*) FILTER (WHERE id = $1) > 0 AS there, current_setting('transaction_read_only') = 'on' AS read_only
                   FROM rejections";
    let row = sqlx::query(query).persistent(false).bind(id).fetch_one(&mut *connection).await?;
    if shared {
        run(connection, "ROLLBACK".into()).await?;
    }
    Ok((row.try_get("there")?, row.try_get("read_only")?))
}

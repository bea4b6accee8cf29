//! Migrates the tables once, even if several processes start together.

use sqlx::{Connection, PgConnection, Row};

use super::open::explain;

/// The migrations in order; the table `acetate_schema` has the number of those applied.
const MIGRATIONS: [&str; 5] = [
    include_str!("../../../migrations/postgres/0001_jobs.sql"),
    include_str!("../../../migrations/postgres/0002_listing.sql"),
    include_str!("../../../migrations/postgres/0003_caption.sql"),
    include_str!("../../../migrations/postgres/0004_api.sql"),
    include_str!("../../../migrations/postgres/0005_tombstones.sql"),
];

/// Runs the missing migrations in one transaction.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), String> {
    let told = |error: sqlx::Error| explain(&error);
    // The usual case takes no lock and needs no permission to create tables.
    if version(connection).await.map_err(told)? == Some(MIGRATIONS.len()) {
        return Ok(());
    }
    let mut tx = connection.begin().await.map_err(told)?;
    sqlx::raw_sql(
        "SET LOCAL statement_timeout = 0;
         SELECT pg_advisory_xact_lock(hashtextextended('acetate ' || COALESCE(current_schema(), ''), 0));
         CREATE TABLE IF NOT EXISTS acetate_schema (version BIGINT NOT NULL);
         INSERT INTO acetate_schema SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM acetate_schema)",
    )
    .execute(&mut *tx)
    .await
    .map_err(told)?;
    let done = version(&mut tx).await.map_err(told)?.unwrap_or_default();
    if done > MIGRATIONS.len() {
        return Err(format!(
            "was written by a newer acetate (schema {done}, this one knows {}); update acetate, or name another \
             database with ACETATE__STATUS__URL",
            MIGRATIONS.len()
        ));
    }
    for sql in &MIGRATIONS[done..] {
        sqlx::raw_sql(*sql)
            .execute(&mut *tx)
            .await
            .map_err(|error| format!("cannot create the tables ({})", explain(&error)))?;
    }
    sqlx::query("UPDATE acetate_schema SET version = $1")
        .bind(i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))
        .execute(&mut *tx)
        .await
        .map_err(told)?;
    tx.commit().await.map_err(told)
}

/// The number of migrations applied; absent without the table.
async fn version(connection: &mut PgConnection) -> Result<Option<usize>, sqlx::Error> {
    // Only in the schema that would be written to, not in another one further down the search path.
    let known = "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'acetate_schema'";
    if sqlx::query(known).fetch_optional(&mut *connection).await?.is_none() {
        return Ok(None);
    }
    let row = sqlx::query("SELECT version FROM acetate_schema").fetch_optional(connection).await?;
    let version = row.map(|row| row.try_get::<i64, _>(0)).transpose()?;
    Ok(version.map(|version| usize::try_from(version).unwrap_or_default()))
}

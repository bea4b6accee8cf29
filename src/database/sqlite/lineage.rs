//! Until when the database was in use, and the pause of one that was restored.

use jiff::Timestamp;

use super::{
    actions::write_entry,
    open::{SqliteJobStore, database, now_ms},
};
use crate::{
    database::{
        Action, Lineage, Scope,
        lineage::empty,
        row_mapping::{Columns, to_json},
    },
    job::JobError,
};

impl SqliteJobStore {
    pub async fn lineage(&self) -> Result<Lineage, JobError> {
        let query = sqlx::query("SELECT name, alive_at, ? AS now FROM lineage ORDER BY name").bind(now_ms());
        Lineage::read(&query.fetch_all(&self.readers).await.map_err(database)?)
    }

    pub async fn forget_lineages(&self, names: &[String]) -> Result<(), JobError> {
        let query = sqlx::query("DELETE FROM lineage WHERE name IN (SELECT value FROM json_each(?))");
        query.bind(to_json(&names)?).execute(self.writer()?).await.map_err(database)?;
        Ok(())
    }

    pub async fn record_alive(&self) -> Result<Timestamp, JobError> {
        let query = sqlx::query("UPDATE lineage SET alive_at = MAX(alive_at, ?) RETURNING alive_at").bind(now_ms());
        query.fetch_optional(self.writer()?).await.map_err(database)?.ok_or_else(empty)?.time("alive_at")
    }

    pub async fn pause_all(&self, reason: &str) -> Result<(), JobError> {
        let note = self.actor.as_ref().map(|actor| actor.note_of_queue(Action::Paused, &Scope::All));
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO pauses (scope, name, paused_at, reason) VALUES ('all', '', ?, ?)
             ON CONFLICT (scope, name) DO UPDATE SET reason = excluded.reason",
        )
        .bind(now_ms())
        .bind(reason)
        .execute(&mut *tx)
        .await
        .map_err(database)?;
        write_entry(&mut tx, note, 0).await?;
        tx.commit().await.map_err(database)?;
        self.signal.tell();
        Ok(())
    }
}

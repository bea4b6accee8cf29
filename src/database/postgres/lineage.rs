//! Until when the database was in use, and the pause of one that was restored.

use jiff::Timestamp;

use super::{actions::noted_change, open::PostgresJobStore};
use crate::{
    database::{Action, Lineage, Scope, lineage::empty, row_mapping::Columns},
    job::JobError,
};

impl PostgresJobStore {
    pub async fn lineage(&self) -> Result<Lineage, JobError> {
        let query = sqlx::query("SELECT name, alive_at, acetate_now() AS now FROM lineage ORDER BY name");
        Lineage::read(&self.all(query).await?)
    }

    pub async fn forget_lineages(&self, names: &[String]) -> Result<(), JobError> {
        self.execute(sqlx::query("DELETE FROM lineage WHERE name = ANY($1)").bind(names)).await.map(drop)
    }

    pub async fn record_alive(&self) -> Result<Timestamp, JobError> {
        let query = sqlx::query("UPDATE lineage SET alive_at = GREATEST(alive_at, acetate_now()) RETURNING alive_at");
        let row = self.one(query).await?;
        row.ok_or_else(empty)?.time("alive_at")
    }

    pub async fn pause_all(&self, reason: &str) -> Result<(), JobError> {
        let note = self.actor.as_ref().map(|actor| actor.note_of_queue(Action::Paused, &Scope::All).into_array());
        let query = sqlx::query(concat!(
            "WITH changed AS (
                INSERT INTO pauses (scope, name, paused_at, reason) VALUES ('all', '', acetate_now(), $1)
                ON CONFLICT (scope, name) DO UPDATE SET reason = EXCLUDED.reason RETURNING 1), ",
            noted_change!("$2"),
            " SELECT 1 FROM changed"
        ))
        .bind(reason)
        .bind(note);
        self.execute(query).await?;
        self.signal.tell();
        Ok(())
    }
}

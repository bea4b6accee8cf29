//! The tables that the migrations make, and whether the role may use all of them.

use super::migrate::MIGRATIONS;
use crate::database::lineage::{EMPTY, MEND_EMPTY};

/// How the message about tables that were dropped begins.
pub(super) const MISSING: &str = "there are no longer the tables ";

/// The table that can be made again.
pub(super) const LINEAGE: &str = "lineage";
/// Why everything is paused then.
pub(super) const RESTORED_WITHOUT: &str = "the database was restored without the table lineage, which was made again; everything is paused. Jobs that were \
     cancelled, have failed or were deleted after the backup may be queued again: cancel what must not run, then acetate \
     queue resume";

/// The statements that made it.
pub(super) fn lineage_again() -> &'static str {
    let made = MIGRATIONS
        .iter()
        .find_map(|sql| sql.split_once("CREATE TABLE lineage").map(|(before, _)| &sql[before.len()..]));
    let statements = made.and_then(|sql| sql.split("--").next()).unwrap_or_default();
    statements.trim_end().trim_end_matches(';')
}

/// All tables that acetate writes, from the migrations: a new one cannot be forgotten.
pub(super) fn tables() -> Vec<&'static str> {
    let mut tables = Vec::new();
    for line in MIGRATIONS.iter().flat_map(|sql| sql.lines()) {
        if let Some(rest) = line.strip_prefix("CREATE TABLE ") {
            tables.extend(rest.split([' ', '(']).next());
        }
        if let Some(rest) = line.strip_prefix("DROP TABLE ") {
            let name = rest.trim_start_matches("IF EXISTS ").trim_end_matches(';');
            tables.retain(|table| *table != name);
        }
    }
    tables
}

/// A statement that fails as the server would, with all tables at once. It asks for the rights, because a statement
/// that changes no row would have to name the columns of each table.
pub(super) fn check_rights() -> String {
    let names: Vec<String> = tables().iter().map(|table| format!("'{table}'")).collect();
    let names = names.join(", ");
    format!(
        "DO $$ DECLARE v_names TEXT[] := ARRAY[{names}]; v_found TEXT; BEGIN
            SELECT STRING_AGG(name, ', ') INTO v_found FROM UNNEST(v_names) AS name WHERE TO_REGCLASS(name) IS NULL;
            IF v_found IS NOT NULL THEN
                RAISE EXCEPTION USING ERRCODE = '42P01', MESSAGE = '{MISSING}' || v_found;
            END IF;
            SELECT STRING_AGG(format('%s (%s)', name, needed), ', ') INTO v_found FROM (
                SELECT name, STRING_AGG(needed, ', ') AS needed
                  FROM UNNEST(v_names) AS name, UNNEST(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
                 WHERE NOT HAS_TABLE_PRIVILEGE(name, needed) GROUP BY name ORDER BY name) AS lacking;
            IF v_found IS NOT NULL THEN
                RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'permission denied for the tables ' || v_found;
            END IF;
            IF NOT EXISTS (SELECT FROM lineage) THEN
                RAISE EXCEPTION '{EMPTY}; {MEND_EMPTY}';
            END IF;
         END $$"
    )
}

/// Statements that need room in the tables that grow most. Text that does not compress takes new pages.
pub(super) fn take_room(id: &str) -> String {
    let text = "(SELECT STRING_AGG(md5(RANDOM()::TEXT), '') FROM GENERATE_SERIES(1, 1000))";
    format!(
        "INSERT INTO rejections (id, received_at, error, body) VALUES ('check {id}', 0, '', {text});
         INSERT INTO jobs (id, fingerprint, kind, request, priority, state, available_at, quiet_until, created_at, updated_at)
         VALUES ('check {id}', '', '', {text}, 0, 'cancelled', 0, 0, 0, 0)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_that_make_the_lineage_are_found() {
        let sql = lineage_again();
        assert!(sql.starts_with("CREATE TABLE lineage (") && sql.ends_with("acetate_now())"), "{sql}");
        assert_eq!(sql.matches(';').count(), 1, "{sql}");
    }

    #[test]
    fn every_table_of_the_migrations_is_known() {
        let tables = tables();
        let written: usize = MIGRATIONS.iter().map(|sql| sql.matches("CREATE TABLE ").count()).sum();
        assert_eq!(tables.len(), written, "{tables:?}");
        for table in ["jobs", "tombstones", "dataset_rows", "batch_webhooks"] {
            assert!(tables.contains(&table), "{table}");
        }
    }
}

//! The indexes in the migrations, which are built concurrently where a table already exists.

/// An index and its statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) name: String,
    unique: bool,
    table: String,
    /// What follows the table's name.
    rest: String,
}

impl Index {
    /// Reads `CREATE [UNIQUE] INDEX name ON table ...`.
    fn parse(statement: &str) -> Option<Self> {
        let rest = statement.strip_prefix("CREATE ")?;
        let (unique, rest) = rest.strip_prefix("UNIQUE ").map_or((false, rest), |rest| (true, rest));
        let (name, rest) = rest.strip_prefix("INDEX ")?.split_once(" ON ")?;
        let (table, rest) = rest.split_once(' ')?;
        Some(Self { name: name.to_owned(), unique, table: table.to_owned(), rest: rest.to_owned() })
    }

    /// `schema` is quoted. Outside a transaction, a pooler knows no search path.
    pub(super) fn create(&self, schema: &str) -> String {
        let Self { name, unique, table, rest } = self;
        let unique = if *unique { "UNIQUE " } else { "" };
        format!("CREATE {unique}INDEX CONCURRENTLY IF NOT EXISTS {name} ON {schema}.{table} {rest}")
    }

    /// Removes what an interrupted build has left, which is there and never used.
    pub(super) fn drop(&self, schema: &str) -> String {
        format!("DROP INDEX CONCURRENTLY IF EXISTS {schema}.{}", self.name)
    }
}

/// All indexes that the migrations leave behind.
pub(super) fn of(migrations: &[&str]) -> Vec<Index> {
    let mut indexes = Vec::<Index>::new();
    for statement in migrations.iter().flat_map(|sql| statements(sql)) {
        if let Some(rest) = statement.strip_prefix("DROP INDEX ") {
            let name = rest.trim_start_matches("IF EXISTS ");
            indexes.retain(|index| index.name != name);
        }
        indexes.extend(Index::parse(&statement));
    }
    indexes
}

/// A migration without the indexes of tables that existed before it.
pub(super) fn without(sql: &str) -> String {
    let all: Vec<String> = statements(sql).collect();
    let is_new = |table: &str| all.iter().any(|statement| statement.starts_with(&format!("CREATE TABLE {table} ")));
    let stays = |statement: &&String| Index::parse(statement).is_none_or(|index| is_new(&index.table));
    all.iter().filter(stays).map(|statement| format!("{statement};\n")).collect()
}

/// The statements of a migration, each of which ends with a line, without comments. Spaces within are kept apart by
/// one.
fn statements(sql: &str) -> impl Iterator<Item = String> {
    let mut statements = Vec::new();
    let mut current = String::new();
    for line in sql.lines() {
        let line = line.split(" --").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with("--") {
            continue;
        }
        if !current.is_empty() {
            current.push(' ');
        }
        match line.strip_suffix(';') {
            Some(last) => {
                current.push_str(last);
                statements.push(std::mem::take(&mut current));
            }
            None => current.push_str(line),
        }
    }
    statements.extend(Some(current).filter(|rest| !rest.is_empty()));
    statements.into_iter()
}

#[cfg(test)]
mod tests {
    use super::{super::migrate::MIGRATIONS, *};

    #[test]
    fn all_indexes_of_the_migrations_are_known() {
        let known = of(&MIGRATIONS);
        let written: usize = MIGRATIONS.iter().map(|sql| sql.matches(" INDEX ").count()).sum();
        assert_eq!(known.len(), written, "{known:?}");
        let one = known.iter().find(|index| index.name == "outbox_one_dispatch").unwrap();
        assert_eq!(
            one.create("s"),
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS outbox_one_dispatch ON s.outbox (job) WHERE topic = \
             'dispatch' AND taken_until IS NULL"
        );
    }

    #[test]
    fn only_indexes_of_existing_tables_are_left_out() {
        let sql = "-- words\nALTER TABLE jobs ADD COLUMN a TEXT; -- one\nCREATE TABLE new (\n    a TEXT -- it\n);\n\
                   CREATE INDEX new_a ON new (a);\nCREATE INDEX jobs_a\n    ON jobs (a);\nDROP INDEX IF EXISTS old;";
        assert_eq!(
            without(sql),
            "ALTER TABLE jobs ADD COLUMN a TEXT;\nCREATE TABLE new ( a TEXT );\nCREATE INDEX new_a ON new (a);\nDROP \
             INDEX IF EXISTS old;\n"
        );
        assert_eq!(of(&["CREATE INDEX old ON jobs (b);", sql]).len(), 2);
    }
}

//! Which of several hosts is the primary. One that was, and comes back after another one was promoted, still accepts
//! writes, but nobody reads them. Each promotion begins a new timeline, with a higher number.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{PgConnection, Row};
use tracing::warn;

/// How long each host may take to say whether it accepts writes.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// A server that accepts writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Primary {
    pub(super) place: String,
    /// The same for all servers that have the same data.
    system: String,
    timeline: u32,
    /// Two names may lead to one server.
    started: String,
}

impl Primary {
    /// Absent where the server does not say, such as a replica or some hosted ones.
    pub(super) async fn ask(place: String, connection: &mut PgConnection) -> Option<Self> {
        // The file's name has the timeline at once; the control file only after the next checkpoint.
        let sql =
            "SELECT system_identifier::TEXT, pg_walfile_name(pg_current_wal_lsn()), pg_postmaster_start_time()::TEXT
                     FROM pg_control_system()";
        let row = sqlx::raw_sql(sql).fetch_one(connection).await.ok()?;
        let text = |column: usize| row.try_get::<String, _>(column).ok();
        let timeline = u32::from_str_radix(text(1)?.get(..8)?, 16).ok()?;
        Some(Self { place, system: text(0)?, timeline, started: text(2)? })
    }
}

/// The newest timeline that was seen.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    primary: Option<Primary>,
    /// Connections that are older may lead to an overtaken server.
    changed: Option<Instant>,
    told: Option<Primary>,
}

impl Newest {
    /// Remembers it, unless a newer one is known, which is returned.
    pub(super) fn see(&self, seen: Primary) -> Result<(), Primary> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = state.primary.clone().filter(|known| known.system == seen.system) else {
            state.primary = Some(seen);
            return Ok(());
        };
        if seen.timeline > known.timeline {
            state.changed = Some(Instant::now());
            state.primary = Some(seen);
        } else if seen.timeline < known.timeline {
            if state.told.as_ref() != Some(&seen) {
                warn!(
                    "{} accepts writes, but {} was promoted after it (timeline {}, there {}): nothing is written there; stop \
                     it, or make it a replica",
                    seen.place, known.place, known.timeline, seen.timeline
                );
                state.told = Some(seen);
            }
            return Err(known);
        }
        Ok(())
    }

    /// When a newer timeline was first seen.
    pub(super) fn changed(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).changed
    }
}

/// What is wrong if several servers accept writes.
pub(super) fn several(primaries: &[Primary]) -> Option<String> {
    let mut distinct: Vec<&Primary> = Vec::new();
    for primary in primaries {
        let same = |other: &&Primary| (&other.system, &other.started) == (&primary.system, &primary.started);
        if !distinct.iter().any(same) {
            distinct.push(primary);
        }
    }
    if distinct.len() < 2 {
        return None;
    }
    let names: Vec<String> = distinct.iter().map(|one| format!("{} (timeline {})", one.place, one.timeline)).collect();
    Some(format!(
        "{} hosts accept writes: {}; stop those that are no longer the primary, or make them replicas",
        distinct.len(),
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(place: &str, system: &str, timeline: u32) -> Primary {
        let text = |text: &str| text.to_owned();
        Primary { place: text(place), system: text(system), timeline, started: text(place) }
    }

    #[test]
    fn a_server_that_was_overtaken_is_known_by_its_timeline() {
        let newest = Newest::default();
        newest.see(primary("a", "1", 1)).unwrap();
        assert!(newest.changed().is_none());
        newest.see(primary("b", "1", 2)).unwrap();
        assert!(newest.changed().is_some());
        assert_eq!(newest.see(primary("a", "1", 1)).unwrap_err().place, "b");
        newest.see(primary("b", "1", 2)).unwrap();
        // Another database has timelines of its own.
        newest.see(primary("c", "2", 1)).unwrap();
    }

    #[test]
    fn several_primaries_are_named_and_several_names_of_one_are_not() {
        let (a, b) = (primary("a", "1", 1), primary("b", "1", 2));
        let alias = Primary { place: "alias".to_owned(), ..a.clone() };
        assert_eq!(several(&[a.clone(), alias.clone()]), None);
        let said = several(&[a, alias, b]).unwrap();
        assert!(said.starts_with("2 hosts accept writes: a (timeline 1), b (timeline 2); stop"), "{said}");
    }
}

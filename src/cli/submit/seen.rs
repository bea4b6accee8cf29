//! What the rows had, for the messages of a command.

use std::collections::{BTreeMap, BTreeSet};

use super::prepare::Ready;
use crate::{cli::dataset::ColumnMapping, job::JobKind};

/// The number of columns that are remembered for a message.
const MOST_NAMES: usize = 30;

#[derive(Debug, Default)]
pub struct SeenColumns {
    carried: BTreeSet<String>,
    /// Those that are parameters because they are called so.
    taken: BTreeSet<String>,
    /// Jobs of another kind than that of the command, by the column `kind`.
    other_kinds: BTreeMap<String, u64>,
}

impl SeenColumns {
    pub fn see(&mut self, ready: &Ready, kind_of_command: JobKind) {
        let add = |names: &mut BTreeSet<String>, name: &String| {
            if names.len() < MOST_NAMES && !names.contains(name) {
                names.insert(name.clone());
            }
        };
        ready.meta.keys().for_each(|name| add(&mut self.carried, name));
        ready.taken.iter().for_each(|name| add(&mut self.taken, name));
        let kind = ready.request.task.kind();
        if kind != kind_of_command {
            *self.other_kinds.entry(kind.to_string()).or_default() += 1;
        }
    }

    pub fn texts(&self, columns: &ColumnMapping, kind_of_command: JobKind) -> Vec<String> {
        let parts = [self.carried_text(columns), self.taken_text(), self.kinds_text(kind_of_command)];
        parts.into_iter().flatten().collect()
    }

    /// `other jobs than edit, by the column kind: decompose 8`.
    fn kinds_text(&self, kind: JobKind) -> Option<String> {
        let kinds: Vec<_> = self.other_kinds.iter().map(|(kind, rows)| format!("{kind} {rows}")).collect();
        (!kinds.is_empty()).then(|| format!("other jobs than {kind}, by the column `kind`: {}", kinds.join(", ")))
    }

    /// `carried through to the results: caption, promt (if you mean prompt, rename it, ...)`.
    fn carried_text(&self, columns: &ColumnMapping) -> Option<String> {
        let name = |name: &String| match columns.meant(name) {
            Some(field) => format!("{name} (if you mean {field}, rename it, or give --column {field}={name})"),
            None => name.clone(),
        };
        let names: Vec<_> = self.carried.iter().map(name).collect();
        (!names.is_empty()).then(|| format!("carried through to the results: {}", names.join(", ")))
    }

    /// `taken as parameters: count, trim`.
    fn taken_text(&self) -> Option<String> {
        let names: Vec<_> = self.taken.iter().cloned().collect();
        (!names.is_empty()).then(|| format!("taken as parameters: {}", names.join(", ")))
    }
}

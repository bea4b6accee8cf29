//! A clock that was set back: what was written before is in the future then, and would wait for the clock.

/// How far ahead a row may be without being noticed, in milliseconds.
pub(super) const SLACK: i64 = 5000;

/// What `acetate doctor` says of so many jobs.
pub(super) fn warning(jobs: u64) -> Option<String> {
    (jobs > 0).then(|| {
        let jobs = if jobs == 1 { "1 job was".to_owned() } else { format!("{jobs} jobs were") };
        format!("{jobs} submitted in the future by the database's clock, which was set back; is it right now?")
    })
}

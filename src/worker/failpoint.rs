//! Points where a test can stop the process, to verify that nothing is lost.
//!
//! They are in the release build, so that tests run the real program; without `worker.failpoint` they do nothing.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tracing::warn;

use crate::job::{JobError, JobId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A delivery has arrived.
    Received,
    Claimed,
    /// The inputs have been read.
    Fetched,
    /// A denoise step is done.
    Step,
    /// A picture has been written into the store.
    Put,
    /// The manifest has been written.
    Manifest,
    /// The end of the job is committed.
    Committed,
}

const NAMES: [(&str, Point); 7] = [
    ("received", Point::Received),
    ("claimed", Point::Claimed),
    ("fetched", Point::Fetched),
    ("step", Point::Step),
    ("put", Point::Put),
    ("manifest", Point::Manifest),
    ("committed", Point::Committed),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailpointAction {
    /// Ends the process as `kill -9` does, without unwinding or flushing.
    Abort,
    /// Pauses the thread, so that a test can send signals meanwhile.
    Pause(Duration),
}

/// `step:3=abort`: end the process at the third denoise step; `put=pause:2.5`: pause for 2.5 seconds at the first
/// picture; `fetched@ID=abort`: end it whenever the inputs of that job have been read. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Failpoint(Option<Arc<Armed>>);

#[derive(Debug)]
struct Armed {
    point: Point,
    action: FailpointAction,
    /// The number of visits before it acts.
    left: AtomicU32,
    /// Only visits of this job count, and each of them acts.
    only: Option<JobId>,
}

impl Failpoint {
    pub(super) fn at(&self, point: Point, job: Option<JobId>) {
        let Some(armed) = self.0.as_ref().filter(|armed| armed.point == point) else { return };
        let acts = match armed.only {
            Some(only) => job == Some(only),
            None => armed.left.fetch_sub(1, Ordering::AcqRel) == 1,
        };
        if !acts {
            return;
        }
        match armed.action {
            FailpointAction::Abort => std::process::abort(),
            FailpointAction::Pause(time) => {
                warn!(?point, "stands still");
                #[expect(clippy::disallowed_methods, reason = "a worker that stands still is what is tested")]
                std::thread::sleep(time);
            }
        }
    }
}

impl FromStr for Failpoint {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let wrong = || {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            JobError::invalid(
                "worker.failpoint",
                format!(
                    "`{text}` is not POINT[:VISIT|@JOB]=abort or POINT[:VISIT|@JOB]=pause:SECONDS; the points are {}",
                    names.join(", ")
                ),
            )
        };
        let (place, action) = text.split_once('=').ok_or_else(wrong)?;
        let (place, only) = match place.split_once('@') {
            Some((place, job)) => (place, Some(job.parse().map_err(|_| wrong())?)),
            None => (place, None),
        };
        let (name, visit) = place.split_once(':').unwrap_or((place, "1"));
        let (_, point) = NAMES.iter().find(|(known, _)| *known == name).ok_or_else(wrong)?;
        let visit: u32 = visit.parse().ok().filter(|visit| *visit > 0).ok_or_else(wrong)?;
        let action = match action.split_once(':') {
            None if action == "abort" => FailpointAction::Abort,
            Some(("pause", seconds)) => {
                let seconds = seconds.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                FailpointAction::Pause(seconds.ok_or_else(wrong)?)
            }
            _ => return Err(wrong()),
        };
        Ok(Self(Some(Arc::new(Armed { point: *point, action, left: AtomicU32::new(visit), only }))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_acts_once_at_the_visit_that_was_asked_for() {
        let failpoint: Failpoint = "put:2=pause:0.05".parse().unwrap();
        let visit = |point| {
            let start = std::time::Instant::now();
            failpoint.at(point, None);
            start.elapsed() >= Duration::from_millis(50)
        };
        assert_eq!(
            [visit(Point::Put), visit(Point::Step), visit(Point::Put), visit(Point::Put)],
            [false, false, true, false]
        );
    }

    #[test]
    fn what_cannot_be_read_says_what_there_is() {
        for text in ["put", "put=stop", "nowhere=abort", "put:0=abort", "put:x=abort", "put=pause", "put=pause:-1"] {
            let error = text.parse::<Failpoint>().unwrap_err().to_string();
            assert!(error.contains("worker.failpoint") && error.contains("manifest"), "{error}");
        }
        "".parse::<Failpoint>().unwrap().at(Point::Put, None);
    }
}

//! Who a worker is: `host:pid:start`, so that the next process on the same machine can tell that it has died.

use std::{fmt, str::FromStr};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Start times come in whole seconds and shift a little when the clock is set.
const START_TOLERANCE_S: u64 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerName {
    host: String,
    pid: u32,
    /// Seconds since 1970; tells a process from a later one with the same number.
    start: u64,
}

impl WorkerName {
    pub fn of_this_process() -> Self {
        let host = System::host_name().unwrap_or_else(|_| "localhost".to_owned());
        let pid = std::process::id();
        Self { host, pid, start: start_of(pid).unwrap_or_default() }
    }

    /// `process 4711 on builder`, out of a worker's name; a name of another form as it is.
    pub fn in_words(name: &str) -> String {
        name.parse::<Self>().map_or_else(|()| name.to_owned(), |name| format!("process {} on {}", name.pid, name.host))
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the worker `name` ran on this host and its process is gone: its lease then counts as run out, so that
    /// `acetate run` can take a job over at once after a kill. Where hosts share a name but not their processes (two
    /// containers over one data folder) this may take a living worker for dead; the epoch still keeps it from
    /// publishing twice.
    pub fn knows_dead(&self, name: &str) -> bool {
        let Ok(other) = name.parse::<Self>() else { return false };
        if other.host != self.host || other.pid == self.pid && other.start == self.start {
            return false;
        }
        start_of(other.pid).is_none_or(|start| start.abs_diff(other.start) > START_TOLERANCE_S)
    }
}

/// When a living process of this number started; a zombie no longer lives.
fn start_of(pid: u32) -> Option<u64> {
    let mut system = System::new().ok()?;
    let pid = Pid::from_u32(pid);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, ProcessRefreshKind::nothing());
    let process = system.process(pid)?;
    let gone = matches!(process.status(), sysinfo::ProcessStatus::Zombie | sysinfo::ProcessStatus::Dead);
    if gone { None } else { Some(process.start_time()) }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.host, self.pid, self.start)
    }
}

impl FromStr for WorkerName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.rsplitn(3, ':');
        let (Some(start), Some(pid), Some(host)) = (parts.next(), parts.next(), parts.next()) else { return Err(()) };
        Ok(Self { host: host.to_owned(), pid: pid.parse().map_err(|_| ())?, start: start.parse().map_err(|_| ())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_not_dead_and_the_dead_are() {
        let me = WorkerName::of_this_process();
        assert_eq!(me.to_string().parse(), Ok(me.clone()));
        assert!(!me.knows_dead(&me.to_string()));

        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let start = start_of(child.id()).unwrap();
        let other = WorkerName { pid: child.id(), start, ..me.clone() };
        assert!(!me.knows_dead(&other.to_string()), "it lives");
        let reborn = WorkerName { start: start - 100, ..other.clone() };
        assert!(me.knows_dead(&reborn.to_string()), "its number was given to another process");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(me.knows_dead(&other.to_string()));

        let elsewhere = WorkerName { host: "elsewhere".to_owned(), ..other };
        assert!(!me.knows_dead(&elsewhere.to_string()), "another machine's processes cannot be seen");
        assert!(!me.knows_dead("nonsense"));
        assert_eq!(WorkerName::in_words("vm:12:34"), "process 12 on vm");
        assert_eq!(WorkerName::in_words("nonsense"), "nonsense");
    }
}

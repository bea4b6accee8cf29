//! A worker's identity: `host:pid:start`, so that another process on the same machine can tell whether it has died.

use std::{fmt, str::FromStr};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Start times are whole seconds and shift slightly when the clock is set.
const START_TOLERANCE_S: u64 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerName {
    host: String,
    pid: u32,
    /// The start time in seconds since 1970, which distinguishes processes with the same number.
    start: u64,
}

impl WorkerName {
    pub fn of_this_process() -> Self {
        let host = System::host_name().unwrap_or_else(|_| "localhost".to_owned());
        let pid = std::process::id();
        Self { host, pid, start: start_of(pid).unwrap_or_default() }
    }

    /// `process 4711 on builder`, from a worker's name; other names are unchanged.
    pub fn in_words(name: &str) -> String {
        name.parse::<Self>().map_or_else(|()| name.to_owned(), |name| format!("process {} on {}", name.pid, name.host))
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the worker `name` ran on this host and its process has ended: its lease then counts as ended, so that
    /// `acetate run` can take over a job right after a kill. If hosts share a name but not their processes (two
    /// containers with one data folder), this may consider a live worker dead; the epoch still prevents it from
    /// publishing twice.
    pub fn knows_dead(&self, name: &str) -> bool {
        let Ok(other) = name.parse::<Self>() else { return false };
        if other.host != self.host || other.pid == self.pid && other.start == self.start {
            return false;
        }
        start_of(other.pid).is_none_or(|start| start.abs_diff(other.start) > START_TOLERANCE_S)
    }
}

/// When the live process with this number started; a zombie does not count.
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

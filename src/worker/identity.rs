//! A worker's name, and whether the process behind a name has died.
//!
//! The name is `host:pid:start@boot.namespace.random`. Process numbers mean something only within one boot of one
//! machine and one PID namespace: containers on a host, cloned machines and `hostNetwork` pods share a host name, and a
//! process of another namespace cannot be seen although it lives. So numbers are compared only where host, boot and
//! namespace agree, and only with the in-process queue. With a broker, the lease alone decides.

use std::{fmt, str::FromStr, sync::OnceLock};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::queue::Queue;

/// Start times are whole seconds and shift slightly when the clock is set.
const START_TOLERANCE_S: u64 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerName {
    host: String,
    pid: u32,
    /// The start time in seconds since 1970, which distinguishes processes with the same number.
    start: u64,
    /// Absent in names of older versions, and where the system does not tell.
    realm: Option<PidNamespace>,
    /// Distinguishes processes that agree in everything else, for instance two copies of one machine.
    random: String,
}

/// The processes that one process can see by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PidNamespace {
    /// The beginning of the kernel's boot id.
    boot: String,
    /// The inode of the PID namespace.
    namespace: u64,
}

/// What ends a lease before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Nothing: a worker is alive until its lease ends.
    Lease,
    /// The death of the worker's process, as seen from here, so that `acetate run` can resume a job right after a kill.
    Process,
}

/// What can be seen of a process.
#[derive(Debug, PartialEq, Eq)]
enum ProcessState {
    /// It runs, since this time.
    Alive(u64),
    Gone,
    /// The processes of this machine cannot be listed.
    Unknown,
}

impl WorkerName {
    /// The same name for the whole life of the process.
    pub fn of_this_process() -> Self {
        static NAME: OnceLock<WorkerName> = OnceLock::new();
        NAME.get_or_init(|| {
            let pid = std::process::id();
            let start = match process_state(pid) {
                ProcessState::Alive(start) => start,
                ProcessState::Gone | ProcessState::Unknown => 0,
            };
            let host = System::host_name().unwrap_or_else(|_| "localhost".to_owned());
            // The end of a UUID is random in version 7, too.
            let random = uuid::Uuid::now_v7().simple().to_string().split_off(24);
            Self { host, pid, start, realm: realm(), random }
        })
        .clone()
    }

    /// `process 4711 on builder`, from a worker's name; other names are unchanged.
    pub fn in_words(name: &str) -> String {
        name.parse::<Self>().map_or_else(|()| name.to_owned(), |name| format!("process {} on {}", name.pid, name.host))
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the worker `name` is a process that this one could see, and it has ended.
    pub fn knows_dead(&self, name: &str) -> bool {
        let Ok(other) = name.parse::<Self>() else { return false };
        let visible = self.realm.is_some() && self.realm == other.realm && self.host == other.host;
        if !visible || other.random == self.random {
            return false;
        }
        match process_state(other.pid) {
            ProcessState::Alive(start) => start.abs_diff(other.start) > START_TOLERANCE_S,
            ProcessState::Gone => true,
            ProcessState::Unknown => false,
        }
    }
}

impl Liveness {
    /// With a broker, workers are on many machines, and a message that comes twice must not take a job from a worker
    /// that is alive. The in-process queue works on one machine, where waiting for the lease would only cost time.
    pub fn of(queue: &Queue) -> Self {
        match queue {
            Queue::Embedded(_) => Self::Process,
            Queue::Rabbit(_) => Self::Lease,
        }
    }

    /// Whether the worker with this name has certainly died, so that its lease need not end first.
    pub fn is_dead(self, worker: &str) -> bool {
        match self {
            Self::Lease => false,
            Self::Process => WorkerName::of_this_process().knows_dead(worker),
        }
    }
}

/// A zombie does not count as alive.
fn process_state(pid: u32) -> ProcessState {
    let Ok(mut system) = System::new() else { return ProcessState::Unknown };
    let pid = Pid::from_u32(pid);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, ProcessRefreshKind::nothing());
    match system.process(pid) {
        None => ProcessState::Gone,
        Some(process) => match process.status() {
            sysinfo::ProcessStatus::Zombie | sysinfo::ProcessStatus::Dead => ProcessState::Gone,
            _ => ProcessState::Alive(process.start_time()),
        },
    }
}

/// Absent if `/proc` does not show the processes of this namespace, or not those of other users: what is missing there
/// may be alive.
#[cfg(target_os = "linux")]
fn realm() -> Option<PidNamespace> {
    use std::fs;

    let link = |path: &str| fs::read_link(path).ok()?.into_os_string().into_string().ok();
    let shown: u32 = link("/proc/self")?.parse().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let hides = mounts.lines().any(|line| {
        let mut parts = line.split(' ').skip(1);
        parts.next() == Some("/proc") && parts.nth(1).is_some_and(|options| options.contains("hidepid="))
    });
    if shown != std::process::id() || hides {
        return None;
    }
    let namespace = link("/proc/self/ns/pid")?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let boot: String = boot.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    (boot.len() == 12).then_some(PidNamespace { boot, namespace })
}

/// Other systems have no PID namespaces.
#[cfg(not(target_os = "linux"))]
fn realm() -> Option<PidNamespace> {
    Some(PidNamespace { boot: "any".to_owned(), namespace: 0 })
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}@", self.host, self.pid, self.start)?;
        match &self.realm {
            Some(PidNamespace { boot, namespace }) => write!(f, "{boot}.{namespace}.{}", self.random),
            None => write!(f, "-.-.{}", self.random),
        }
    }
}

impl FromStr for WorkerName {
    type Err = ();

    /// Also reads names of older versions, `host:pid:start`; they in turn cannot read these, and wait for the lease.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (process, rest) = match text.rsplit_once('@') {
            Some((process, rest)) => (process, Some(rest)),
            None => (text, None),
        };
        let mut parts = process.rsplitn(3, ':');
        let (Some(start), Some(pid), Some(host)) = (parts.next(), parts.next(), parts.next()) else { return Err(()) };
        let (realm, random) = match rest.map(|rest| rest.splitn(3, '.').collect::<Vec<_>>()).as_deref() {
            None => (None, ""),
            Some(["-", "-", random]) => (None, *random),
            Some([boot, namespace, random]) => {
                let namespace = namespace.parse().map_err(|_| ())?;
                (Some(PidNamespace { boot: (*boot).to_owned(), namespace }), *random)
            }
            Some(_) => return Err(()),
        };
        Ok(Self {
            host: host.to_owned(),
            pid: pid.parse().map_err(|_| ())?,
            start: start.parse().map_err(|_| ())?,
            realm,
            random: random.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::EmbeddedQueue;

    /// Another process of this machine, as itself and with what tells it from others changed.
    fn other(of: &WorkerName, pid: u32) -> WorkerName {
        let ProcessState::Alive(start) = process_state(pid) else { panic!("{pid} is not alive") };
        WorkerName { pid, start, random: "00000000".to_owned(), ..of.clone() }
    }

    #[test]
    fn the_living_are_not_dead_and_the_dead_are() {
        let me = WorkerName::of_this_process();
        assert_eq!(me.to_string().parse(), Ok(me.clone()));
        assert_eq!(me, WorkerName::of_this_process());
        assert!(!me.knows_dead(&me.to_string()));

        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let other = other(&me, child.id());
        assert!(!me.knows_dead(&other.to_string()), "it lives");
        let reborn = WorkerName { start: other.start - 100, ..other.clone() };
        assert!(me.knows_dead(&reborn.to_string()), "its number was given to another process");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(me.knows_dead(&other.to_string()));
        assert!(Liveness::of(&Queue::Embedded(EmbeddedQueue::default())).is_dead(&other.to_string()));
        assert!(!Liveness::Lease.is_dead(&other.to_string()), "with a broker, its lease has to end");
    }

    #[test]
    fn processes_that_cannot_be_seen_are_not_dead() {
        let me = WorkerName::of_this_process();
        // No process has this number.
        let gone = WorkerName { pid: 4_194_305, random: "00000000".to_owned(), ..me.clone() };
        assert!(me.knows_dead(&gone.to_string()));
        let realm = me.realm.clone().unwrap();
        let elsewhere = [
            WorkerName { host: "elsewhere".to_owned(), ..gone.clone() },
            WorkerName {
                realm: Some(PidNamespace { boot: "0123456789ab".to_owned(), ..realm.clone() }),
                ..gone.clone()
            },
            WorkerName { realm: Some(PidNamespace { namespace: realm.namespace + 1, ..realm }), ..gone.clone() },
            WorkerName { realm: None, ..gone.clone() },
        ];
        for name in elsewhere {
            assert!(!me.knows_dead(&name.to_string()), "{name}");
        }
        let blind = WorkerName { realm: None, ..me.clone() };
        assert!(
            !blind.knows_dead(&gone.to_string()) && !blind.knows_dead(&WorkerName { realm: None, ..gone }.to_string())
        );
    }

    #[test]
    fn names_of_older_versions_are_read_and_wait_for_their_lease() {
        let me = WorkerName::of_this_process();
        let old = format!("{}:4194305:1", me.host);
        assert_eq!(old.parse::<WorkerName>().unwrap().pid(), 4_194_305);
        assert!(!me.knows_dead(&old));
        // An older version reads the last part as a number, and takes a name that it cannot read for alive.
        assert!(me.to_string().rsplit(':').next().unwrap().parse::<u64>().is_err());
        assert_eq!(WorkerName::in_words("vm:12:34"), "process 12 on vm");
        assert_eq!(WorkerName::in_words("vm:12:34@1f3a9c02d4e5.4026531836.7d01e2aa"), "process 12 on vm");
        assert_eq!(WorkerName::in_words("vm:12:34@-.-.7d01e2aa"), "process 12 on vm");
        for text in ["nonsense", "vm:12:34@x", "vm:12:34@a.b.c", "vm:x:34", "12:34"] {
            assert!(!me.knows_dead(text));
            assert_eq!(WorkerName::in_words(text), text);
        }
    }
}

//! A separate place for each test, and the program run in it.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::{
    fmt::Display,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longer than any working operation takes.
pub const TIMEOUT: Duration = Duration::from_secs(180);
/// The pause between two checks of something that sends no notification.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Polls until there is a value; on a timeout, fails with the last state.
pub async fn until<T, E: Display, F: Future<Output = Result<T, E>>>(mut look: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(instead) => assert!(start.elapsed() < TIMEOUT, "{instead}"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Like [`until`], for a thread that may block.
#[track_caller]
pub fn blocking_until<T, E: Display>(mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) => assert!(start.elapsed() < TIMEOUT, "{instead}"),
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A folder with the data, results and pictures of one test; deleted when the test ends.
pub struct TestDir {
    pub folder: tempfile::TempDir,
}

/// The result of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl TestDir {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The program, in an environment that contains only this place.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_acetate")), args)
    }

    /// Another copy of the program.
    pub fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("ACETATE__DATA_DIR", self.path("data"))
            .env("ACETATE__WORKER__HEARTBEAT_SECONDS", "0.05")
            .env("HF_HUB_OFFLINE", "1")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        ran(self.command(args).output().unwrap())
    }

    /// Runs a command that must succeed, and returns its output as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ran.stdout))
    }

    /// The manifest in a folder of results.
    pub fn manifest(&self, out: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(out).join("manifest.json")).unwrap()).unwrap()
    }

    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A small picture of one color.
    pub fn picture(&self, name: &str, pixel: [u8; 4]) -> String {
        let path = self.path(name);
        image::RgbaImage::from_pixel(8, 6, image::Rgba(pixel)).save(&path).unwrap();
        path.display().to_string()
    }
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A checkpoint of `tests/golden`.
pub fn checkpoint(name: &str) -> String {
    golden(&format!("checkpoints/{name}"))
}

pub fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    assert!(path.exists(), "{} is missing", path.display());
    path.display().to_string()
}

/// The names in a folder, sorted; empty if the folder does not exist.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The same command in a PID namespace of its own, as in a container; nothing, said aloud, where that is not possible.
pub fn in_pid_namespace(command: &Command, what: &str) -> Option<Command> {
    let flags = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let unshare = ["/usr/bin/unshare", "/bin/unshare"].into_iter().find(|path| Path::new(path).exists());
    let works = |unshare: &&str| {
        let tried = Command::new(unshare).args(flags).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let Some(unshare) = unshare.filter(works) else {
        skipped(what, "this user cannot make PID namespaces (unshare --pid --fork --mount-proc)");
        return None;
    };
    let mut inside = Command::new(unshare);
    inside.args(flags).arg(command.get_program()).args(command.get_args()).env_clear().stdin(Stdio::null());
    inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        inside.current_dir(folder);
    }
    Some(inside)
}

pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    String::from_utf8_lossy(&id.stdout).trim() == "0"
}

/// Prints that something was not tested, without the test harness capturing it; `scripts/test` collects these lines.
pub fn skipped(what: &str, why: &str) {
    std::io::stderr().write_all(format!("SKIPPED {what}: {why}\n").as_bytes()).unwrap();
}

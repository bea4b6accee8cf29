//! A separate RabbitMQ node for a test, which may be killed, stopped, frozen and restarted without affecting other
//! tests.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{common::blocking_until, services::rabbit::Broker};

/// A running node, deleted with its data when the test ends.
pub struct Node {
    program: PathBuf,
    pub folder: TempDir,
    amqp: u16,
    api: u16,
    /// The port of Erlang's own protocol.
    distribution: u16,
    process: Option<Child>,
}

impl Node {
    /// Starts a node whose `rabbit` application has these additional settings, in Erlang's syntax. None if RabbitMQ is
    /// not installed on this machine.
    pub fn start(settings: &str) -> Option<Self> {
        Some(Self::of(program()?, settings, "rabbitmq_management", |_| String::new()))
    }

    /// Starts a node of this server, with these plugins. `conf` gives further lines of `rabbitmq.conf`; files may be
    /// put into the folder that it gets.
    pub fn of(program: PathBuf, settings: &str, plugins: &str, conf: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [amqp, api, distribution] = free_ports();
        let conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {api}\n\
             log.file.level = warning\n{}",
            conf(folder.path())
        );
        fs::write(folder.path().join("rabbitmq.conf"), conf).unwrap();
        fs::write(folder.path().join("advanced.config"), format!("[{{rabbit, [{settings}]}}].\n")).unwrap();
        fs::write(folder.path().join("plugins"), format!("[{plugins}].\n")).unwrap();
        fs::write(folder.path().join("env"), "").unwrap();
        let mut node = Self { program, folder, amqp, api, distribution, process: None };
        node.begin();
        node
    }

    /// Erlang in the broker.
    pub fn evaluate(&self, expression: &str) {
        let output = Command::new(self.program.with_file_name("rabbitmqctl"))
            .env("HOME", self.folder.path())
            .env("RABBITMQ_NODENAME", self.name())
            .env("RABBITMQ_CONF_ENV_FILE", self.folder.path().join("env"))
            .args(["eval", expression])
            .output()
            .unwrap();
        assert!(output.status.success(), "{expression}: {output:?}");
    }

    fn name(&self) -> String {
        format!("acetate-{}@localhost", self.amqp)
    }

    pub fn broker(&self) -> Broker {
        Broker {
            amqp: format!("amqp://guest:guest@127.0.0.1:{}", self.amqp),
            api: format!("http://guest:guest@127.0.0.1:{}", self.api),
        }
    }

    /// Starts it again with its data.
    pub fn again(&mut self) {
        self.begin();
    }

    /// Kills it, as if the machine had failed.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        self.gone();
    }

    /// Stops it, as an operator does for a restart.
    pub fn stop(&mut self) {
        self.signal("-TERM");
        self.gone();
    }

    /// Freezes it: it keeps its connections but does not respond.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn begin(&mut self) {
        let at = |name: &str| self.folder.path().join(name);
        let log = fs::File::create(at("output")).unwrap();
        let process = Command::new(&self.program)
            .env("HOME", self.folder.path())
            .env("RABBITMQ_NODENAME", self.name())
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", at("env"))
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("plugins"))
            .env("RABBITMQ_MNESIA_BASE", at("data"))
            .env("RABBITMQ_LOG_BASE", at("logs"))
            .env("RABBITMQ_PID_FILE", at("pid"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            // The script starts Erlang's virtual machine as another process; signals must reach both.
            .process_group(0)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let api = self.broker().client();
        let output = || fs::read_to_string(at("output")).unwrap_or_default();
        blocking_until(|| {
            if api.answers() { Ok(()) } else { Err(format!("a RabbitMQ node does not start: {}", output())) }
        });
    }

    fn signal(&self, name: &str) {
        let Some(process) = &self.process else { return };
        let group = format!("-{}", process.id());
        let _ = Command::new("kill").args([name, "--", &group]).stderr(Stdio::null()).status();
    }

    /// Waits until its port is free.
    fn gone(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
        blocking_until(|| {
            TcpListener::bind(("127.0.0.1", self.amqp))
                .map_err(|error| format!("a RabbitMQ node does not end: {error}"))
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.signal("-CONT");
        self.signal("-KILL");
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
    }
}

/// The script itself. The command on the path switches to another user, who may not read the test's files.
pub fn program() -> Option<PathBuf> {
    ["/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/rabbitmq/sbin/rabbitmq-server"]
        .into_iter()
        .map(PathBuf::from)
        .find(|program| program.is_file())
}

/// Servers of other versions than this machine's, which `scripts/services` unpacked.
pub fn other_programs() -> Vec<PathBuf> {
    env::var_os("ACETATE_TEST_RABBITMQ_SERVERS").map(|list| env::split_paths(&list).collect()).unwrap_or_default()
}

pub fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let held = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

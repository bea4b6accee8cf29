//! A RabbitMQ node of a test's own, which may be killed, stopped, frozen and started again without harm to others.

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{common::blocking_until, services::rabbit::Broker};

/// Gone, with its data, when the test ends.
pub struct Node {
    folder: TempDir,
    amqp: u16,
    api: u16,
    /// Of Erlang's own protocol.
    distribution: u16,
    process: Option<Child>,
}

impl Node {
    /// Starts a node whose `rabbit` application has these further settings, in Erlang's form; nothing where RabbitMQ is
    /// not installed on this machine.
    pub fn start(settings: &str) -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().unwrap();
        let [amqp, api, distribution] = free_ports();
        let conf = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {api}\n\
             log.file.level = warning\n"
        );
        fs::write(folder.path().join("rabbitmq.conf"), conf).unwrap();
        fs::write(folder.path().join("advanced.config"), format!("[{{rabbit, [{settings}]}}].\n")).unwrap();
        fs::write(folder.path().join("plugins"), "[rabbitmq_management].\n").unwrap();
        fs::write(folder.path().join("env"), "").unwrap();
        let mut node = Self { folder, amqp, api, distribution, process: None };
        node.begin(program);
        Some(node)
    }

    pub fn broker(&self) -> Broker {
        Broker {
            amqp: format!("amqp://guest:guest@127.0.0.1:{}", self.amqp),
            api: format!("http://guest:guest@127.0.0.1:{}", self.api),
        }
    }

    /// Starts it again, with the data that it had.
    pub fn again(&mut self) {
        self.begin(program().expect("it was there before"));
    }

    /// As when the machine dies.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        self.gone();
    }

    /// As when an operator restarts it.
    pub fn stop(&mut self) {
        self.signal("-TERM");
        self.gone();
    }

    /// It keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn begin(&mut self, program: &str) {
        let at = |name: &str| self.folder.path().join(name);
        let log = fs::File::create(at("output")).unwrap();
        let process = Command::new(program)
            .env("HOME", self.folder.path())
            .env("RABBITMQ_NODENAME", format!("acetate-{}@localhost", self.amqp))
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
            // The script starts Erlang's machine beside it: signals go to both.
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

/// The script itself: what is on the path changes to another user, who may not read the test's files.
fn program() -> Option<&'static str> {
    ["/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/rabbitmq/sbin/rabbitmq-server"]
        .into_iter()
        .find(|program| Path::new(program).is_file())
}

fn free_ports() -> [u16; 3] {
    let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

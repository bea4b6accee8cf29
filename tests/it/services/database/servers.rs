//! Databases as they are hosted: poolers, and servers of the test's own.
//!
//! Where they come from: tests/database/tools.sh, which scripts/services calls.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{
    common::{self, blocking_until, is_root},
    services::database::support::postgres_url,
};

pub const POOLERS: [&str; 2] = ["ACETATE_TEST_PGBOUNCER_1_18", "ACETATE_TEST_PGBOUNCER_1_24"];
pub const SERVERS: [&str; 3] = ["", "ACETATE_TEST_POSTGRES_17", "ACETATE_TEST_POSTGRES_18"];

/// The program or folder that a variable names, or the reason to leave the test out.
pub fn tool(variable: &str) -> Option<PathBuf> {
    let found = env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        common::skipped(&format!("what needs {variable}"), "scripts/services could not get it from Debian's archive");
    }
    found
}

/// The folder of a server's programs: of a variable of [`SERVERS`], or of the machine's own server if it is empty.
pub fn server_programs(variable: &str) -> Option<PathBuf> {
    if !variable.is_empty() {
        return tool(variable);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let found = versions.map(|version| version.unwrap().path().join("bin")).find(|bin| bin.join("initdb").exists());
    if found.is_none() {
        common::skipped("servers of PostgreSQL", "there is none in /usr/lib/postgresql");
    }
    found
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// These servers refuse to run as root.
fn as_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command
}

/// A folder that such a server may use.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("acetate-db").tempdir_in("/tmp").unwrap();
    if is_root() {
        assert!(Command::new("chown").arg("65534").arg(folder.path()).status().unwrap().success());
    }
    folder
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// PgBouncer before the shared server, or before another one.
pub struct Pooler {
    pub port: u16,
    folder: tempfile::TempDir,
    _process: Process,
}

impl Pooler {
    /// With its own defaults, except for the mode and the `settings`.
    pub fn start(program: &Path, mode: &str, settings: &str) -> Self {
        Self::at(free_port(), program, mode, settings)
    }

    /// At a port of one's choice.
    pub fn at(port: u16, program: &Path, mode: &str, settings: &str) -> Self {
        let options: sqlx::postgres::PgConnectOptions = postgres_url().parse().unwrap();
        let (host, upstream, folder) = (options.get_host(), options.get_port(), folder());
        let at = folder.path().display();
        fs::write(folder.path().join("users"), "\"postgres\" \"\"\n\"acetate\" \"acetate\"\n").unwrap();
        let file = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={upstream}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {at}/users\npool_mode = {mode}\n{settings}\n"
        );
        fs::write(&file, text).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = as_user(program);
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = Process(command.spawn().unwrap());
        let pooler = Self { port, folder, _process: process };
        pooler.until_log("process up");
        pooler
    }

    /// The address of a schema of the shared server, through this pooler.
    pub fn url(&self, url: &str) -> String {
        Self::url_at(url, self.port)
    }

    /// The same address at another port of this machine.
    pub fn url_at(url: &str, port: u16) -> String {
        let (before, rest) = url.rsplit_once('@').unwrap();
        let (_, database) = rest.split_once('/').unwrap();
        format!("{before}@127.0.0.1:{port}/{database}")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn until_log(&self, text: &str) {
        blocking_until(|| if self.log().contains(text) { Ok(()) } else { Err(self.log()) });
    }
}

/// pgpool before a primary and its replica.
pub struct Pgpool {
    pub port: u16,
    folder: tempfile::TempDir,
    process: Process,
}

impl Pgpool {
    /// All reads that are balanced go to the replica.
    pub fn start(program: &Path, mode: &str, balance: &str, primary: &Server, replica: &Server) -> Self {
        let (port, folder) = (free_port(), folder());
        let at = folder.path().display();
        let mut text = format!(
            "backend_clustering_mode = '{mode}'\nload_balance_mode = {balance}\nlisten_addresses = '127.0.0.1'\n\
             port = {port}\npcp_port = {}\nsocket_dir = '{at}'\npcp_socket_dir = '{at}'\n\
             pid_file_name = '{at}/pid'\nlogdir = '{at}'\npool_passwd = ''\nsr_check_user = 'postgres'\n\
             sr_check_period = 1\nnum_init_children = 20\n",
            free_port()
        );
        for (number, (server, weight)) in [(primary, 0), (replica, 1)].into_iter().enumerate() {
            text += &format!(
                "backend_hostname{number} = '127.0.0.1'\nbackend_port{number} = {}\nbackend_weight{number} = {weight}\n",
                server.port
            );
        }
        let file = folder.path().join("pgpool.conf");
        fs::write(&file, text).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = as_user(program);
        command.arg("-n").arg("-f").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = Process(command.spawn().unwrap());
        let pool = Self { port, folder, process };
        blocking_until(|| {
            let log = fs::read_to_string(pool.folder.path().join("log")).unwrap_or_default();
            if log.contains("successfully started") { Ok(()) } else { Err(log) }
        });
        pool
    }
}

impl Drop for Pgpool {
    /// Its children end with it only if it is asked.
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.0.id().to_string()).status();
        let _ = self.process.0.wait();
    }
}

/// A server of PostgreSQL, empty, for `postgres` without a password.
pub struct Server {
    pub port: u16,
    programs: PathBuf,
    folder: tempfile::TempDir,
    process: Option<Process>,
    settings: String,
}

impl Server {
    pub fn start(programs: &Path, settings: &str) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        let mut command = as_user(&programs.join("initdb"));
        run(command
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(&data));
        Self::of(programs, folder, settings)
    }

    fn of(programs: &Path, folder: tempfile::TempDir, settings: &str) -> Self {
        let mut server = Self {
            port: free_port(),
            programs: programs.to_owned(),
            folder,
            process: None,
            settings: settings.to_owned(),
        };
        server.resume();
        server
    }

    /// A replica of this server.
    pub fn replica(&self) -> Self {
        let folder = folder();
        let mut command = as_user(&self.programs.join("pg_basebackup"));
        command.args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-c",
            "fast",
            "--no-sync",
            "-R",
            "-p",
            &self.port.to_string(),
            "-D",
        ]);
        run(command.arg(folder.path().join("data")));
        Self::of(&self.programs, folder, &self.settings)
    }

    /// Makes a replica the primary.
    pub fn promote(&self) {
        let mut command = as_user(&self.programs.join("pg_ctl"));
        run(command.args(["promote", "-w", "-D"]).arg(self.folder.path().join("data")));
    }

    /// Starts it again after [`Server::kill`], at the same port.
    pub fn resume(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = as_user(&self.programs.join("postgres"));
        command.arg("-D").arg(self.folder.path().join("data")).args(["-p", &self.port.to_string(), "-k"]);
        command.arg(self.folder.path());
        for setting in ["fsync=off", "listen_addresses=127.0.0.1"].into_iter().chain(self.settings.lines()) {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(Process(command.spawn().unwrap()));
        blocking_until(|| {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            if log.contains("ready to accept") { Ok(()) } else { Err(log) }
        });
    }

    /// As a machine that is switched off: connections are reset, and nobody listens.
    pub fn kill(&mut self) {
        self.process = None;
        // The other processes of the server notice it by themselves.
        blocking_until(|| match TcpListener::bind(("127.0.0.1", self.port)) {
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        });
        let _ = fs::remove_file(self.folder.path().join("data/postmaster.pid"));
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

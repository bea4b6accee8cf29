//! A worker whose server does not respond at startup waits and says so. It continues once the server responds, and
//! otherwise exits with an error.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::net::{TcpListener, TcpSocket};

use crate::{
    faults::service::Gate,
    services::{
        proxy::{Fault, Proxy},
        world::{Worker, World},
    },
};

/// A server that a worker needs.
#[derive(Debug, Clone, Copy)]
enum Server {
    RabbitMq,
    Postgres,
    S3,
}

impl Server {
    const ALL: [Self; 3] = [Self::RabbitMq, Self::Postgres, Self::S3];

    fn setting(self) -> &'static str {
        match self {
            Self::RabbitMq => "ACETATE__QUEUE__URL",
            Self::Postgres => "ACETATE__STATUS__URL",
            Self::S3 => "ACETATE__STORE__ENDPOINT",
        }
    }

    fn url(self, world: &World) -> String {
        let service = world.service.as_ref().unwrap();
        match self {
            Self::RabbitMq => service.vhost.url(),
            Self::Postgres => service.schema.url.clone(),
            Self::S3 => service.s3.endpoint(),
        }
    }

    /// Its address as `host:port`, and its setting with `{}` in place of the address.
    fn address(self, world: &World) -> (String, String) {
        let url = self.url(world);
        let start = url.rfind('@').or_else(|| url.rfind("//").map(|at| at + 1)).unwrap() + 1;
        let end = url[start..].find('/').map_or(url.len(), |at| start + at);
        (url[start..end].to_owned(), format!("{}{{}}{}", &url[..start], &url[end..]))
    }
}

/// A worker with `server` at `address`. It waits `timeout` seconds for a response from RabbitMQ and S3, and ten from
/// Postgres.
fn worker(world: &World, server: Server, address: &str, start_timeout: &str, timeout: &str) -> Worker {
    let url = server.address(world).1.replace("{}", address);
    world.worker_with(&[
        (server.setting(), &url),
        ("ACETATE__WORKER__START_TIMEOUT_SECONDS", start_timeout),
        ("ACETATE__QUEUE__CONNECT_TIMEOUT_SECONDS", timeout),
        ("ACETATE__STORE__CONNECT_TIMEOUT_SECONDS", timeout),
        ("ACETATE__STORE__READ_TIMEOUT_SECONDS", timeout),
        ("ACETATE__STORE__OPERATION_TIMEOUT_SECONDS", timeout),
    ])
}

/// The number of log lines that say that the worker waits for this server.
fn waits(worker: &Worker, address: &str) -> usize {
    let log = worker.log();
    log.lines().filter(|line| line.contains("WARN") && line.contains("waiting for") && line.contains(address)).count()
}

async fn gives_up(server: Server, address: &str, start_timeout: &str) {
    let world = World::service().await;
    let start = Instant::now();
    let mut worker = worker(&world, server, address, start_timeout, "3");
    let code = worker.ended().await;
    let (took, log) = (start.elapsed(), worker.log());
    assert_eq!(code, Some(1), "{server:?}: {log}");
    assert!(waits(&worker, address) >= 2, "{server:?}: {log}");
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(60), "{server:?}: {took:?}: {log}");
    let last = log.lines().last().unwrap();
    assert!(last.contains(address) && last.starts_with("error"), "{server:?}: {log}");
    assert!(!log.contains("ready for jobs"), "{server:?}: {log}");
}

async fn comes_late(server: Server) {
    let world = World::service().await;
    let gate = Gate::before(&server.address(&world).0).await;
    gate.shut();
    let address = gate.address.to_string();
    let worker = worker(&world, server, &address, "120", "3");
    worker.until_log("waiting for, twice", |_| waits(&worker, &address) >= 2).await;
    gate.open();
    worker.until_said("ready for jobs").await;
}

async fn told_to_leave(server: Server) {
    let world = World::service().await;
    let refusing = Refusing::new();
    let mut worker = worker(&world, server, &refusing.address, "120", "3");
    worker.until_said("waiting for").await;
    let start = Instant::now();
    worker.signal("-TERM");
    assert_eq!(worker.ended().await, Some(0), "{server:?}: {}", worker.log());
    assert!(start.elapsed() < Duration::from_secs(10), "{server:?}: {}", worker.log());
}

/// The store knows until when the database was in use. Until it answers, nothing starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_waits_for_the_store_that_knows_the_age_of_the_database() {
    let mut world = World::service().await;
    let proxy = Proxy::before(world.service.as_ref().unwrap().s3.address).await;
    world.set("ACETATE__STORE__ENDPOINT", &proxy.endpoint());
    world.set("ACETATE__STORE__OPERATION_TIMEOUT_SECONDS", "3");
    assert_eq!(world.run(&["migrate"]).await.code, Some(0));
    world.sql("UPDATE lineage SET alive_at = alive_at - 120000").await;
    let mut worker = world.worker();
    worker.until_said("ready for jobs").await;
    worker.signal("-TERM");
    assert_eq!(worker.ended().await, Some(0), "{}", worker.log());

    world.sql("UPDATE lineage SET alive_at = alive_at - 3600000").await;
    for _ in 0..200 {
        proxy.next("HEAD", Fault::Answer("503 Slow Down", ""));
    }
    let worker = world.worker();
    let waits = "no job starts before it is known whether the database was restored";
    worker.until_log(waits, |log| log.matches(waits).count() > 1).await;
    assert!(!worker.log().contains("ready for jobs"), "{}", worker.log());
    proxy.forget();
    worker.until_said("nothing starts: the database was restored").await;
    worker.until_said("ready for jobs").await;
}

/// An address on which nothing listens while this exists.
struct Refusing {
    address: String,
    _bound: TcpSocket,
}

impl Refusing {
    fn new() -> Self {
        let bound = TcpSocket::new_v4().unwrap();
        bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self { address: bound.local_addr().unwrap().to_string(), _bound: bound }
    }
}

/// Stops the worker while it waits for a response, not for the next attempt.
async fn told_to_leave_by_silence(server: Server) {
    let world = World::service().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut worker = worker(&world, server, &silent.local_addr().unwrap().to_string(), "120", "60");
    // The worker has connected.
    let (_called, _) = silent.accept().await.unwrap();
    let start = Instant::now();
    worker.signal("-TERM");
    assert_eq!(worker.ended().await, Some(0), "{server:?}: {}", worker.log());
    assert!(start.elapsed() < Duration::from_secs(8), "{server:?}: {}", worker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_is_waited_for_and_given_up() {
    join_all(Server::ALL.map(|server| async move {
        {
            let refusing = Refusing::new();
            gives_up(server, &refusing.address, "15").await;
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_silent_is_waited_for_and_given_up() {
    let silent = async |server| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Each attempt waits at most ten seconds for a response.
        gives_up(server, &listener.local_addr().unwrap().to_string(), "25").await;
    };
    join_all(Server::ALL.map(silent)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_late_is_waited_for() {
    join_all(Server::ALL.map(comes_late)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_waits_can_be_told_to_leave() {
    join_all(Server::ALL.map(told_to_leave)).await;
    join_all(Server::ALL.map(told_to_leave_by_silence)).await;
}

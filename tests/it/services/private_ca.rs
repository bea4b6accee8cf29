//! Servers with certificates of a private authority: one setting, `tls.ca_file`, makes every client trust it.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    process::Command,
};

use crate::{
    common::{TestDir, ran},
    http::{
        server::{Server, picture},
        webhooks::{SECRET, receiver},
    },
    services::{tls::PrivateCa, world::World},
};

/// The address in a URL.
fn address(url: &str) -> SocketAddr {
    let rest = url.split_once("://").unwrap().1;
    let rest = rest.split(['/', '?']).next().unwrap();
    rest.rsplit('@').next().unwrap().to_socket_addrs().unwrap().next().unwrap()
}

/// The same URL with another host and port.
fn at(url: &str, scheme: &str, port: u16) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    let end = rest.find('/').unwrap_or(rest.len());
    let user = rest[..end].rsplit_once('@').map_or(String::new(), |(user, _)| format!("{user}@"));
    format!("{scheme}://{user}localhost:{port}{}", &rest[end..])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_of_a_service_are_trusted_through_one_setting() {
    let ca = PrivateCa::new();
    let mut world = World::service().await;
    let service = world.service.as_ref().unwrap();
    let (queue, database, store) = (service.vhost.url(), service.schema.url.clone(), service.s3.endpoint());
    let queue = at(&queue, "amqps", ca.before(address(&queue)));
    let and = if database.contains('?') { '&' } else { '?' };
    let database =
        format!("{}{and}sslmode=verify-full", at(&database, "postgres", ca.before_postgres(address(&database))));
    let store = at(&store, "https", ca.before(address(&store)));
    world.set("ACETATE__QUEUE__URL", &queue);
    world.set("ACETATE__STATUS__URL", &database);
    world.set("ACETATE__STORE__ENDPOINT", &store);

    let doctor = world.run(&["doctor"]).await;
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    for part in ["results", "queue"] {
        let line = doctor.stdout.lines().find(|line| line.starts_with(part)).unwrap();
        assert!(line.contains("BROKEN") && line.contains("tls.ca_file"), "{line}");
    }
    assert!(doctor.stdout.lines().any(|line| line.starts_with("database") && line.contains("BROKEN")), "{doctor:?}");

    world.set("ACETATE__TLS__CA_FILE", &ca.file().display().to_string());
    // Doctor makes neither tables nor queues.
    world.run(&["migrate"]).await;
    world.service.as_ref().unwrap().vhost.ready().await.close().await;
    let doctor = world.run(&["doctor"]).await;
    for part in ["results", "queue", "database"] {
        assert!(
            doctor.stdout.lines().any(|line| line.starts_with(part) && line.contains(" ok ")),
            "{part}: {doctor:?}"
        );
    }
    let worker = world.worker();
    let (a, b) = (world.input("a.png", [9; 4]), world.input("b.png", [9; 4]));
    let id = world.submit(&["composite", "--input", &a, "--input", &b, "--output", &world.output("x")]).await;
    world.until(&id, &["succeeded"]).await;
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_does_not_speak_tls_is_named() {
    let mut world = World::service().await;
    let service = world.service.as_ref().unwrap();
    let (queue, store) = (service.vhost.url(), service.s3.endpoint());
    world.set("ACETATE__QUEUE__URL", &queue.replace("amqp://", "amqps://"));
    world.set("ACETATE__STORE__ENDPOINT", &store.replace("http://", "https://"));
    let doctor = world.run(&["doctor"]).await;
    for (part, advice) in [("results", "store.endpoint"), ("queue", "amqp:// in queue.url")] {
        let line = doctor.stdout.lines().find(|line| line.starts_with(part)).unwrap();
        assert!(line.contains("does not speak TLS") && line.contains(advice), "{line}");
    }
}

/// What is wrong with it, since when, and whose it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_valid_says_why() {
    let expired = PrivateCa::with(|params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 2);
        params.not_after = rcgen::date_time_ymd(2021, 3, 4);
    });
    let authority = PrivateCa::with(|params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let mut world = World::service().await;
    let service = world.service.as_ref().unwrap();
    let (queue, database, store) = (service.vhost.url(), service.schema.url.clone(), service.s3.endpoint());
    let and = if database.contains('?') { '&' } else { '?' };
    for (ca, wanted) in [(expired, "expired on 2021-03-04"), (authority, "CA:FALSE")] {
        let ports = (ca.before(address(&queue)), ca.before_postgres(address(&database)), ca.before(address(&store)));
        world.set("ACETATE__QUEUE__URL", &at(&queue, "amqps", ports.0));
        let verified = format!("{}{and}sslmode=verify-full", at(&database, "postgres", ports.1));
        world.set("ACETATE__STATUS__URL", &verified);
        world.set("ACETATE__STORE__ENDPOINT", &at(&store, "https", ports.2));
        world.set("ACETATE__TLS__CA_FILE", &ca.file().display().to_string());
        let doctor = world.run(&["doctor"]).await;
        for (part, port) in [("queue", ports.0), ("database", ports.1), ("results", ports.2)] {
            let line = doctor.stdout.lines().find(|line| line.starts_with(part)).unwrap();
            let named = line.contains(&format!("localhost:{port}"));
            assert!(line.contains("BROKEN") && line.contains(wanted) && named, "{line}");
        }
    }
}

/// Ports of servers that are something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_kind_is_named_by_its_setting() {
    let mut world = World::service().await;
    let service = world.service.as_ref().unwrap();
    let (queue, database) = (service.vhost.url(), service.schema.url.clone());
    let web = web_server();
    let at_web = |url: &str, scheme: &str| at(url, scheme, web).replace("localhost", "127.0.0.1");
    world.set("ACETATE__QUEUE__URL", &at_web(&queue, "amqp"));
    world.set("ACETATE__STATUS__URL", &at_web(&database, "postgres"));
    world.set("ACETATE__STORE__ENDPOINT", &format!("http://127.0.0.1:{web}"));
    let doctor = world.run(&["doctor"]).await;
    for (part, wanted) in [
        ("queue", "is not RabbitMQ's AMQP port"),
        ("database", "does not speak as Postgres does: correct the host and port in ACETATE__STATUS__URL"),
        ("results", "is not an S3 server; correct the host and port in store.endpoint"),
    ] {
        let line = doctor.stdout.lines().find(|line| line.starts_with(part)).unwrap();
        assert!(line.contains("BROKEN") && line.contains(wanted), "{line}");
    }
    // RabbitMQ instead of Postgres, and its page instead of its queues.
    world.set("ACETATE__STATUS__URL", &at(&database, "postgres", address(&queue).port()));
    let api =
        std::env::var("ACETATE_TEST_RABBITMQ_API").unwrap_or_else(|_| "http://guest:guest@127.0.0.1:15672".into());
    world.set("ACETATE__QUEUE__URL", &at(&queue, "amqp", address(&api).port()));
    let doctor = world.run(&["doctor"]).await;
    for (part, wanted) in [("database", "something other than Postgres"), ("queue", "needs that of AMQP")] {
        let line = doctor.stdout.lines().find(|line| line.starts_with(part)).unwrap();
        assert!(line.contains("BROKEN") && line.contains(wanted), "{line}");
    }
}

/// Answers everything with a page, as simple web servers do; gives the port.
fn web_server() -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = client.read(&mut [0; 4096]);
                let page = "<html>Unsupported method</html>";
                let head = "HTTP/1.1 501 Not Implemented\r\ncontent-type: text/html\r\nserver: SimpleHTTP/0.6\r\n\
                            connection: close\r\n";
                let _ = write!(client, "{head}content-length: {}\r\n\r\n{page}", page.len());
                // The rest of the request, so that the answer is not lost with it.
                let _ = client.shutdown(std::net::Shutdown::Write);
                let _ = client.read_to_end(&mut Vec::new());
            });
        }
    });
    port
}

#[test]
fn webhooks_pictures_and_the_hub_trust_it_too() {
    let ca = PrivateCa::new();
    let (plain, calls) = receiver(&[]);
    let hook = format!("https://localhost:{}", ca.before(SocketAddr::from(([127, 0, 0, 1], plain))));
    let place = TestDir::new();
    let file = ca.file().display().to_string();
    let settings = [
        ("ACETATE__HTTP__WEBHOOK_SECRET", SECRET),
        ("ACETATE__HTTP__WEBHOOK_ALLOW", &hook),
        ("ACETATE__HTTP__WEBHOOK_RETRY_SECONDS", "0.05"),
    ];
    let distrusting = Server::start(&place, &settings);
    distrusting.submit(&[("kind", "composite"), ("webhook", &format!("{hook}/x"))], &picture(4, 4, [9; 4]));
    crate::common::blocking_until(|| {
        let log = distrusting.log();
        if log.contains("add the authority to tls.ca_file") { Ok(()) } else { Err(log) }
    });
    assert!(calls.try_recv().is_err());
    distrusting.stop();
    let trusting = Server::start(&place, &[&settings[..], &[("ACETATE__TLS__CA_FILE", &file)]].concat());
    // One of its own: the first call's next try may be minutes away.
    trusting.submit(&[("kind", "composite"), ("webhook", &format!("{hook}/y"))], &picture(4, 4, [8; 4]));
    assert!(calls.recv_timeout(crate::common::TIMEOUT).unwrap().is_signed());
    trusting.stop();

    // The hub: what it answers is not a model's list, but it is reached.
    let pull = |ca_file: &str| {
        let mut command: Command = place.command(&["models", "pull", "Org/Name"]);
        command.env_remove("HF_HUB_OFFLINE").env("ACETATE__HUB__ENDPOINT", &hook).env("ACETATE__TLS__CA_FILE", ca_file);
        ran(command.output().unwrap())
    };
    let (without, with) = (pull(""), pull(&file));
    assert!(without.stderr.contains("UnknownIssuer"), "{without:?}");
    assert!(with.code != Some(0) && !with.stderr.contains("UnknownIssuer"), "{with:?}");
    calls.recv_timeout(crate::common::TIMEOUT).unwrap();
}

#[test]
fn a_file_without_certificates_is_named_by_its_setting() {
    let place = TestDir::new();
    for (text, wanted) in
        [("", "has no certificate"), ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not valid")]
    {
        std::fs::write(place.path("ca.pem"), text).unwrap();
        let mut command = place.command(&["doctor"]);
        command.env("ACETATE__TLS__CA_FILE", place.path("ca.pem")).env("ACETATE__STORE__URL", "s3://bucket/x");
        let doctor = ran(command.output().unwrap());
        assert!(doctor.stdout.contains("tls.ca_file: ") && doctor.stdout.contains(wanted), "{doctor:?}");
    }
}

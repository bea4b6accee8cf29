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

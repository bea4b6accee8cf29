//! Users that may not declare, brokers that accept nothing, and connections over TLS.

use std::{
    future::ready,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use acetate::{
    job::{ErrorClass, JobKind},
    queue::{Queue, RabbitOptions, RabbitQueue, TlsFiles},
};
use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};

use crate::{
    common,
    services::{
        broker::{Node, free_ports, other_programs, program},
        rabbit::{Broker, User, Vhost, consume, dispatch, next, options},
        world::World,
    },
};

const ALL: &str = "^acetate\\.";

/// On this machine's broker and on the newest.
fn brokers() -> Vec<Broker> {
    let newest = Broker::newest();
    if newest.is_none() {
        common::skipped("users without rights on the newest RabbitMQ", "scripts/services could not start it");
    }
    [Some(Broker::shared()), newest].into_iter().flatten().collect()
}

fn queue_at(url: &str) -> Queue {
    Queue::Rabbit(RabbitQueue::new(url, options()).unwrap())
}

#[tokio::test]
async fn a_user_that_may_not_declare_uses_what_is_there() {
    for broker in brokers() {
        let vhost = Vhost::on(&broker);
        let user = vhost.user("", ALL, ALL);
        let start = Instant::now();
        let error = queue_at(&user.url).ready(Duration::from_secs(60)).await.unwrap_err();
        assert!(error.class() == ErrorClass::Invalid && start.elapsed() < Duration::from_secs(30), "{error}");
        let text = error.to_string();
        for words in ["acetate.dead: does not exist", "may not declare it", "docs/messages.md", "configure acetate.*"] {
            assert!(text.contains(words), "{words} is not in {text}");
        }

        vhost.ready().await;
        let queue = queue_at(&user.url);
        queue.ready(Duration::from_secs(30)).await.unwrap();
        queue.accepts().await.unwrap();
        let consumer = consume(&queue, &JobKind::ALL, 1);
        for kind in JobKind::ALL {
            queue.publish_dispatch(&dispatch(kind)).await.unwrap();
            next(&consumer).await.ack().await;
        }
        until(|| queue.health().consuming).await;
        consumer.close().await;
        vhost.until_left("acetate.edit", 0).await;
    }
}

#[tokio::test]
async fn rights_may_differ_by_name() {
    for broker in brokers() {
        let vhost = Vhost::on(&broker);
        vhost.ready().await;
        // One queue is missing, and it is one that this user may declare.
        vhost.delete(&format!("/queues/{}/acetate.edit", vhost.name));
        let user = vhost.user("^acetate\\.edit$", ALL, ALL);
        let queue = queue_at(&user.url);
        queue.ready(Duration::from_secs(30)).await.unwrap();
        queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
        vhost.until_left("acetate.edit", 1).await;
    }
}

#[tokio::test]
async fn a_stream_in_the_way_is_noticed_without_the_right_to_declare() {
    for broker in brokers() {
        let vhost = Vhost::on(&broker);
        vhost.ready().await;
        vhost.delete(&format!("/queues/{}/acetate.edit", vhost.name));
        let (_connection, channel) = vhost.foreign().await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("acetate.edit".into(), durable, arguments).await.unwrap();

        let user = vhost.user("", ALL, ALL);
        let queue = queue_at(&user.url);
        queue.ready(Duration::from_secs(30)).await.unwrap();
        let consumer = consume(&queue, &[JobKind::Edit], 1);
        until(|| queue.health().consuming).await;
        queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
        until(|| queue.health().last_error.is_some_and(|error| error.contains("it is a stream"))).await;
        consumer.close().await;
    }
}

/// As a user that may not declare, so that nothing is declared again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readyz_names_what_the_broker_refuses_until_it_is_taken() {
    for broker in brokers() {
        let mut world = World::service_on(broker).await;
        world.service.as_ref().unwrap().vhost.ready().await.close().await;
        let user = world.service.as_ref().unwrap().vhost.user("", ALL, ALL);
        world.set("ACETATE__QUEUE__URL", &user.url);
        refuses(&world, &user).await;
    }
}

async fn refuses(world: &World, user: &User) {
    let vhost = &world.service.as_ref().unwrap().vhost;
    let worker = world.worker();
    let at = worker.http().await;
    let becomes = async |status: u16, words: &[&str]| {
        common::until(|| async {
            let answer = readyz(&at).await;
            let text = answer.1["checks"]["queue"].as_str().unwrap_or_default();
            let says = words.iter().all(|word| text.contains(word));
            if answer.0 == status && says { Ok(()) } else { Err(format!("{words:?} is not in {answer:?}")) }
        })
        .await;
    };
    let picture = world.input("a.png", [1, 2, 3, 255]);
    let submit =
        async |name: &str| world.submit(&["composite", "--input", &picture, "--output", &world.output(name)]).await;
    becomes(200, &["ok"]).await;

    // The right to write.
    vhost.allow(user, "", "^acetate\\.(dead|events)$", ALL);
    vhost.cut(2).await;
    let job = submit("right").await;
    becomes(503, &["acetate.jobs", "rabbitmqctl set_permissions", &vhost.name, &user.name]).await;
    assert!(get(&format!("{at}/metrics")).await.1.contains("acetate_queue_refused 1"));
    vhost.allow(user, "", ALL, ALL);
    assert_eq!(world.until(&job, &["succeeded", "failed"]).await["state"], "succeeded");
    becomes(200, &["ok"]).await;

    // An exchange.
    vhost.delete(&format!("/exchanges/{}/acetate.events", vhost.name));
    let job = submit("exchange").await;
    assert_eq!(world.until(&job, &["succeeded", "failed"]).await["state"], "succeeded");
    becomes(503, &["acetate.events", "does not exist any more"]).await;
    vhost.ready().await.close().await;
    becomes(200, &["ok"]).await;

    // The binding of the dead letters, by a user that may not bind.
    vhost.allow(user, "", "^acetate\\.(jobs|dead|events)$", ALL);
    vhost.delete(&format!("/bindings/{}/e/acetate.dead/q/acetate.dead-letters/~", vhost.name));
    let (_connection, channel) = vhost.foreign().await;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("acetate.jobs".into(), "edit".into(), options, b"no job", properties).await.unwrap();
    becomes(503, &["no queue is bound to the exchange acetate.dead"]).await;
    vhost.ready().await.close().await;
    vhost.until_left("acetate.dead-letters", 1).await;
    worker.until_said("was dead-lettered").await;
    let log = worker.log();
    assert_eq!(log.lines().filter(|line| line.contains("was dead-lettered")).count(), 1, "{log}");
    becomes(200, &["ok"]).await;
}

#[tokio::test]
async fn what_was_deleted_is_declared_again() {
    for broker in brokers() {
        let vhost = Vhost::on(&broker);
        let queue = vhost.ready().await;
        let message = dispatch(JobKind::Edit);
        for (deleted, words) in [
            (format!("/exchanges/{}/acetate.jobs", vhost.name), "acetate.jobs does not exist any more"),
            (format!("/bindings/{}/e/acetate.jobs/q/acetate.edit/edit", vhost.name), "no queue is bound"),
            (format!("/queues/{}/acetate.edit", vhost.name), "no queue is bound"),
        ] {
            vhost.delete(&deleted);
            let error = queue.publish_dispatch(&message).await.unwrap_err().to_string();
            assert!(error.contains(words), "{deleted}: {error}");
            let refused = queue.health().refused.unwrap_or_default();
            assert!(refused.contains(words), "{deleted}: {refused}");
            queue.publish_dispatch(&message).await.unwrap();
            assert_eq!(queue.health().refused, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_tries_every_right_and_leaves_no_trace() {
    for broker in brokers() {
        let mut world = World::service_on(broker).await;
        let queue = world.service.as_ref().unwrap().vhost.ready().await;
        let mut events = queue.events("#").await.unwrap();
        queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
        let user =
            world.service.as_ref().unwrap().vhost.user("", "^acetate\\.(jobs|dead.*|edit)$", "^acetate\\.(?!edit)");
        world.set("ACETATE__QUEUE__URL", &user.url);
        let vhost = &world.service.as_ref().unwrap().vhost;
        let checked = async |state: &str| {
            let ran = world.run(&["doctor", "--json"]).await;
            let report: Value = serde_json::from_str(&ran.stdout).unwrap();
            let checks = report["checks"].as_array().unwrap();
            let queue = checks.iter().find(|check| check["name"] == "queue").unwrap();
            assert_eq!(queue["state"], state, "{queue:#}");
            queue["text"].as_str().unwrap().to_owned()
        };

        let text = checked("broken").await;
        let command = format!("rabbitmqctl set_permissions -p {} {} ", vhost.name, user.name);
        let named = "may not write to acetate.events, read acetate.edit; to allow it:";
        assert!(text.contains(named) && text.contains(&command), "{text}");
        vhost.allow(&user, "", ALL, ALL);
        let text = checked("warning").await;
        assert!(text.contains("messages are accepted; the user may not write to amq.default"), "{text}");
        let patterns: Vec<&str> = text.split_once(&command).unwrap().1.split('\'').skip(1).step_by(2).collect();
        vhost.allow(&user, patterns[0], patterns[1], patterns[2]);
        checked("ok").await;

        for left in ["acetate.decompose", "acetate.composite", "acetate.workflow", "acetate.dead-letters"] {
            vhost.until_left(left, 0).await;
        }
        let consumer = consume(&queue, &[JobKind::Edit], 1);
        let delivery = next(&consumer).await;
        assert!(!delivery.redelivered, "it was taken before");
        delivery.ack().await;
        let told = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
        assert!(told.is_err(), "{told:?}");
        consumer.close().await;
    }
}

/// On nodes of their own, because an alarm is for the whole broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_short_of_memory_is_not_waited_for_and_known_to_all() {
    let programs: Vec<_> = program().into_iter().chain(other_programs().pop()).collect();
    if programs.is_empty() {
        common::skipped("a broker short of memory", "RabbitMQ's server is not installed on this machine");
    }
    for program in programs {
        let start = move || Node::of(program, "", "rabbitmq_management", |_| String::new());
        let node = tokio::task::spawn_blocking(start).await.unwrap();
        short_of_memory(&node).await;
    }
}

async fn short_of_memory(node: &Node) {
    let world = World::service_on(node.broker()).await;
    let queue = world.service.as_ref().unwrap().vhost.ready().await;
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    let consumer = consume(&queue, &[JobKind::Edit], 1);
    let begun = next(&consumer).await;
    let worker = world.worker();
    let serve = world.start(&["serve"], &[]);
    let (worker_at, serve_at) = (worker.http().await, serve.http().await);
    common::until(|| async {
        let answer = readyz(&worker_at).await;
        if answer.0 == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert!(queue.health().blocked.is_none());
    let doctor = world.run(&["doctor"]).await;
    assert!(doctor.stdout.contains("messages are accepted"), "{doctor:?}");

    node.evaluate("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).");
    // The first message may still be accepted.
    common::until(|| async {
        if queue.publish_dispatch(&dispatch(JobKind::Edit)).await.is_err() { Ok(()) } else { Err("it was accepted") }
    })
    .await;
    for _ in 0..2 {
        let start = Instant::now();
        let error = queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(error.class() == ErrorClass::Transient && error.to_string().contains("short of memory"), "{error}");
    }
    assert!(queue.health().connected && queue.health().blocked.is_some(), "{:?}", queue.health());
    // What is consumed can be acknowledged all the same.
    begun.ack().await;

    // An idle worker and a front that publish nothing learn of it, too.
    let blocked =
        |answer: &(u16, Value)| answer.1["checks"]["queue"].as_str().is_some_and(|text| text.contains("blocked"));
    let asked = async |at: &str| {
        let answer = readyz(at).await;
        if blocked(&answer) { Ok(answer) } else { Err(format!("{answer:?}")) }
    };
    assert_eq!(common::until(|| asked(&worker_at)).await.0, 503);
    assert_eq!(common::until(|| asked(&serve_at)).await.0, 200, "it still accepts jobs");
    for at in [&worker_at, &serve_at] {
        let metrics = get(&format!("{at}/metrics")).await.1;
        assert!(metrics.contains("acetate_queue_blocked 1"), "{metrics}");
    }
    let start = Instant::now();
    let doctor = world.run(&["doctor"]).await;
    assert!(doctor.code == Some(1) && doctor.stdout.contains("connection.blocked"), "{doctor:?}");
    assert!(doctor.stdout.lines().any(|line| line.starts_with("queue") && line.contains("BROKEN")), "{doctor:?}");
    let input = world.input("a.png", [1, 2, 3, 255]);
    let submit = ["submit", "composite", "--input", &input, "--output", &world.output("x"), "--json"];
    let submitted = world.run(&submit).await;
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    assert!(start.elapsed() < Duration::from_secs(15), "doctor and submit took {:?}", start.elapsed());

    node.evaluate("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).");
    let id: Value = serde_json::from_str(&submitted.stdout).unwrap();
    assert_eq!(world.until(id["id"].as_str().unwrap(), &["succeeded", "failed"]).await["state"], "succeeded");
    common::until(|| async {
        let answer = readyz(&worker_at).await;
        if answer.0 == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let sent = dispatch(JobKind::Edit);
    common::until(|| queue.publish_dispatch(&sent)).await;
    consumer.close().await;
}

/// A broker that asks for client certificates and takes the name in them for the user's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_a_private_authority_logs_in() {
    let program = other_programs().pop().or_else(program);
    let (Some(program), true) = (program, Command::new("openssl").arg("version").output().is_ok()) else {
        return common::skipped("client certificates", "RabbitMQ's server or openssl is not installed here");
    };
    let [port] = free_ports();
    let conf = move |folder: &Path| {
        certificates(folder);
        let at = |name: &str| folder.join(name).display().to_string();
        format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n\
             auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\nssl_cert_login_from = common_name\n",
            at("ca.pem"),
            at("server.pem"),
            at("server.key")
        )
    };
    let plugins = "rabbitmq_management, rabbitmq_auth_mechanism_ssl";
    let node = tokio::task::spawn_blocking(move || Node::of(program, "", plugins, conf)).await.unwrap();
    let vhost = Vhost::on(&node.broker());
    let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    vhost.put("/users/camera", &json!({ "password_hash": "", "tags": "" }));
    vhost.put(&format!("/permissions/{}/camera", vhost.name), &all);
    let file = |name: &str| Some(node.folder.path().join(name));
    let good = TlsFiles { ca: file("ca.pem"), client_cert: file("client.pem"), client_key: file("client.key") };
    let url = format!("amqps://localhost:{port}/{}", vhost.name);
    let ready = async |url: &str, tls: TlsFiles| {
        let queue = Queue::Rabbit(RabbitQueue::new(url, RabbitOptions { tls, ..options() }).unwrap());
        queue.ready(Duration::ZERO).await.map(|()| queue)
    };

    let queue = ready(&url, good.clone()).await.unwrap();
    let consumer = consume(&queue, &[JobKind::Edit], 1);
    queue.publish_dispatch(&dispatch(JobKind::Edit)).await.unwrap();
    next(&consumer).await.ack().await;
    let connections = vhost.get(&format!("/vhosts/{}/connections", vhost.name));
    let users: Vec<_> = connections.as_array().unwrap().iter().map(|one| one["user"].clone()).collect();
    assert!(users.iter().all(|user| user == "camera"), "{connections:#}");
    consumer.close().await;

    for (tls, url, words) in [
        (TlsFiles { ca: None, ..good.clone() }, url.clone(), "tls.ca_file"),
        (TlsFiles { client_cert: None, client_key: None, ..good.clone() }, url.clone(), "queue.client_cert"),
        (good.clone(), url.replace("localhost", "127.0.0.1"), "queue.url"),
        (good.clone(), url.replace("localhost", "nobody:wrong@localhost"), "refuses the user"),
        (TlsFiles::default(), url.replace("amqps://", "amqp://"), "use amqps://"),
    ] {
        let error = ready(&url, tls).await.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(&port.to_string()), "{words} is not in {error}");
    }
}

/// An authority, a certificate of the server for `localhost`, and one of the client `camera`.
fn certificates(folder: &Path) {
    let openssl = |args: &str| {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "openssl {args}: {output:?}");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=acetate-test-authority"));
    for (name, subject, usage) in [
        ("server", "/CN=localhost", "subjectAltName=DNS:localhost"),
        ("client", "/CN=camera", "extendedKeyUsage=clientAuth"),
    ] {
        openssl(&format!(
            "req -x509 {key} -CA ca.pem -CAkey ca.key -keyout {name}.key -out {name}.pem -subj {subject} -addext {usage} \
             -addext basicConstraints=critical,CA:FALSE"
        ));
    }
}

async fn readyz(at: &str) -> (u16, Value) {
    let (status, body) = get(&format!("{at}/readyz")).await;
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

async fn get(url: &str) -> (u16, String) {
    let url = url.to_owned();
    let asked = move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let mut answer = config.build().new_agent().get(&url).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    tokio::task::spawn_blocking(asked).await.unwrap()
}

async fn until(holds: impl Fn() -> bool) {
    common::until(|| ready(if holds() { Ok(()) } else { Err("it did not come to hold") })).await;
}

//! Traces, against a collector that receives them: from a submission to everything that is sent because of it.

use std::{fs, time::Duration};

use acetate::job::JobId;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Consumer,
    message::Delivery,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};

use crate::{
    common::TIMEOUT,
    http::{
        client::{form, send},
        server::{QUICK, Server, picture},
        webhooks::{SECRET, receiver},
    },
    services::{
        collector::Collector,
        tls::PrivateCa,
        world::{World, in_both_worlds},
    },
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

fn traced(world: &mut World, collector: &Collector) {
    for (name, value) in collector.settings() {
        world.set(&name, &value);
    }
}

/// Hears every event, with its headers.
async fn listen(world: &World, pattern: &str) -> (lapin::Connection, Consumer) {
    world.service.as_ref().unwrap().vhost.ready().await;
    let (connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap().name().to_string();
    let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.as_str().into(), "acetate.events".into(), pattern.into(), bind, none).await.unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let events = channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await.unwrap();
    (connection, events)
}

async fn next(events: &mut Consumer) -> Delivery {
    tokio::time::timeout(TIMEOUT, events.next()).await.expect("no event came").unwrap().unwrap()
}

/// A header that must be a long string, as the conventions for AMQP say.
fn header(message: &Delivery, name: &str) -> Option<String> {
    match message.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_is_traced_from_its_request_to_its_event_and_webhook() {
    let (mut world, collector) = (World::service().await, Collector::start());
    traced(&mut world, &collector);
    let (_connection, mut events) = listen(&world, "job.succeeded").await;
    let (port, calls) = receiver(&[]);
    let (allow, hook) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{port}/hook?key=s3cret"));
    world.set("ACETATE__HTTP__WEBHOOK_SECRET", SECRET);
    world.set("ACETATE__HTTP__WEBHOOK_ALLOW", &allow);
    let worker = world.start(&["worker", "--log-format", "json"], &[("OTEL_SERVICE_NAME", "painter")]);
    let (front, id) = tokio::task::block_in_place(|| {
        let front = Server::of(world.command(&["serve"]));
        let texts = [&QUICK[..], &[("webhook", hook.as_str())]].concat();
        let (kind, body) = form(&texts, &[("image", "scene.png", &picture(64, 48, [200, 80, 40, 255]))]);
        let headers = [("content-type", kind.as_str()), ("traceparent", PARENT), ("tracestate", STATE)];
        let answer = send("POST", &front.url("/v1/jobs"), &headers, &body).ok(202).json();
        assert_eq!(answer["trace_id"], TRACE);
        (front, answer["id"].as_str().unwrap().to_owned())
    });
    let event = next(&mut events).await;
    let call = tokio::task::block_in_place(|| calls.recv_timeout(TIMEOUT).unwrap());

    // The trace of the submission: request > send > publish, event, webhook.
    let [sent] = &collector.of_job(&id, "send acetate.jobs:decompose", 1).await[..] else { panic!() };
    assert_eq!((sent.trace_id().as_str(), sent.kind()), (TRACE, SpanKind::Producer));
    assert_eq!(sent.span.trace_state, STATE);
    let request = collector.all().into_iter().find(|span| span.span_id() == sent.parent_id()).unwrap();
    assert_eq!((request.span.name.as_str(), request.kind()), ("POST /v1/jobs", SpanKind::Server));
    assert_eq!((request.trace_id().as_str(), request.parent_id().as_str()), (TRACE, CALLER));
    assert_eq!(request.number("http.response.status_code"), Some(202));
    assert_eq!(request.text("http.route").as_deref(), Some("/v1/jobs"));
    assert_eq!(request.service().as_deref(), Some("acetate"));
    let [published] = &collector.of_job(&id, "publish acetate.jobs:decompose", 1).await[..] else { panic!() };
    assert_eq!((published.parent_id(), published.kind()), (sent.span_id(), SpanKind::Client));
    for (span, operation) in [(sent, "send"), (published, "publish")] {
        for (name, value) in [
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.name", operation),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "acetate.jobs:decompose"),
            ("messaging.rabbitmq.destination.routing_key", "decompose"),
            ("messaging.message.id", id.as_str()),
        ] {
            assert_eq!(span.text(name).as_deref(), Some(value), "{name} of {span:?}");
        }
    }

    // The attempt: a trace of its own, with a link to the submission.
    let name = "process acetate.jobs:decompose:acetate.decompose";
    let [attempt] = &collector.of_job(&id, name, 1).await[..] else { panic!() };
    assert_eq!((attempt.kind(), attempt.parent_id().as_str()), (SpanKind::Consumer, ""));
    assert_ne!(attempt.trace_id(), TRACE);
    assert_eq!(attempt.links(), [("submission".to_owned(), TRACE.to_owned(), sent.span_id())]);
    assert_eq!(attempt.text("messaging.operation.type").as_deref(), Some("process"));
    assert_eq!(attempt.text("messaging.message.id").as_deref(), Some(id.as_str()));
    assert_eq!(attempt.text("acetate.job.state").as_deref(), Some("succeeded"));
    assert_eq!((attempt.number("acetate.job.attempt"), attempt.failed()), (Some(1), false));
    assert_eq!(attempt.service().as_deref(), Some("painter"));
    let parts = collector.children(attempt);
    let names: Vec<_> = parts.iter().map(|part| part.span.name.as_str()).filter(|name| *name != "load").collect();
    let settle = "settle acetate.jobs:decompose:acetate.decompose";
    let made = ["text_encode", "vae_encode", "denoise", "vae_decode", "composite"];
    assert_eq!(names, [&["fetch", "decode"], &made[..], &["encode_png", "upload", settle]].concat());
    let denoise = parts.iter().find(|part| part.span.name == "denoise").unwrap();
    assert_eq!((denoise.number("acetate.steps"), denoise.span.events.len()), (Some(2), 2));

    // What is sent because of the end is in the trace of the submission again.
    let [told] = &collector.of_job(&id, "send acetate.events:job.succeeded", 1).await[..] else { panic!() };
    assert_eq!((told.kind(), told.trace_id().as_str(), told.parent_id()), (SpanKind::Producer, TRACE, sent.span_id()));
    assert_eq!(told.links(), [("attempt".to_owned(), attempt.trace_id(), attempt.span_id())]);
    assert_eq!(header(&event, "traceparent"), Some(told.traceparent()));
    assert_eq!(header(&event, "tracestate").as_deref(), Some(STATE));
    let [called] = &collector.of_job(&id, "POST", 1).await[..] else { panic!() };
    assert_eq!((called.kind(), called.trace_id().as_str()), (SpanKind::Client, TRACE));
    assert_eq!(called.links(), told.links());
    assert_eq!(called.number("http.response.status_code"), Some(204));
    assert_eq!((called.number("server.port"), called.failed()), (Some(i64::from(port)), false));
    assert_eq!(call.header("traceparent"), called.traceparent());
    assert_eq!(call.header("tracestate"), STATE);
    let attributes = format!("{:?}", collector.all().iter().map(|span| span.span.clone()).collect::<Vec<_>>());
    assert!(!attributes.contains("s3cret"), "{attributes}");

    // Both views have both traces, and log lines have the attempt's.
    let job = tokio::task::block_in_place(|| front.job(&id));
    assert_eq!((&job["trace_id"], &job["history"][0]["trace_id"]), (&json!(TRACE), &json!(attempt.trace_id())));
    let shown = world.show(&id).await;
    assert_eq!((&shown["trace_id"], &shown["history"][0]["trace_id"]), (&json!(TRACE), &json!(attempt.trace_id())));
    let log = worker.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = lines.iter().find(|line| line["fields"]["message"] == "claimed").unwrap();
    assert_eq!((&line["trace_id"], &line["span_id"]), (&json!(attempt.trace_id()), &json!(attempt.span_id())));
    assert_eq!(line["span"]["trace_id"], TRACE);
    assert!(lines.iter().any(|line| line["trace_id"].is_null()), "a line outside of any job has no trace");
    // One second is not enough for a second event, but each belongs to the trace.
    drop(front);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempts_of_a_job_are_linked_traces() {
    let (mut world, collector) = (World::service().await, Collector::start());
    traced(&mut world, &collector);
    world.set("TRACEPARENT", PARENT);
    world.set("TRACESTATE", STATE);
    let missing = world.input("later.png", [1, 2, 3, 255]);
    fs::remove_file(world.path(&missing)).unwrap();
    let id = world.submit(&["composite", "--input", &missing, "--output", &world.output("out")]).await;
    assert_eq!(world.show(&id).await["trace_id"], TRACE, "the command's TRACEPARENT");
    let worker = world.worker();
    world.until(&id, &["failed"]).await;
    let name = "process acetate.jobs:composite:acetate.composite";
    collector.of_job(&id, name, 1).await;
    world.input("later.png", [1, 2, 3, 255]);
    // The trace is the job's, whoever has it tried again.
    world.set("TRACEPARENT", &PARENT.replace("4bf9", "aaaa"));
    world.json(&["jobs", "retry", &id, "--json"]).await;
    world.until(&id, &["succeeded"]).await;

    let [first, second] = &collector.of_job(&id, name, 2).await[..] else { panic!() };
    let [sent] = &collector.of_job(&id, "send acetate.jobs:composite", 1).await[..] else { panic!() };
    assert_eq!((sent.trace_id().as_str(), sent.parent_id().as_str()), (TRACE, CALLER));
    let submission = ("submission".to_owned(), TRACE.to_owned(), sent.span_id());
    assert_eq!(first.links(), std::slice::from_ref(&submission));
    assert_eq!((first.failed(), first.text("error.type").as_deref()), (true, Some("input_not_found")));
    assert_eq!(first.text("acetate.job.state").as_deref(), Some("failed"));
    let fetch = collector.children(first).into_iter().find(|part| part.span.name == "fetch").unwrap();
    assert_eq!((fetch.failed(), fetch.text("error.type").as_deref()), (true, Some("input_not_found")));
    let before = ("previous_attempt".to_owned(), first.trace_id(), first.span_id());
    assert_eq!(second.links(), [submission, before]);
    assert_ne!(first.trace_id(), second.trace_id());
    assert!(!second.failed());
    let traces: Vec<_> = world.show(&id).await["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["trace_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(traces, [first.trace_id(), second.trace_id()]);
    // In text, every line about the job has the trace of its submission.
    let log = worker.log();
    let claims: Vec<_> = log.lines().filter(|line| line.contains("claimed")).collect();
    assert!(claims.len() == 2 && claims.iter().all(|line| line.contains("trace_id") && line.contains(TRACE)), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raw_message_brings_its_trace_and_its_answer_takes_it_back() {
    let (mut world, collector) = (World::service().await, Collector::start());
    traced(&mut world, &collector);
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let (_connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap().name().to_string();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let none = FieldTable::default();
    let mut answers = channel.basic_consume(queue.as_str().into(), "".into(), options, none).await.unwrap();
    let (id, input) = (JobId::new().to_string(), world.input("a.png", [1, 2, 3, 255]));
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(PARENT.into()));
    headers.insert("tracestate".into(), AMQPValue::LongString(STATE.into()));
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_message_id("mine".into())
        .with_reply_to(queue.as_str().into());
    let output = json!({ "prefix": world.output("out") });
    let body = json!({ "version": 1, "id": id, "kind": "composite", "input": { "image": input }, "output": output });
    channel
        .basic_publish(
            "acetate.jobs".into(),
            "composite".into(),
            BasicPublishOptions::default(),
            body.to_string().as_bytes(),
            properties,
        )
        .await
        .unwrap();
    let answer = next(&mut answers).await;
    let name = "process acetate.jobs:composite:acetate.composite";
    let [attempt] = &collector.of_job(&id, name, 1).await[..] else { panic!() };
    assert_eq!(attempt.links(), [("submission".to_owned(), TRACE.to_owned(), CALLER.to_owned())]);
    assert_eq!(attempt.text("messaging.message.id").as_deref(), Some("mine"));
    let [told] = &collector.of_job(&id, "send (temporary)", 1).await[..] else { panic!() };
    assert_eq!((told.trace_id().as_str(), told.parent_id().as_str()), (TRACE, CALLER));
    assert_eq!(told.links(), [("attempt".to_owned(), attempt.trace_id(), attempt.span_id())]);
    assert_eq!(header(&answer, "traceparent"), Some(told.traceparent()));
    assert_eq!(header(&answer, "tracestate").as_deref(), Some(STATE));
    assert_eq!(world.show(&id).await["trace_id"], TRACE);
}

in_both_worlds! {
    without_a_collector_a_trace_is_passed_on_and_nothing_is_exported,
    a_collector_that_is_away_costs_one_warning,
}

async fn without_a_collector_a_trace_is_passed_on_and_nothing_is_exported(mut world: World) {
    let collector = Collector::start();
    // Only an endpoint turns it on.
    world.set("OTEL_TRACES_EXPORTER", "otlp");
    let listening = match &world.service {
        Some(_) => Some(listen(&world, "job.#").await),
        None => None,
    };
    let input = world.input("a.png", [1, 2, 3, 255]);
    let submit = ["composite", "--input", &input, "--output", &world.output("out")];
    let id = world.submit(&[&submit[..], &["--traceparent", PARENT]].concat()).await;
    let plain = world.submit(&[&submit[..], &["--traceparent", "00-nonsense", "--label", "n=2"]].concat()).await;
    let worker = world.start(&["worker", "--log-format", "json"], &[]);
    world.until(&id, &["succeeded"]).await;
    world.until(&plain, &["succeeded"]).await;
    let shown = world.show(&id).await;
    assert_eq!((&shown["trace_id"], &shown["history"][0]["trace_id"]), (&json!(TRACE), &Value::Null));
    assert_eq!(world.show(&plain).await["trace_id"], Value::Null, "what is not valid is ignored");
    if let Some((_connection, mut events)) = listening {
        let mut ends = 0;
        while ends < 2 {
            let event = next(&mut events).await;
            let body: Value = serde_json::from_slice(&event.data).unwrap();
            let wanted = (body["id"] == json!(id)).then(|| PARENT.to_owned());
            assert_eq!(header(&event, "traceparent"), wanted, "{body}");
            ends += usize::from(body["event"] == "job.succeeded");
        }
    }
    let log = worker.log();
    let lines = || log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let claimed = |id: &str| {
        lines().find(|line| line["fields"]["message"] == "claimed" && line["span"]["id"] == id).unwrap_or_default()
    };
    assert_eq!((&claimed(&id)["trace_id"], &claimed(&id)["span_id"]), (&json!(TRACE), &json!(CALLER)), "{log}");
    assert_eq!(claimed(&id)["span"]["trace_id"], TRACE);
    assert_eq!(claimed(&plain)["trace_id"], Value::Null);
    assert!(collector.all().is_empty());
    assert_eq!(threads(worker.child.id()), 0, "no exporter runs");
}

/// How many threads export traces; none are seen on systems that do not show them.
fn threads(process: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("OpenTelemetry")).count()
}

async fn a_collector_that_is_away_costs_one_warning(mut world: World) {
    // Nothing listens at this port of a listener that is gone.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://me:s3cret@127.0.0.1:{port}"));
    world.set("OTEL_BSP_SCHEDULE_DELAY", "20");
    let input = world.input("a.png", [1, 2, 3, 255]);
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    for number in 0..3 {
        let label = format!("n={number}");
        let begun = std::time::Instant::now();
        let output = world.output("out");
        let id = world.submit(&["composite", "--input", &input, "--output", &output, "--label", &label]).await;
        assert!(begun.elapsed() < Duration::from_secs(20), "a command waits a moment for the collector, not longer");
        world.until(&id, &["succeeded"]).await;
        worker.until_said("traces do not reach").await;
    }
    let mut worker = worker;
    worker.signal("-TERM");
    assert_eq!(worker.ended().await, Some(0));
    let log = worker.log();
    assert_eq!(log.matches("traces do not reach").count(), 1, "{log}");
    let line = log.lines().find(|line| line.contains("traces do not reach")).unwrap();
    assert!(line.contains("WARN") && line.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{line}");
    assert!(line.contains(&format!("http://127.0.0.1:{port}/v1/traces")) && !line.contains("s3cret"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_sends_its_spans_before_it_ends() {
    let (mut world, collector) = (World::embedded(), Collector::start());
    // Longer than the test: only the end of the process sends them.
    world.set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    world.set("OTEL_BSP_SCHEDULE_DELAY", "600000");
    world.set("TRACEPARENT", PARENT);
    let (layer, out) = (world.place.picture("a.png", [1, 2, 3, 255]), world.place.text("out"));
    let ran = world.run(&["run", "composite", &layer, "--out", &out, "--json"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
    let id = shown["id"].as_str().unwrap();
    assert_eq!(shown["trace_id"], TRACE);
    let [sent] = &collector.of_job(id, "send composite", 1).await[..] else { panic!() };
    assert_eq!((sent.trace_id().as_str(), sent.parent_id().as_str()), (TRACE, CALLER));
    assert_eq!(sent.text("messaging.system").as_deref(), Some("acetate"));
    let [attempt] = &collector.of_job(id, "process composite", 1).await[..] else { panic!() };
    assert_eq!(attempt.links(), [("submission".to_owned(), TRACE.to_owned(), sent.span_id())]);
    let names: Vec<_> = collector.children(attempt).into_iter().map(|part| part.span.name).collect();
    assert_eq!(names, ["fetch", "decode", "composite", "encode_png", "upload", "settle composite"]);

    // A protocol that is not supported is said, with what is, and the job runs.
    world.set("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let count = collector.all().len();
    let ran = world.run(&["run", "composite", &layer, "--out", &world.place.text("other"), "--label", "n=2"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let line = ran.stderr.lines().find(|line| line.contains("traces are not exported")).unwrap();
    assert!(line.contains("OTEL_EXPORTER_OTLP_PROTOCOL: `grpc`") && line.contains("http/protobuf"), "{line}");
    world.set("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    world.set("OTEL_SDK_DISABLED", "true");
    let ran = world.run(&["run", "composite", &layer, "--out", &world.place.text("third"), "--label", "n=3"]).await;
    assert_eq!((ran.code, ran.stderr.contains("traces")), (Some(0), false), "{ran:?}");
    assert_eq!(collector.all().len(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_of_a_private_authority_is_trusted() {
    let (mut world, collector, ca) = (World::embedded(), Collector::start(), PrivateCa::new());
    let behind = collector.endpoint().strip_prefix("http://").unwrap().parse().unwrap();
    world.set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("https://localhost:{}", ca.before(behind)));
    let layer = world.place.picture("a.png", [1, 2, 3, 255]);
    let ran = world.run(&["run", "composite", &layer, "--out", &world.place.text("a")]).await;
    assert!(ran.code == Some(0) && ran.stderr.contains("traces do not reach"), "{ran:?}");
    assert!(collector.all().is_empty());
    world.set("ACETATE__TLS__CA_FILE", &ca.file().display().to_string());
    let ran = world.run(&["run", "composite", &layer, "--out", &world.place.text("b"), "--label", "n=2"]).await;
    assert!(ran.code == Some(0) && !ran.stderr.contains("traces"), "{ran:?}");
    assert!(!collector.all().is_empty());
}

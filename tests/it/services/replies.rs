//! Messages with `reply_to`: the sender gets the event of the job's end, with its correlation id.

use std::time::Duration;

use acetate::job::JobId;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Consumer,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use serde_json::{Value, json};

use crate::services::world::World;

/// A sender of messages that waits for answers.
struct Sender {
    _connection: lapin::Connection,
    channel: Channel,
    queue: String,
    answers: Consumer,
}

impl Sender {
    /// With a queue of its own, or with RabbitMQ's direct reply-to.
    async fn new(world: &World, direct: bool) -> Self {
        let (connection, channel) = world.service.as_ref().unwrap().vhost.foreign().await;
        let queue = if direct {
            "amq.rabbitmq.reply-to".to_owned()
        } else {
            let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap().name().to_string()
        };
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let answers =
            channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await.unwrap();
        Self { _connection: connection, channel, queue, answers }
    }

    async fn send(&self, body: &str, correlation: &str) {
        let properties = BasicProperties::default()
            .with_reply_to(self.queue.as_str().into())
            .with_correlation_id(correlation.into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent =
            self.channel.basic_publish("acetate.jobs".into(), "composite".into(), options, body.as_bytes(), properties);
        sent.await.unwrap().await.unwrap();
    }

    /// The next answer's type, correlation id and body.
    async fn answer(&mut self) -> (String, String, Value) {
        let next = tokio::time::timeout(Duration::from_secs(60), self.answers.next()).await;
        let message = next.expect("no answer came").unwrap().unwrap();
        let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string).unwrap_or_default();
        let properties = &message.properties;
        let body = serde_json::from_slice(&message.data).unwrap();
        (text(properties.kind()), text(properties.correlation_id()), body)
    }

    async fn hears_nothing(&mut self) {
        assert!(
            tokio::time::timeout(Duration::from_secs(2), self.answers.next()).await.is_err(),
            "another answer came"
        );
    }
}

fn composite(world: &World, id: &str, input: &str) -> String {
    let output = json!({ "prefix": world.output("answered") });
    json!({ "version": 1, "id": id, "kind": "composite", "input": { "image": input }, "output": output }).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_asks_for_an_answer_gets_one() {
    let world = World::service().await;
    let worker = world.worker();
    worker.until_said("ready for jobs").await;
    let mut sender = Sender::new(&world, false).await;
    let [good, bad, refused] = [(); 3].map(|()| JobId::new().to_string());
    let input = world.input("a.png", [1, 2, 3, 255]);

    sender.send(&composite(&world, &good, &input), "my id: ä/1?").await;
    let (kind, correlation, event) = sender.answer().await;
    assert_eq!((kind.as_str(), correlation.as_str()), ("job.succeeded", "my id: ä/1?"));
    assert_eq!((&event["id"], &event["event"]), (&json!(good), &json!("job.succeeded")));
    assert!(event["manifest"].is_string() && event["outputs"][0]["name"] == "composite.png", "{event:#}");

    // The same message again, after the job has ended: the same answer, to the new question.
    sender.send(&composite(&world, &good, &input), "again").await;
    let (kind, correlation, event) = sender.answer().await;
    assert_eq!((kind.as_str(), correlation.as_str(), &event["id"]), ("job.succeeded", "again", &json!(good)));

    let missing = input.replace("a.png", "missing.png");
    sender.send(&composite(&world, &bad, &missing), "bad").await;
    let (kind, correlation, event) = sender.answer().await;
    assert_eq!((kind.as_str(), correlation.as_str()), ("job.failed", "bad"));
    assert_eq!(event["error"]["code"], "input_not_found");

    // What is no job at all, and what is another job's id.
    let wrong = composite(&world, &refused, &input).replace("\"output\"", "\"outputs\"");
    for (body, correlation, id) in [(wrong, "wrong", &refused), (composite(&world, &good, &missing), "conflict", &good)]
    {
        sender.send(&body, correlation).await;
        let (kind, told, event) = sender.answer().await;
        assert_eq!((kind.as_str(), told.as_str(), &event["id"]), ("job.failed", correlation, &json!(id)));
        assert_eq!(event["error"]["code"], "invalid_request");
    }
    sender.hears_nothing().await;
    // A job that nobody asked about leaves nothing behind, and one that was answered neither.
    assert_eq!(world.count("SELECT count(*) FROM webhooks").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_waits_for_the_end_whoever_brings_it() {
    let world = World::service().await;
    let mut direct = Sender::new(&world, true).await;
    let mut other = Sender::new(&world, false).await;
    let mut worker = world.worker_with(&[("ACETATE__WORKER__FAILPOINT", "fetched=abort")]);
    worker.until_said("ready for jobs").await;
    let [first, second] = [(); 2].map(|()| JobId::new().to_string());
    let input = world.input("a.png", [1, 2, 3, 255]);
    // The worker that takes it dies; another one ends the job, from a message that knows of no sender.
    direct.send(&composite(&world, &first, &input), "direct").await;
    worker.ended().await;
    other.send(&composite(&world, &second, &input), "other").await;
    let _second = world.worker();
    let (kind, correlation, event) = direct.answer().await;
    assert_eq!((kind.as_str(), correlation.as_str(), &event["id"]), ("job.succeeded", "direct", &json!(first)));
    assert_eq!(event["attempts"], 2);
    assert_eq!(other.answer().await.1, "other");

    // A sender that is gone costs a few attempts and no job.
    let gone = JobId::new().to_string();
    let message = composite(&world, &gone, &input);
    let deaf = Sender::new(&world, false).await;
    deaf.send(&message, "gone").await;
    drop(deaf);
    assert_eq!(world.until(&gone, &["succeeded", "failed"]).await["state"], "succeeded");
}

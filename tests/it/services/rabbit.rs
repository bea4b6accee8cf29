//! A separate virtual host for each test, and another client in it.

use std::{env, time::Duration};

use acetate::{
    job::{JobId, JobKind, JobRequest},
    queue::{ConsumeOptions, Consumer, Delivery, Dispatch, Queue, RabbitOptions, RabbitQueue, TlsFiles},
};
use lapin::{Channel, Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable};
use serde_json::{Value, json};

use crate::common::until;

/// Longer than any working operation takes.
const TIMEOUT: Duration = Duration::from_secs(30);
const AMQP: &str = "amqp://guest:guest@127.0.0.1:5672";
const API: &str = "http://guest:guest@127.0.0.1:15672";

/// The addresses of a broker: `amqp://user:password@host:5672`, and its management API,
/// `http://user:password@host:15672`.
pub struct Broker {
    pub amqp: String,
    pub api: String,
}

impl Broker {
    /// The broker that `scripts/services` started.
    pub fn shared() -> Self {
        let named = |name: &str, otherwise: &str| env::var(name).unwrap_or_else(|_| otherwise.to_owned());
        Self { amqp: named("ACETATE_TEST_AMQP_URL", AMQP), api: named("ACETATE_TEST_RABBITMQ_API", API) }
    }

    /// The newest one that Debian has, where it runs.
    pub fn newest() -> Option<Self> {
        let named = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        Some(Self { amqp: named("ACETATE_TEST_NEWEST_AMQP_URL")?, api: named("ACETATE_TEST_NEWEST_RABBITMQ_API")? })
    }

    pub fn client(&self) -> Api {
        let (credentials, host) = self
            .api
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('@'))
            .expect("ACETATE_TEST_RABBITMQ_API is like http://user:password@host:15672");
        let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false);
        Api {
            agent: config.build().new_agent(),
            authorization: format!("Basic {}", base64(credentials.as_bytes())),
            user: credentials.split(':').next().unwrap().to_owned(),
            base: format!("http://{host}/api"),
        }
    }
}

/// Gone when the test ends.
pub struct User {
    pub name: String,
    pub url: String,
    path: String,
    api: Api,
}

impl Drop for User {
    fn drop(&mut self) {
        self.api.delete(&self.path);
    }
}

/// A broker's management API.
#[derive(Clone)]
pub struct Api {
    agent: ureq::Agent,
    base: String,
    user: String,
    authorization: String,
}

/// A virtual host, deleted with its contents when the test ends.
pub struct Vhost {
    pub name: String,
    amqp: String,
    api: Api,
}

impl Vhost {
    pub fn new() -> Self {
        Self::on(&Broker::shared())
    }

    pub fn on(broker: &Broker) -> Self {
        let name = format!("acetate-test-{}", JobId::new());
        let vhost = Self { name, amqp: broker.amqp.clone(), api: broker.client() };
        vhost.make();
        vhost
    }

    pub fn make(&self) {
        self.api.put(&format!("/vhosts/{}", self.name), &json!({}));
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        self.api.put(&format!("/permissions/{}/{}", self.name, self.api.user), &all);
    }

    /// Deletes it with its contents, which closes all connections to it.
    pub fn remove(&self) {
        self.api.delete(&format!("/vhosts/{}", self.name));
    }

    pub fn url(&self) -> String {
        let (scheme, rest) = self.amqp.split_once("://").expect("ACETATE_TEST_AMQP_URL is an address");
        format!("{scheme}://{}/{}", rest.split('/').next().unwrap(), self.name)
    }

    /// The address of another user, with a password of the same name.
    pub fn url_of(&self, user: &str) -> String {
        let (scheme, rest) = self.url().split_once("://").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        format!("{scheme}://{user}:{user}@{}", rest.rsplit_once('@').unwrap().1)
    }

    /// A user that may do this in this virtual host: patterns of what it may configure, write and read.
    pub fn user(&self, configure: &str, write: &str, read: &str) -> User {
        let name = JobId::new().to_string();
        self.api.put(&format!("/users/{name}"), &json!({ "password": name, "tags": "" }));
        let user = User { url: self.url_of(&name), path: format!("/users/{name}"), api: self.api.clone(), name };
        self.allow(&user, configure, write, read);
        user
    }

    /// Other rights for a user. The broker looks at them when a client connects or opens a channel.
    pub fn allow(&self, user: &User, configure: &str, write: &str, read: &str) {
        let rights = json!({ "configure": configure, "write": write, "read": read });
        self.api.put(&format!("/permissions/{}/{}", self.name, user.name), &rights);
    }

    /// A policy for the queues whose names match.
    pub fn policy(&self, pattern: &str, definition: Value) {
        let policy = json!({ "pattern": pattern, "definition": definition, "apply-to": "queues" });
        self.api.put(&format!("/policies/{}/test", self.name), &policy);
    }

    pub fn delete(&self, path: &str) {
        self.api.delete(path);
    }

    /// A queue that is not connected yet.
    pub fn rabbit(&self) -> Queue {
        Queue::Rabbit(RabbitQueue::new(&self.url(), options()).unwrap())
    }

    pub async fn ready(&self) -> Queue {
        let queue = self.rabbit();
        queue.ready(TIMEOUT).await.unwrap_or_else(|error| panic!("{error}; scripts/services starts RabbitMQ"));
        queue
    }

    /// A plain lapin client.
    pub async fn foreign(&self) -> (Connection, Channel) {
        let connection = Connection::connect(&self.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }

    /// Waits until the queue has this many messages that are not delivered.
    pub async fn until_left(&self, queue: &str, wanted: u32) {
        let (_connection, channel) = self.foreign().await;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        until(|| async {
            let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
            let left = declared.message_count();
            if left == wanted { Ok(()) } else { Err(format!("{queue} should hold {wanted} messages and holds {left}")) }
        })
        .await;
    }

    /// The version of the broker, major and minor.
    pub fn version(&self) -> (u32, u32) {
        let overview = self.get("/overview");
        let mut parts = overview["rabbitmq_version"].as_str().unwrap().split('.').map(|part| part.parse().unwrap());
        (parts.next().unwrap(), parts.next().unwrap())
    }

    /// Closes all connections to this virtual host, as an operator does. It first waits until the API lists this many,
    /// because new ones appear there only after a while.
    pub async fn cut(&self, wanted: usize) {
        let listed = || async {
            let connections = self.get(&format!("/vhosts/{}/connections", self.name));
            let name = |one: &Value| one["name"].as_str().map(str::to_owned);
            let names: Vec<String> = connections.as_array().unwrap().iter().filter_map(name).collect();
            if names.len() == wanted { Ok(names) } else { Err(format!("{names:?} are not {wanted} connections")) }
        };
        for name in until(listed).await {
            self.api.delete(&format!("/connections/{}", percent(&name)));
        }
    }

    pub fn get(&self, path: &str) -> Value {
        self.api.get(path)
    }

    pub fn put(&self, path: &str, body: &Value) {
        self.api.put(path, body);
    }
}

impl Api {
    /// Whether the broker is ready for use.
    pub fn answers(&self) -> bool {
        let url = format!("{}/overview", self.base);
        let answer = self.agent.get(&url).header("authorization", &self.authorization).call();
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.base);
        let answer = self.agent.get(&url).header("authorization", &self.authorization).call();
        let text = answer.unwrap_or_else(|error| unreachable_api(&url, &error)).body_mut().read_to_string().unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
    }

    fn put(&self, path: &str, body: &Value) {
        let url = format!("{}{path}", self.base);
        let request = self.agent.put(&url).header("authorization", &self.authorization);
        let answer = request.content_type("application/json").send(body.to_string());
        let answer = answer.unwrap_or_else(|error| unreachable_api(&url, &error));
        assert!(answer.status().is_success(), "PUT {url}: {}", answer.status());
    }

    fn delete(&self, path: &str) {
        let url = format!("{}{path}", self.base);
        let _ = self.agent.delete(&url).header("authorization", &self.authorization).call();
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        self.remove();
    }
}

fn unreachable_api(url: &str, error: &ureq::Error) -> ! {
    panic!("{url} does not answer ({error}): scripts/services starts RabbitMQ with its management API")
}

pub fn options() -> RabbitOptions {
    RabbitOptions {
        name: "test".to_owned(),
        consumer_timeout: Duration::from_secs(3600),
        connect_timeout: Duration::from_secs(10),
        heartbeat: Duration::from_secs(20),
        publish_timeout: Duration::from_secs(20),
        tls: TlsFiles::default(),
    }
}

pub fn consume(queue: &Queue, kinds: &[JobKind], prefetch: u16) -> Consumer {
    queue.consume(ConsumeOptions { kinds: kinds.to_vec(), prefetch, affinity: TIMEOUT })
}

/// The next delivery; fails if none comes.
pub async fn next(consumer: &Consumer) -> Delivery {
    prefer(consumer, None).await
}

pub async fn prefer(consumer: &Consumer, kind: Option<JobKind>) -> Delivery {
    let delivery = tokio::time::timeout(TIMEOUT, consumer.next(kind)).await;
    delivery.expect("nothing was delivered").expect("the consumer was closed")
}

/// Checks that there are no more deliveries within a certain time.
pub async fn nothing(consumer: &Consumer) {
    let delivery = tokio::time::timeout(Duration::from_millis(700), consumer.next(None)).await;
    assert!(delivery.is_err(), "nothing should come, but {delivery:?} did");
}

pub fn request(kind: JobKind, id: JobId) -> JobRequest {
    let (images, params) = match kind {
        JobKind::Edit => (json!({"image": "s3://in/a.png"}), json!({"instruction": "make it blue"})),
        _ => (json!({"image": "s3://in/a.png"}), json!({})),
    };
    let body = json!({
        "version": 1, "id": id.to_string(), "kind": kind, "input": images, "params": params,
        "output": {"prefix": "s3://out/a/"},
    });
    JobRequest::from_json(body.to_string().as_bytes()).unwrap()
}

pub fn dispatch(kind: JobKind) -> Dispatch {
    let id = JobId::new();
    Dispatch { id, kind, priority: 0, body: request(kind, id).to_json().into_bytes(), trace: None }
}

fn percent(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, index| bits << 8 | usize::from(*chunk.get(index).unwrap_or(&0)));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= chunk.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}

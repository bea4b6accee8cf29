//! Webhook calls at the end of jobs.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    common::{TIMEOUT, TestDir},
    http::server::{LONG, Server, picture},
};

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[derive(Debug)]
pub struct Call {
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Checks the signature as the specification describes.
    pub fn is_signed(&self) -> bool {
        let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        let signed = format!("{}.{}.{}", self.header("webhook-id"), self.header("webhook-timestamp"), self.body);
        mac.update(signed.as_bytes());
        let wanted = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.header("webhook-signature").split(' ').any(|signature| signature == wanted)
    }
}

/// Receives calls, and responds to each with the next of the heads, or with 204 if there are no more.
pub fn receiver(answers: &[&'static str]) -> (u16, Receiver<Call>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, calls) = channel();
    let mut answers: Vec<&str> = answers.iter().rev().copied().collect();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut headers = Vec::new();
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            // A connection through which nothing came is no call: a proxy's, for a handshake that failed.
            if line.is_empty() {
                continue;
            }
            loop {
                line.clear();
                reader.read_line(&mut line).unwrap();
                let Some((name, value)) = line.trim().split_once(": ") else { break };
                headers.push((name.to_lowercase(), value.to_owned()));
            }
            let length = headers
                .iter()
                .find(|(name, _)| name == "content-length")
                .map_or(0, |(_, length)| length.parse().unwrap());
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = answers.pop().unwrap_or("204 No Content");
            stream
                .write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())
                .ok();
            heard.send(Call { headers, body: String::from_utf8(body).unwrap() }).ok();
        }
    });
    (port, calls)
}

fn server(place: &TestDir, allow: &str) -> Server {
    Server::start(
        place,
        &[
            ("ACETATE__HTTP__WEBHOOK_SECRET", SECRET),
            ("ACETATE__HTTP__WEBHOOK_ALLOW", allow),
            ("ACETATE__HTTP__WEBHOOK_RETRY_SECONDS", "0.05"),
        ],
    )
}

#[test]
fn a_call_is_signed_and_tried_until_it_arrives() {
    let (port, calls) = receiver(&["500 Internal Server Error", "302 Found\r\nLocation: /elsewhere"]);
    let place = TestDir::new();
    let server = server(&place, &format!("http://127.0.0.1:{port}"));
    let hook = format!("http://127.0.0.1:{port}/hook?key=s3cret");
    let id = server.submit(&[("kind", "composite"), ("webhook", &hook), ("label", "a=b")], &picture(4, 4, [9; 4]));
    let tries: Vec<Call> = (0..3).map(|_| calls.recv_timeout(TIMEOUT).unwrap()).collect();
    for call in &tries {
        assert!(call.is_signed(), "{call:?}");
        assert_eq!(call.header("webhook-id"), tries[0].header("webhook-id"));
        assert_eq!(call.header("content-type"), "application/json");
    }
    let event = tries[0].json();
    assert_eq!((&event["event"], &event["id"]), (&json!("job.succeeded"), &json!(id)));
    assert_eq!((&event["outputs"][0]["name"], &event["labels"]["a"]), (&json!("composite.png"), &json!("b")));
    assert!(calls.recv_timeout(Duration::from_millis(800)).is_err(), "it was called after it had arrived");

    // Other final states are sent, too. A job that ends twice gives two messages.
    let id = server.submit(&[&LONG[..], &[("webhook", &hook)]].concat(), &picture(64, 48, [9, 8, 7, 255]));
    server.wait(&id, |job| job["state"] == "running");
    server.act(&id, "cancel").ok(200);
    let cancelled = calls.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(cancelled.json()["event"], "job.cancelled");
    server.act(&id, "retry").ok(200);
    server.act(&id, "cancel").ok(200);
    let again = calls.recv_timeout(TIMEOUT).unwrap();
    assert!(again.is_signed() && again.header("webhook-id") != cancelled.header("webhook-id"));
    let said = server.stop();
    assert!(!said.contains("s3cret") && !said.contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "{said}");
}

#[test]
fn a_receiver_that_is_gone_is_given_up_and_inner_addresses_are_not_called() {
    let (port, calls) = receiver(&["410 Gone"]);
    let place = TestDir::new();
    let server = server(&place, &format!("http://127.0.0.1:{port}"));
    let hook = format!("http://127.0.0.1:{port}/");
    server.submit(&[("kind", "composite"), ("webhook", &hook)], &picture(4, 4, [9; 4]));
    calls.recv_timeout(TIMEOUT).unwrap();
    assert!(calls.recv_timeout(Duration::from_millis(800)).is_err());
    assert!(server.log().contains("given up"), "{}", server.log());

    let id = server.get("/v1/jobs").json()["jobs"][0]["id"].clone();
    for inner in [
        "http://127.0.0.1:1/".to_owned(),
        format!("https://127.0.0.1:{port}/"),
        "https://10.0.0.8/hook".to_owned(),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://[::ffff:127.0.0.1]/".to_owned(),
        "https://localhost/".to_owned(),
        "http://example.org/plain".to_owned(),
    ] {
        let body =
            json!({"kind": "composite", "input": {"image": {"job": id, "file": "composite.png"}}, "webhook": inner});
        assert_eq!(server.post("/v1/jobs", &body).problem(403, "input_forbidden")["field"], "webhook");
    }
    for wrong in [
        "example.org",
        "ftp://example.org/",
        "https://me:s3cret@example.org/",
        "https://example.com:99999/",
        "https://example.com:65536/",
        "https://example.com:0/",
    ] {
        let body =
            json!({"kind": "composite", "input": {"image": {"job": id, "file": "composite.png"}}, "webhook": wrong});
        let problem = server.post("/v1/jobs", &body).problem(422, "invalid_request");
        assert!(!problem.to_string().contains("s3cret"), "{problem}");
    }
}

#[test]
fn a_call_outlives_the_server() {
    let (port, calls) = receiver(&[]);
    let place = TestDir::new();
    let hook = format!("http://127.0.0.1:{port}/");
    // Nothing listens at this address yet, so the first attempts fail.
    let first = server(&place, "http://127.0.0.1:1");
    let id = first.submit(&[("kind", "composite"), ("webhook", "http://127.0.0.1:1/")], &picture(4, 4, [9; 4]));
    first.succeeded(&id);
    first.kill();
    assert!(calls.try_recv().is_err());
    let second = server(&place, &format!("http://127.0.0.1:{port}"));
    let id = second.submit(&[("kind", "composite"), ("webhook", &hook)], &picture(4, 4, [8; 4]));
    second.kill();
    let third = server(&place, &format!("http://127.0.0.1:{port}"));
    assert_eq!(calls.recv_timeout(TIMEOUT).unwrap().json()["id"], json!(id));
    third.succeeded(&id);
}

#[test]
fn a_receiver_that_asks_for_time_gets_it() {
    let (port, calls) = receiver(&[
        "429 Too Many Requests\r\nRetry-After: 2",
        "503 Service Unavailable\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:39 GMT",
        "503 Service Unavailable\r\nRetry-After: soon",
    ]);
    let place = TestDir::new();
    let server = server(&place, &format!("http://127.0.0.1:{port}"));
    let hook = format!("http://127.0.0.1:{port}/");
    server.submit(&[("kind", "composite"), ("webhook", &hook)], &picture(4, 4, [9; 4]));
    let heard: Vec<Instant> = (0..4)
        .map(|_| {
            calls.recv_timeout(TIMEOUT).unwrap();
            Instant::now()
        })
        .collect();
    let pauses: Vec<_> = heard.windows(2).map(|two| two[1] - two[0]).collect();
    // Of its own accord it waits 0.05, 0.25 and 1.25 seconds.
    assert!(pauses[0] > Duration::from_millis(1800) && pauses[1] > Duration::from_millis(1800), "{pauses:?}");
}

/// Connections that are accepted and never answered; how many are open.
fn silent() -> (u16, Arc<Mutex<Vec<TcpStream>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let held = Arc::<Mutex<Vec<TcpStream>>>::default();
    let holds = held.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            holds.lock().unwrap().push(stream.unwrap());
        }
    });
    (port, held)
}

#[test]
fn a_receiver_that_hangs_does_not_delay_the_others() {
    let ((silent, held), (port, calls)) = (silent(), receiver(&[]));
    let place = TestDir::new();
    let server = server(&place, &format!("http://127.0.0.1:{silent},http://127.0.0.1:{port}"));
    let submit = |port: u16| {
        let hook = format!("http://127.0.0.1:{port}/");
        server.submit(&[("kind", "composite"), ("webhook", &hook)], &picture(4, 4, [9; 4]))
    };
    let hanging: Vec<String> = (0..40).map(|_| submit(silent)).collect();
    hanging.iter().for_each(|id| drop(server.succeeded(id)));
    let id = submit(port);
    assert_eq!(calls.recv_timeout(TIMEOUT).unwrap().json()["id"], json!(id));
    let held = held.lock().unwrap().len();
    assert!((1..=8).contains(&held), "{held} of 40 calls reached the receiver that hangs");
    server.kill();
}

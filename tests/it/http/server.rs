//! Runs `acetate serve`.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::{
    common::{TestDir, blocking_until},
    http::client::{Answer, get, post, send, upload},
};

pub struct Server {
    pub child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    pub log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts it with only these `settings`, in the place's data folder.
    pub fn start(place: &TestDir, settings: &[(&str, &str)]) -> Self {
        Self::start_with(place, &[], settings)
    }

    pub fn start_with(place: &TestDir, flags: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut command = place.command(&[&["serve", "--bind", "127.0.0.1:0"], flags].concat());
        command.env("ACETATE__WORKER__LEASE_SECONDS", "2").env("ACETATE__WORKER__DRAIN_SECONDS", "0");
        for (name, value) in settings {
            command.env(name, value);
        }
        Self::of(command)
    }

    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut lines, kept) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        let heard = std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
                kept.lock().unwrap().push_str(&std::mem::take(&mut line));
            }
        });
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let address = said.trim().strip_prefix("acetate is at http://").and_then(|rest| rest.strip_suffix('/'));
        let Some(address) = address else {
            child.wait().unwrap();
            heard.join().unwrap();
            panic!("it does not serve: {said:?} {}", log.lock().unwrap());
        };
        Self { address: address.to_owned(), child, log }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn get(&self, path: &str) -> Answer {
        get(&self.url(path))
    }

    pub fn post(&self, path: &str, json: &Value) -> Answer {
        post(&self.url(path), json)
    }

    pub fn act(&self, id: &str, what: &str) -> Answer {
        send("POST", &self.url(&format!("/v1/jobs/{id}/{what}")), &[], &[])
    }

    /// Submits a picture with parameters; returns the id.
    pub fn submit(&self, texts: &[(&str, &str)], picture: &[u8]) -> String {
        let answer = upload(&self.url("/v1/jobs"), texts, &[("image", "scene.png", picture)]).ok(202);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).ok(200).json()
    }

    /// The job once `done` holds.
    #[track_caller]
    pub fn wait(&self, id: &str, done: impl Fn(&Value) -> bool) -> Value {
        blocking_until(|| {
            let job = self.job(id);
            if done(&job) { Ok(job) } else { Err(format!("{job}\n{}", self.log.lock().unwrap())) }
        })
    }

    #[track_caller]
    pub fn ended(&self, id: &str) -> Value {
        self.wait(id, |job| !matches!(job["state"].as_str(), Some("queued" | "running")))
    }

    #[track_caller]
    pub fn succeeded(&self, id: &str) -> Value {
        let job = self.ended(id);
        assert_eq!(job["state"], "succeeded", "{job}");
        job
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Stops the server with SIGTERM, and waits for the end.
    pub fn stop(mut self) -> String {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    /// Waits until it ends by itself, and for these words of its reason.
    pub fn fails(mut self, words: &str) {
        let status = self.child.wait().unwrap();
        assert!(!status.success(), "{status}: {}", self.log());
        blocking_until(|| if self.log().contains(words) { Ok(()) } else { Err(self.log()) });
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The result of a command that must refuse to start.
pub fn refusal(mut command: Command) -> String {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(!child.wait().unwrap().success());
    text
}

/// A picture of one color as PNG.
pub fn picture(width: u32, height: u32, pixel: [u8; 4]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::RgbaImage::from_pixel(width, height, image::Rgba(pixel));
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

pub fn pixels(png: &[u8]) -> image::RgbaImage {
    image::load_from_memory(png).unwrap().into_rgba8()
}

/// A decompose that takes about no time: two layers, two steps.
pub const QUICK: [(&str, &str); 4] = [("prompt", "a house"), ("layers", "2"), ("steps", "2"), ("seed", "1")];
/// A decompose that takes longer than any test.
pub const LONG: [(&str, &str); 3] = [("prompt", "a house"), ("layers", "2"), ("steps", "1000")];

/// An edit of a picture of a job.
pub fn edit(of: Value) -> Value {
    json!({"kind": "edit", "input": {"image": of}, "params": {"instruction": "make it blue", "steps": 2, "seed": 1}})
}

//! A small hub on this machine: the list of files, redirects to a second "CDN" port for large files, ranges, a log
//! of every request, and faults on demand.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const ID: &str = "Org/Model";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A fault in one response for a file.
#[derive(Clone)]
pub enum Fault {
    /// The whole length is announced, and the connection closes after this many bytes of the body.
    CutAfter(usize),
    /// The same, but the connection stays open and the server is silent.
    StallAfter(usize),
    WrongBytes,
    /// 200 and the whole file, even if a range was requested.
    IgnoreRange,
    /// A different length than in the list, with the matching `Content-Length`.
    Length(usize),
    /// A status, with further header lines.
    Status(u16, &'static str),
    /// A pause before the response.
    Slow(Duration),
    /// The body in this many parts, with a pause before each.
    Trickle(usize, Duration),
    /// A file without a length, which just ends after this many bytes.
    EndAfter(usize),
}

#[derive(Debug, Clone)]
pub struct Request {
    pub on_cdn: bool,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
    /// Bytes of body that were written.
    pub sent: usize,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    commit: String,
    /// Faults by file, used in order; the flag repeats the last one forever.
    faults: HashMap<String, (VecDeque<Fault>, bool)>,
    /// Replaces the list of files.
    listing: Option<String>,
    log: Vec<Request>,
    cdn: String,
}

pub struct Hub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// Serves these files; those that end in `.safetensors` are large: SHA-256, and fetched from the CDN.
    pub fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
        let state = State { files, commit: COMMIT.to_owned(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let cdn = listen(&state, true);
        state.lock().unwrap().cdn = cdn;
        Self { endpoint: listen(&state, false), state }
    }

    pub fn fault(&self, file: &str, fault: Fault) {
        self.state.lock().unwrap().faults.entry(file.to_owned()).or_default().0.push_back(fault);
    }

    pub fn always(&self, file: &str, fault: Fault) {
        self.state.lock().unwrap().faults.insert(file.to_owned(), (VecDeque::from([fault]), true));
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    pub fn set_listing(&self, json: &str) {
        self.state.lock().unwrap().listing = Some(json.to_owned());
    }

    /// Moves `main`.
    pub fn set_commit(&self, commit: &str) {
        self.state.lock().unwrap().commit = commit.to_owned();
    }

    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        self.state.lock().unwrap().files.insert(path.to_owned(), bytes);
    }

    pub fn log(&self) -> Vec<Request> {
        self.state.lock().unwrap().log.clone()
    }

    pub fn forget(&self) {
        self.state.lock().unwrap().log.clear();
    }

    /// The requests whose response had content of this file.
    pub fn fetches(&self, file: &str) -> Vec<Request> {
        let is_content = |request: &Request| request.path.ends_with(file) && !request.path.contains("/resolve/");
        self.log().into_iter().filter(is_content).collect()
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub fn git_sha1(bytes: &[u8]) -> String {
    let hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    hex::encode(hash)
}

fn listen(state: &Arc<Mutex<State>>, is_cdn: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let state = state.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            thread::spawn(move || serve(stream, &state, is_cdn));
        }
    });
    address
}

/// One request per connection.
fn serve(mut stream: TcpStream, state: &Mutex<State>, on_cdn: bool) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else { return };
    let mut headers = HashMap::new();
    for line in lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap();
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let (method, rest) = first.split_once(' ').unwrap();
    let target = rest.split(' ').next().unwrap().to_owned();
    let (range, token) = (headers.get("range").cloned(), headers.get("authorization").cloned());
    let index = {
        let mut state = state.lock().unwrap();
        let path = target.split('?').next().unwrap().to_owned();
        state.log.push(Request { on_cdn, path, range: range.clone(), token, sent: 0 });
        state.log.len() - 1
    };
    if method == "HEAD" {
        // Other clients send this request before they download; acetate knows the answer from the list.
        let (size, etag) = size_and_etag(&state.lock().unwrap(), &target);
        let head = format!("HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: {size}\r\n{etag}\r\n");
        return stream.write_all(head.as_bytes()).unwrap_or_default();
    }
    let sent = answer(&mut stream, state, on_cdn, &target, range.as_deref());
    state.lock().unwrap().log[index].sent = sent;
    let _ = stream.flush();
}

fn answer(stream: &mut TcpStream, state: &Mutex<State>, on_cdn: bool, target: &str, range: Option<&str>) -> usize {
    let path = target.split('?').next().unwrap();
    if path.starts_with("/api/models/") || path.starts_with("/api/datasets/") {
        let fault = take_fault(state, "listing");
        return match fault {
            Some(Fault::Status(status, extra)) => send(stream, status, extra, b""),
            Some(Fault::Slow(pause)) => {
                thread::sleep(pause);
                send(stream, 200, "", &list_of_files(state))
            }
            _ if !path.contains(&format!("/{ID}/revision/")) || !target.ends_with("?blobs=true") => {
                send(stream, 404, "X-Error-Code: RepoNotFound\r\n", b"")
            }
            _ if path.ends_with("/nowhere") => send(stream, 404, "X-Error-Code: RevisionNotFound\r\n", b""),
            _ => send(stream, 200, "", &list_of_files(state)),
        };
    }
    if let Some((prefix, file)) = path.split_once("/resolve/").and_then(|(_, rest)| rest.split_once('/')) {
        let cdn = state.lock().unwrap().cdn.clone();
        // Like the hub: a relative redirect for small files, an absolute one to another host for large files.
        let location = if file.ends_with(".safetensors") {
            format!("Location: {cdn}/cdn/{file}?Signature=secret\r\n")
        } else {
            format!("Location: /small/{prefix}/{file}\r\n")
        };
        let (_, etag) = size_and_etag(&state.lock().unwrap(), path);
        return send(stream, 302, &format!("{etag}{location}"), b"");
    }
    let file = if on_cdn {
        path.strip_prefix("/cdn/")
    } else {
        path.strip_prefix("/small/").and_then(|p| Some(p.split_once('/')?.1))
    };
    let file = file.unwrap_or_default();
    let Some(bytes) = state.lock().unwrap().files.get(file).cloned() else {
        return send(stream, 404, "", b"");
    };
    content(stream, take_fault(state, file), &bytes, range)
}

fn content(stream: &mut TcpStream, fault: Option<Fault>, bytes: &[u8], range: Option<&str>) -> usize {
    let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    if start >= bytes.len() && start > 0 {
        return send(stream, 416, "", b"");
    }
    let span = format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
    let (status, extra) = if range.is_some() { (206, span.as_str()) } else { (200, "") };
    let rest = &bytes[start..];
    match fault {
        None => send(stream, status, extra, rest),
        Some(Fault::Slow(pause)) => {
            thread::sleep(pause);
            send(stream, status, extra, rest)
        }
        Some(Fault::Trickle(parts, pause)) => {
            let mut sent = send_part(stream, status, extra, rest, 0);
            for part in rest.chunks(rest.len().div_ceil(parts)) {
                thread::sleep(pause);
                sent += stream.write_all(part).map_or(0, |()| part.len());
            }
            sent
        }
        Some(Fault::CutAfter(count)) => send_part(stream, status, extra, rest, count),
        Some(Fault::StallAfter(count)) => {
            let sent = send_part(stream, status, extra, rest, count);
            thread::sleep(Duration::from_secs(20));
            sent
        }
        Some(Fault::WrongBytes) => send(stream, status, extra, &rest.iter().map(|b| b ^ 1).collect::<Vec<_>>()),
        Some(Fault::IgnoreRange) => send(stream, 200, "", bytes),
        Some(Fault::Length(length)) => {
            let mut other = bytes.to_vec();
            other.resize(length, 0);
            send(stream, 200, "", &other)
        }
        Some(Fault::Status(status, extra)) => send(stream, status, extra, b""),
        Some(Fault::EndAfter(count)) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
            let mut endless = bytes.to_vec();
            endless.resize(count, 0);
            stream.write_all(&endless).map_or(0, |()| count)
        }
    }
}

fn size_and_etag(state: &State, target: &str) -> (usize, String) {
    let rest = target.split_once("/resolve/").map_or("", |(_, rest)| rest);
    let (_, file) = rest.split_once('/').unwrap_or_default();
    let bytes = state.files.get(file).map_or(&[][..], |bytes| bytes);
    let (size, commit) = (bytes.len(), &state.commit);
    let etag = if file.ends_with(".safetensors") {
        format!("X-Linked-Etag: \"{}\"\r\nX-Linked-Size: {size}\r\n", sha256(bytes))
    } else {
        format!("ETag: \"{}\"\r\n", git_sha1(bytes))
    };
    (size, format!("X-Repo-Commit: {commit}\r\n{etag}"))
}

fn take_fault(state: &Mutex<State>, file: &str) -> Option<Fault> {
    let mut state = state.lock().unwrap();
    let (faults, always) = state.faults.get_mut(file)?;
    if *always { faults.front().cloned() } else { faults.pop_front() }
}

fn send(stream: &mut TcpStream, status: u16, extra: &str, body: &[u8]) -> usize {
    send_part(stream, status, extra, body, body.len())
}

fn send_part(stream: &mut TcpStream, status: u16, extra: &str, body: &[u8], count: usize) -> usize {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{extra}\r\n");
    let count = count.min(length);
    let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..count]));
    written.map_or(0, |()| count)
}

fn list_of_files(state: &Mutex<State>) -> Vec<u8> {
    let state = state.lock().unwrap();
    if let Some(listing) = &state.listing {
        return listing.clone().into_bytes();
    }
    let sibling = |(path, bytes): (&String, &Vec<u8>)| {
        let mut file = serde_json::json!({"rfilename": path, "size": bytes.len(), "blobId": git_sha1(bytes)});
        if path.ends_with(".safetensors") || path.ends_with(".bin") {
            // A large file's git hash is that of its pointer.
            file["blobId"] = git_sha1(b"pointer").into();
            file["lfs"] = serde_json::json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 134});
        }
        file
    };
    let siblings: Vec<_> = state.files.iter().map(sibling).collect();
    serde_json::json!({"id": ID, "sha": state.commit, "siblings": siblings}).to_string().into_bytes()
}

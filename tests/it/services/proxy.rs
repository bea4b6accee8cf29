//! A proxy between a client and an HTTP server that breaks chosen requests.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// Longer than any client in these tests waits.
const FOREVER: Duration = Duration::from_secs(30);

/// The fault of one request.
pub enum Fault {
    /// The proxy itself responds, with this status line and body.
    Answer(&'static str, &'static str),
    /// There is no response.
    Silent,
    /// Half of the response's body arrives, then nothing more.
    StallHalf,
    /// Half of the response's body arrives, then the connection closes.
    CutHalf,
    /// Like [`Fault::CutHalf`], but calls this function first.
    CutHalfAfter(Box<dyn FnOnce() + Send>),
    /// The body arrives byte by byte.
    Trickle,
    /// One byte of the body is changed.
    Flip,
    /// The server executes the request, but its response is lost.
    LostReply,
    /// The request waits until this is notified.
    Hold(Arc<Notify>),
}

pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    upstream: SocketAddr,
    faults: Mutex<VecDeque<(&'static str, Fault)>>,
    seen: Mutex<Vec<String>>,
}

impl Proxy {
    pub async fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { upstream, faults: Mutex::default(), seen: Mutex::default() });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move { state.serve(client).await.ok() });
            }
        });
        Self { address, state, task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a fault for the next request with this method that has none yet.
    pub fn next(&self, method: &'static str, fault: Fault) {
        self.state.faults.lock().unwrap().push_back((method, fault));
    }

    /// The heads of the requests with this method so far, in lower case.
    pub fn seen(&self, method: &str) -> Vec<String> {
        let start = format!("{} ", method.to_lowercase());
        self.state.seen.lock().unwrap().iter().filter(|head| head.starts_with(&start)).cloned().collect()
    }

    /// Leaves out the faults that have not happened.
    pub fn forget(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// Whether all faults have happened.
    pub fn is_spent(&self) -> bool {
        self.state.faults.lock().unwrap().is_empty()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    /// Serves one request, then closes the connection.
    async fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let Some((head, body)) = read_request(&mut client).await? else { return Ok(()) };
        self.seen.lock().unwrap().push(head.to_lowercase());
        match self.fault_for(&head) {
            None => client.write_all(&self.forward(&head, &body).await?).await,
            Some(Fault::Answer(status, text)) => {
                let length = text.len();
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                client.write_all(format!("{head}{text}").as_bytes()).await
            }
            Some(Fault::Silent) => {
                tokio::time::sleep(FOREVER).await;
                Ok(())
            }
            Some(Fault::Hold(go_on)) => {
                go_on.notified().await;
                client.write_all(&self.forward(&head, &body).await?).await
            }
            Some(Fault::LostReply) => self.forward(&head, &body).await.map(drop),
            Some(Fault::CutHalf) => client.write_all(half(&self.forward(&head, &body).await?)).await,
            Some(Fault::CutHalfAfter(act)) => {
                let answer = self.forward(&head, &body).await?;
                act();
                client.write_all(half(&answer)).await
            }
            Some(Fault::StallHalf) => {
                client.write_all(half(&self.forward(&head, &body).await?)).await?;
                tokio::time::sleep(FOREVER).await;
                Ok(())
            }
            Some(Fault::Trickle) => {
                let answer = self.forward(&head, &body).await?;
                let (start, rest) = answer.split_at(body_at(&answer));
                client.write_all(start).await?;
                for byte in rest {
                    client.write_all(&[*byte]).await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(())
            }
            Some(Fault::Flip) => {
                let mut answer = self.forward(&head, &body).await?;
                if let Some(last) = answer.last_mut() {
                    *last ^= 1;
                }
                client.write_all(&answer).await
            }
        }
    }

    fn fault_for(&self, head: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let at = faults.iter().position(|(method, _)| head.starts_with(&format!("{method} ")))?;
        faults.remove(at).map(|(_, fault)| fault)
    }

    /// The server's whole response. The request asks it to close the connection, which marks the end.
    async fn forward(&self, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(self.upstream).await?;
        let head = head.strip_suffix("\r\n").unwrap_or(head);
        server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await?;
        server.write_all(body).await?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

/// The head (with its empty line) and body of a request; none if the client closes the connection without a request.
async fn read_request(client: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let head_ends = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_ends]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse::<usize>().ok() } else { None }
    });
    let mut body = bytes.split_off(head_ends);
    while body.len() < length.unwrap_or_default() {
        if client.read_buf(&mut body).await? == 0 {
            break;
        }
    }
    Ok(Some((head, body)))
}

fn body_at(answer: &[u8]) -> usize {
    answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4)
}

/// The head and half of the body.
fn half(answer: &[u8]) -> &[u8] {
    let start = body_at(answer);
    &answer[..start + (answer.len() - start) / 2]
}

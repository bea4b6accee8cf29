//! Stands between a client and a server and lets through what it is told to: everything, nothing, or only one way.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::{Notify, broadcast},
};

/// What Postgres ends its answers with, once what it was asked is committed.
const READY_FOR_QUERY: &[u8] = b"Z\0\0\0\x05I";

pub struct Gate {
    pub address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    upstream: String,
    /// New connections are closed at once.
    shut: AtomicBool,
    /// Of a connection on which the client says this, the server's answers are thrown away.
    word: Mutex<Option<&'static [u8]>>,
    /// Ends the connections that are open.
    cut: broadcast::Sender<()>,
}

impl Gate {
    pub async fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, _) = broadcast::channel(1);
        let state = State { upstream: upstream.to_owned(), shut: false.into(), word: Mutex::default(), cut };
        let state = Arc::new(state);
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move { state.carry(client).await.ok() });
            }
        });
        Self { address, state, task }
    }

    /// The server cannot be reached, and those who had reached it are thrown out.
    pub fn shut(&self) {
        self.state.shut.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub fn open(&self) {
        self.state.shut.store(false, Ordering::SeqCst);
    }

    /// Ends the open connections; new ones are welcome.
    pub fn cut(&self) {
        let _ = self.state.cut.send(());
    }

    /// The next connection to Postgres on which the client says `word` is heard to the end by the server, and its
    /// answer is lost with the connection.
    pub fn lose_reply_to(&self, word: &'static [u8]) {
        *self.state.word.lock().unwrap() = Some(word);
    }

    /// Whether that has happened.
    pub fn has_lost_it(&self) -> bool {
        self.state.word.lock().unwrap().is_none()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    async fn carry(&self, client: TcpStream) -> std::io::Result<()> {
        if self.shut.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut cut = self.cut.subscribe();
        let server = TcpStream::connect(&self.upstream).await?;
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let (deaf, answered) = (AtomicBool::new(false), Notify::new());
        let hear = |said: &[u8]| {
            let mut word = self.word.lock().unwrap();
            if word.is_some_and(|word| said.windows(word.len()).any(|part| part == word)) {
                *word = None;
                deaf.store(true, Ordering::SeqCst);
            }
        };
        tokio::select! {
            _ = cut.recv() => Ok(()),
            () = answered.notified() => Ok(()),
            result = copy(from_client, to_server, hear) => result,
            result = copy_unless(from_server, to_client, &deaf, &answered) => result,
        }
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, hear: impl Fn(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        hear(&buffer[..count]);
        to.write_all(&buffer[..count]).await?;
    }
}

async fn copy_unless(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    deaf: &AtomicBool,
    answered: &Notify,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut lost = Vec::new();
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if deaf.load(Ordering::SeqCst) {
            lost.extend_from_slice(&buffer[..count]);
            if lost.ends_with(READY_FOR_QUERY) {
                answered.notify_one();
            }
        } else {
            to.write_all(&buffer[..count]).await?;
        }
    }
}

//! Stands between a client and a server and lets through what it is told to: everything, nothing, or only one way.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::broadcast,
};

pub struct Gate {
    pub address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    upstream: String,
    /// New connections are closed at once.
    shut: AtomicBool,
    /// What the server says is thrown away.
    deaf: AtomicBool,
    /// Ends the connections that are open.
    cut: broadcast::Sender<()>,
}

impl Gate {
    pub async fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, _) = broadcast::channel(1);
        let state = State { upstream: upstream.to_owned(), shut: false.into(), deaf: false.into(), cut };
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
        self.state.deaf.store(false, Ordering::SeqCst);
        self.state.shut.store(false, Ordering::SeqCst);
    }

    /// Ends the open connections; new ones are welcome.
    pub fn cut(&self) {
        let _ = self.state.cut.send(());
    }

    /// From now on the server does what it is asked, and its answers are lost.
    pub fn lose_replies(&self) {
        self.state.deaf.store(true, Ordering::SeqCst);
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
        tokio::select! {
            _ = cut.recv() => Ok(()),
            result = copy(from_client, to_server, None) => result,
            result = copy(from_server, to_client, Some(&self.deaf)) => result,
        }
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lost: Option<&AtomicBool>) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if lost.is_none_or(|lost| !lost.load(Ordering::SeqCst)) {
            to.write_all(&buffer[..count]).await?;
        }
    }
}

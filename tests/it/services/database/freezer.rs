//! Stands between a client and a server as a network does: it can fall silent without closing anything, and lead new
//! connections elsewhere.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::broadcast,
};

pub struct Freezer {
    pub port: u16,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    upstream: AtomicU16,
    /// Connections of an earlier winter are frozen for ever.
    winter: AtomicUsize,
    cut: broadcast::Sender<()>,
}

impl Freezer {
    pub async fn before(upstream: u16) -> Self {
        Self::at(0, upstream).await
    }

    pub async fn at(port: u16, upstream: u16) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, _) = broadcast::channel(1);
        let state = Arc::new(State { upstream: AtomicU16::new(upstream), winter: AtomicUsize::default(), cut });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move { state.carry(client).await.ok() });
            }
        });
        Self { port, state, task }
    }

    /// What is open carries nothing any more, and nobody is told. New connections work.
    pub fn freeze(&self) {
        self.state.winter.fetch_add(1, Ordering::SeqCst);
    }

    /// Cuts what is open, and leads what comes to another port.
    pub fn lead_to(&self, upstream: u16) {
        self.state.upstream.store(upstream, Ordering::SeqCst);
        let _ = self.state.cut.send(());
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    async fn carry(&self, client: TcpStream) -> std::io::Result<()> {
        let mut cut = self.cut.subscribe();
        let begun = self.winter.load(Ordering::SeqCst);
        let server = TcpStream::connect(("127.0.0.1", self.upstream.load(Ordering::SeqCst))).await?;
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            _ = cut.recv() => Ok(()),
            result = self.copy(begun, from_client, to_server) => result,
            result = self.copy(begun, from_server, to_client) => result,
        }
    }

    async fn copy(
        &self,
        begun: usize,
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut buffer).await?;
            if self.winter.load(Ordering::SeqCst) != begun {
                std::future::pending::<()>().await;
            }
            if count == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..count]).await?;
        }
    }
}

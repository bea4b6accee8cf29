//! Stands between a client and RabbitMQ, and says what newer versions of RabbitMQ say.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::broadcast,
    task::JoinHandle,
};

const METHOD_FRAME: u8 = 1;
const FRAME_END: u8 = 0xce;
/// Class and method.
const BASIC_CONSUME_OK: [u8; 4] = [0, 60, 0, 21];
const BASIC_CANCEL: [u8; 4] = [0, 60, 0, 30];

pub struct AmqpProxy {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    upstream: String,
    cancel: broadcast::Sender<()>,
    /// The consumers that were canceled.
    canceled: Mutex<Vec<String>>,
}

impl AmqpProxy {
    pub async fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cancel, _) = broadcast::channel(4);
        let state = Arc::new(State { upstream: upstream.to_owned(), cancel, canceled: Mutex::default() });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move { state.carry(client).await.ok() });
            }
        });
        Self { address, state, task }
    }

    /// Tells every client that its consumers are canceled, as a queue of RabbitMQ 4.3 does after a consumer timeout.
    pub fn cancel_consumers(&self) {
        let _ = self.state.cancel.send(());
    }

    pub fn canceled(&self) -> usize {
        self.state.canceled.lock().unwrap().len()
    }
}

impl Drop for AmqpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    async fn carry(&self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(&self.upstream).await?;
        let ((mut from_client, to_client), (from_server, mut to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            result = tokio::io::copy(&mut from_client, &mut to_server) => result.map(drop),
            result = self.answer(from_server, to_client) => result,
        }
    }

    /// Passes on the server's frames. Cancellations go between two of them.
    async fn answer(&self, mut server: OwnedReadHalf, mut client: OwnedWriteHalf) -> io::Result<()> {
        let mut cancel = self.cancel.subscribe();
        let mut consumers: Vec<([u8; 2], Vec<u8>)> = Vec::new();
        let mut bytes = Vec::new();
        loop {
            tokio::select! {
                read = server.read_buf(&mut bytes) => if read? == 0 { return Ok(()) },
                _ = cancel.recv() => {
                    for (channel, tag) in consumers.drain(..) {
                        client.write_all(&cancellation(channel, &tag)).await?;
                        self.canceled.lock().unwrap().push(String::from_utf8_lossy(&tag).into_owned());
                    }
                }
            }
            while let Some(length) = frame_length(&bytes) {
                let frame: Vec<u8> = bytes.drain(..length).collect();
                if frame[0] == METHOD_FRAME && frame[7..11] == BASIC_CONSUME_OK {
                    let tag = frame[12..12 + usize::from(frame[11])].to_vec();
                    consumers.push(([frame[1], frame[2]], tag));
                }
                client.write_all(&frame).await?;
            }
        }
    }
}

/// The length of the first frame if all of it is there: type, channel, size, payload, end.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let size = bytes.get(3..7)?;
    let length = 8 + u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize;
    (bytes.len() >= length).then_some(length)
}

/// `basic.cancel` without a reply.
fn cancellation(channel: [u8; 2], tag: &[u8]) -> Vec<u8> {
    let mut payload = BASIC_CANCEL.to_vec();
    payload.push(u8::try_from(tag.len()).unwrap());
    payload.extend_from_slice(tag);
    payload.push(1);
    let mut frame = vec![METHOD_FRAME, channel[0], channel[1]];
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&payload);
    frame.push(FRAME_END);
    frame
}

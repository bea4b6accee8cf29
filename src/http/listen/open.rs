//! The open connections: how many there are, and which one to close for a new client.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::{
    Request,
    body::{Frame, Incoming, SizeHint},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// How soon to look again for a connection to close.
const RECHECK_AFTER: Duration = Duration::from_millis(50);
/// A body that arrives more slowly than this, or a response that is read more slowly, may be cut off for a new client.
const SLOW_BYTES_PER_SECOND: f64 = 16.0 * 1024.0;
/// For how long that is not yet known.
const TOO_EARLY: Duration = Duration::from_secs(1);
/// The time in which reading is measured. A client that takes nothing for that long is slow in any case.
const WINDOW: Duration = Duration::from_secs(5);

pub struct OpenConnections {
    places: Arc<Semaphore>,
    connections: Mutex<ConnectionTable>,
}

#[derive(Default)]
struct ConnectionTable {
    next: u64,
    all: HashMap<u64, Arc<Connection>>,
}

/// What a client is doing.
pub struct Connection {
    close: CancellationToken,
    phase: Mutex<Phase>,
    reading: Mutex<ReadPace>,
}

/// How a client reads its response. Only what it does not take at once counts: the time that the server had to wait
/// for it, and what it read meanwhile.
#[derive(Default)]
struct ReadPace {
    blocked_since: Option<Instant>,
    blocked: Duration,
    bytes: usize,
}

impl ReadPace {
    /// Since when the client has been reading slowly, about.
    fn slow_since(&self) -> Option<Instant> {
        let since = self.blocked_since?;
        let waited = since.elapsed();
        (waited > WINDOW || is_slow(self.bytes, self.blocked + waited)).then_some(since)
    }
}

fn is_slow(bytes: usize, time: Duration) -> bool {
    time > TOO_EARLY && (bytes as f64) < SLOW_BYTES_PER_SECOND * time.as_secs_f64()
}

#[derive(Clone, Copy)]
enum Phase {
    /// The head of a request has not arrived.
    Waiting {
        since: Instant,
    },
    /// The head has arrived, and a part of the body.
    Receiving {
        since: Instant,
        bytes: usize,
    },
    Answering,
}

impl OpenConnections {
    pub fn new(most: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(most.max(1))), connections: Mutex::default() }
    }

    /// A place for a new connection; if there is none, closes the connection that deserves its place least.
    pub async fn place(self: &Arc<Self>) -> ConnectionSlot {
        let permit = loop {
            if let Ok(permit) = self.places.clone().try_acquire_owned() {
                break permit;
            }
            self.close_one();
            if let Ok(Ok(permit)) = tokio::time::timeout(RECHECK_AFTER, self.places.clone().acquire_owned()).await {
                break permit;
            }
        };
        let phase = Mutex::new(Phase::Waiting { since: Instant::now() });
        let connection = Arc::new(Connection { close: CancellationToken::new(), phase, reading: Mutex::default() });
        let mut connections = lock(&self.connections);
        let key = connections.next;
        connections.next += 1;
        connections.all.insert(key, connection.clone());
        ConnectionSlot { open: self.clone(), key, connection, _permit: permit }
    }

    /// Closes the connection that has waited longest without a whole head; if there is none, the one whose body has
    /// been arriving slowly for longest, and then the one that has been reading its response slowly for longest. Other
    /// requests that are being answered are never cut off.
    pub fn close_one(&self) {
        let mut connections = lock(&self.connections);
        let worth = |connection: &Connection| match *lock(&connection.phase) {
            Phase::Waiting { since } => Some((0, since)),
            Phase::Receiving { since, bytes } => is_slow(bytes, since.elapsed()).then_some((1, since)),
            Phase::Answering => lock(&connection.reading).slow_since().map(|since| (2, since)),
        };
        let least = connections.all.iter().filter_map(|(key, connection)| Some((worth(connection)?, *key))).min();
        if let Some(connection) = least.and_then(|(_, key)| connections.all.remove(&key)) {
            connection.close.cancel();
        }
    }
}

/// The place of one connection, given back when it is dropped.
pub struct ConnectionSlot {
    open: Arc<OpenConnections>,
    key: u64,
    connection: Arc<Connection>,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionSlot {
    pub fn connection(&self) -> Arc<Connection> {
        self.connection.clone()
    }

    /// Resolves when a new client needs the place.
    pub async fn closed(&self) {
        self.connection.close.cancelled().await;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lock(&self.open.connections).all.remove(&self.key);
    }
}

impl Connection {
    /// A head has arrived. The connection waits for the next one when the returned value is dropped.
    pub fn request(self: &Arc<Self>, request: &Request<Incoming>) -> Answering {
        *lock(&self.phase) = match request.body().is_end_stream() {
            true => Phase::Answering,
            false => Phase::Receiving { since: Instant::now(), bytes: 0 },
        };
        Answering(self.clone())
    }

    /// Some bytes of the body have arrived.
    pub fn received(&self, more: usize) {
        if let Phase::Receiving { bytes, .. } = &mut *lock(&self.phase) {
            *bytes += more;
        }
    }

    /// The body has arrived, or nobody reads it any more.
    pub fn received_all(&self) {
        let mut phase = lock(&self.phase);
        if matches!(*phase, Phase::Receiving { .. }) {
            *phase = Phase::Answering;
        }
    }

    /// The client takes nothing more for now.
    pub fn blocked(&self) {
        lock(&self.reading).blocked_since.get_or_insert_with(Instant::now);
    }

    /// The client, or the network on the way to it, has taken some bytes.
    pub fn took(&self, bytes: usize) {
        let mut reading = lock(&self.reading);
        if reading.blocked > WINDOW {
            *reading = ReadPace { blocked_since: reading.blocked_since, ..ReadPace::default() };
        }
        if let Some(since) = reading.blocked_since.take() {
            reading.blocked += since.elapsed();
        }
        // What it takes at once is no matter of its pace.
        if !reading.blocked.is_zero() {
            reading.bytes += bytes;
        }
    }
}

pub struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        *lock(&self.0.phase) = Phase::Waiting { since: Instant::now() };
    }
}

/// A response's body; the request is over when it has been sent.
pub struct Answered {
    body: Body,
    _answering: Answering,
}

impl Answered {
    pub fn new(body: Body, answering: Answering) -> Self {
        Self { body, _answering: answering }
    }
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// No code under the locks can leave the values inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn full(most: usize) -> (Arc<OpenConnections>, Vec<ConnectionSlot>) {
        let open = Arc::new(OpenConnections::new(most));
        let mut places = Vec::new();
        for _ in 0..most {
            places.push(open.place().await);
        }
        (open, places)
    }

    fn closed(places: &[ConnectionSlot]) -> Vec<usize> {
        (0..places.len()).filter(|index| places[*index].connection.close.is_cancelled()).collect()
    }

    #[tokio::test]
    async fn a_new_client_gets_the_place_that_has_waited_longest() {
        let (open, mut places) = full(3).await;
        *lock(&places[0].connection.phase) = Phase::Answering;
        let waiting = tokio::spawn({
            let open = open.clone();
            async move { open.place().await }
        });
        tokio::time::timeout(Duration::from_secs(5), places[1].closed()).await.unwrap();
        assert_eq!(closed(&places), [1]);
        drop(places.remove(1));
        assert!(waiting.await.unwrap().key > 2);
    }

    #[tokio::test]
    async fn a_slow_body_gives_way_and_an_answer_never() {
        let (open, places) = full(3).await;
        let Some(before) = Instant::now().checked_sub(Duration::from_secs(5)) else { return };
        *lock(&places[0].connection.phase) = Phase::Answering;
        *lock(&places[1].connection.phase) = Phase::Receiving { since: before, bytes: 10 << 20 };
        *lock(&places[2].connection.phase) = Phase::Receiving { since: before, bytes: 100 };
        open.close_one();
        assert_eq!(closed(&places), [2]);
        open.close_one();
        assert_eq!(closed(&places), [2], "a quick upload and an answer go on");
    }

    #[tokio::test]
    async fn a_response_that_is_hardly_read_gives_way() {
        let (open, places) = full(4).await;
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        let (Some(long), Some(short)) = (ago(10), ago(3)) else { return };
        for (place, (blocked_since, blocked, bytes)) in places.iter().zip([
            // An event stream, a quick download, one that has just begun to stall, and one that drips.
            (None, 0, 0),
            (Some(short), 4, 10 << 20),
            (Some(Instant::now()), 0, 0),
            (Some(short), 4, 300),
        ]) {
            *lock(&place.connection.phase) = Phase::Answering;
            *lock(&place.connection.reading) = ReadPace { blocked_since, blocked: Duration::from_secs(blocked), bytes };
        }
        open.close_one();
        assert_eq!(closed(&places), [3]);
        open.close_one();
        assert_eq!(closed(&places), [3], "the others go on");
        lock(&places[1].connection.reading).blocked_since = Some(long);
        open.close_one();
        assert_eq!(closed(&places), [1, 3], "whatever it has read before");
    }

    #[tokio::test]
    async fn only_waiting_for_a_client_counts() {
        let (_, places) = full(1).await;
        let connection = &places[0].connection;
        connection.took(1 << 20);
        assert_eq!(lock(&connection.reading).bytes, 0);
        connection.blocked();
        tokio::time::sleep(Duration::from_millis(5)).await;
        connection.took(100);
        let reading = lock(&connection.reading);
        assert!(reading.blocked >= Duration::from_millis(5) && reading.blocked_since.is_none());
        assert_eq!(reading.bytes, 100);
    }
}

//! The parts for commands that submit or inspect jobs, without an engine or a consumer.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tracing::warn;

use super::wiring;
use crate::{
    config::Loaded,
    database::JobStore,
    job::JobError,
    queue::Queue,
    store::{Inputs, Stores, Trust},
    worker::publish_due,
};

/// How long a submitter waits for the broker. The jobs are already saved; a worker's relay sends the rest.
const BROKER: Duration = Duration::from_secs(5);

pub struct Submitter {
    pub status: JobStore,
    pub stores: Stores,
    pub inputs: Inputs,
    queue: Queue,
    max_input_bytes: u64,
}

impl Submitter {
    pub async fn open(loaded: &Loaded) -> Result<Self, JobError> {
        let config = &loaded.config;
        let stores = wiring::stores(config, Trust::Local)?;
        Ok(Self {
            status: wiring::job_store(config).await?,
            queue: wiring::queue(config)?,
            inputs: stores.inputs().clone(),
            stores,
            max_input_bytes: config.image.max_bytes,
        })
    }

    /// Sends the outbox, so that the jobs need not wait for a worker's relay. Returns false if the broker is
    /// unreachable; nothing is lost then, because the rows are written.
    pub async fn dispatch(&self) -> bool {
        if matches!(self.queue, Queue::Embedded(_)) {
            return true;
        }
        let sent = match self.queue.ready(BROKER).await {
            Ok(()) => loop {
                match publish_due(&self.status, &self.queue).await {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error),
                }
            },
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            warn!(%error, "the jobs are accepted and will be dispatched when the broker is back");
            return false;
        }
        true
    }

    /// Closes the connections to the broker and the database.
    pub async fn close(self) {
        self.queue.close().await;
        self.status.close().await;
    }

    /// Copies a local file into the store; returns its address there, which is the same for the same bytes.
    pub async fn upload(&self, url: &str) -> Result<String, JobError> {
        let bytes = self.inputs.read(url, self.max_input_bytes).await?;
        let ending = url.rsplit('.').next().filter(|ending| ending.len() <= 4).unwrap_or("bin").to_ascii_lowercase();
        let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        self.stores.own().put_input(&sha256, &ending, bytes).await
    }
}

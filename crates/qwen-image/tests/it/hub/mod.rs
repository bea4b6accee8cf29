//! Downloads from a hub on this machine that fails in every way that networks do.

mod server;

mod cache;
mod datasets;
mod faults;
mod loras;
mod names;
mod pull;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qwen_image::hub::{DownloadEvent, HubConfig, HubError, ModelRef, Retry, Snapshot, Token, diffusers_files, resolve};
use server::{COMMIT, Hub, ID};

const SHARD: &str = "transformer/diffusion_pytorch_model.safetensors";
const SHARD_BYTES: usize = 600_000;

/// The files of a small model; the shard spans several reads.
fn model_files() -> Vec<(&'static str, Vec<u8>)> {
    let index =
        br#"{"_class_name": "QwenImageLayeredPipeline", "transformer": ["diffusers", "X"], "vae": ["diffusers", "Y"]}"#;
    vec![
        ("README.md", b"not needed".to_vec()),
        ("model_index.json", index.to_vec()),
        ("transformer/config.json", b"{\"num_layers\": 2}\n".to_vec()),
        (SHARD, noise(SHARD_BYTES, 1)),
        ("tokenizer/merges.txt", Vec::new()),
        ("vae/config.json", b"{}".to_vec()),
        ("vae/diffusion_pytorch_model.safetensors", noise(5000, 2)),
        ("vae/preview.png", vec![0; 10]),
    ]
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(step).collect()
}

/// A hub, an empty cache and short waits.
struct Fixture {
    hub: Hub,
    config: HubConfig,
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let hub = Hub::start(&model_files());
        let folder = tempfile::tempdir().unwrap();
        let config = quick(HubConfig::new(&hub.endpoint, folder.path()));
        Self { hub, config, folder }
    }

    fn cache(&self) -> &Path {
        self.folder.path()
    }

    fn repo(&self) -> PathBuf {
        self.cache().join("models--Org--Model")
    }

    fn pull(&self) -> Result<Snapshot, HubError> {
        self.pull_revision("main").0
    }

    fn pull_revision(&self, revision: &str) -> (Result<Snapshot, HubError>, Vec<DownloadEvent>) {
        let mut events = Vec::new();
        let result = pull(&self.config, revision, &mut |event| {
            events.push(event);
            ControlFlow::Continue(())
        });
        (result, events)
    }

    fn partial(&self, bytes: &[u8]) -> PathBuf {
        self.repo().join("blobs").join(format!("{}.incomplete", server::sha256(bytes)))
    }
}

fn quick(mut config: HubConfig) -> HubConfig {
    let wait = Duration::from_millis(5);
    config.use_proxy = false;
    config.retry =
        Retry { attempts: 4, first_wait: wait, longest_wait: wait, stall: Duration::from_secs(1), ..Retry::default() };
    config
}

fn pull(
    config: &HubConfig,
    revision: &str,
    events: &mut dyn FnMut(DownloadEvent) -> ControlFlow<()>,
) -> Result<Snapshot, HubError> {
    let model = ModelRef::Hub { id: ID.to_owned(), revision: revision.to_owned() };
    resolve(config, &model, &diffusers_files, events)
}

/// Every wanted file is there with the right content, and nothing else is.
fn assert_whole(snapshot: &Snapshot) {
    assert_eq!(snapshot.id, ID);
    for (path, bytes) in model_files() {
        let file = snapshot.folder.join(path);
        if diffusers_files(path) {
            assert!(fs::read(&file).unwrap() == bytes, "{path} differs");
        } else {
            assert!(!file.exists(), "{path} is not needed");
        }
    }
}

fn token(text: &str) -> Option<Token> {
    Token::new(text)
}

/// The name of the error, as for a job.
fn kind(error: &HubError) -> &'static str {
    match error {
        HubError::Reference { .. }
        | HubError::LoraReference { .. }
        | HubError::NoLora { .. }
        | HubError::Folder { .. }
        | HubError::NoSmallModel { .. }
        | HubError::NoCacheFolder { .. }
        | HubError::NotFound { .. }
        | HubError::Unauthorized { .. }
        | HubError::Offline { .. } => "model_not_found",
        HubError::NoSpace { .. } => "disk_full",
        HubError::Checksum { .. }
        | HubError::Unreachable { .. }
        | HubError::Network { .. }
        | HubError::Listing { .. } => "download",
        HubError::Endpoint { .. } | HubError::DatasetReference { .. } | HubError::NoFiles { .. } => "invalid_request",
        HubError::Pickle { .. } | HubError::NotAModel { .. } => "model_invalid",
        HubError::Io { .. } | HubError::Unpack { .. } => "storage",
        HubError::Cancelled => "cancelled",
    }
}

//! Objects: inputs are read here under a byte cap, results are written here, and every key is made here.
//!
//! A file is written under a temporary name, flushed to the disk and renamed, so a reader sees all of it or nothing.
//! Files go under `{job}/{epoch}/`; the manifest, which names them with their SHA-256, is written last.

mod errors;
mod export;
mod folder;
mod key;
mod url;

pub use errors::io_error;
pub use export::OutFolder;
pub use folder::{FolderStore, Stored};
pub use key::ObjectKey;
pub use url::{file_url, path_of};

pub const MANIFEST: &str = "manifest.json";

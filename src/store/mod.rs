//! The object store: reads inputs under a byte cap, writes results, and makes all keys.
//!
//! [`Stores`] has what a process may use: its own [`Store`], the [`Inputs`] that requests may use, and the roots where
//! results may go. A store is a folder or a prefix of an S3 bucket, with the same guarantees: an object is complete or
//! absent, and every write is verified before anything refers to it. Files go to `{job}/{epoch}/`; the manifest, which
//! lists them with their SHA-256, is written last.
//!
//! Addresses in requests are not trusted: they are matched against lists of prefixes, files by their resolved path, and
//! web hosts by the IP addresses that they resolve to at that moment.

mod allow;
mod backend;
mod errors;
mod export;
mod folder;
mod inputs;
mod key;
mod listing;
mod location;
mod result;
mod s3;
mod stores;
mod url;

pub use backend::Store;
pub use errors::io_error;
pub use export::OutFolder;
pub use folder::{FolderStore, Stored};
pub use inputs::{Inputs, Trust, input_name};
pub use key::ObjectKey;
pub use listing::{Listed, Listing};
pub use result::ResultFiles;
pub use s3::{Checksums, S3Client, S3Credentials, S3Settings, S3Store};
pub use stores::{StoreSettings, Stores};
pub use url::{file_url, path_of};

pub const MANIFEST: &str = "manifest.json";

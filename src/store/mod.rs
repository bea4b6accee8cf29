//! The object store: reads inputs under a byte cap, writes results, and makes all keys.
//!
//! [`Stores`] holds what a process may use: its own [`Store`], the [`InputReader`] for the inputs of requests, and the
//! roots that results may go to. A store is a folder or a prefix of an S3 bucket. Both guarantee that an object is
//! visible as a whole or not at all, and that files are verified before anything refers to them. Files go under
//! `{job}/{epoch}/`; the manifest, which names them with their SHA-256, is written last.
//!
//! Addresses in requests are not trusted: they are matched against lists of prefixes, files by their resolved path, and
//! web hosts by the IP addresses that they resolve to at that moment.

mod allow;
mod backend;
mod blocking;
mod deletion;
mod digest;
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
mod target;
mod uploads;
mod url;

pub use backend::Store;
pub use deletion::Deletion;
pub use errors::io_error;
pub use export::OutFolder;
pub use folder::{FolderStore, Stored};
pub use inputs::{InputReader, Trust, check_readable, input_name};
pub use key::ObjectKey;
pub use listing::{Listed, Listing, Skipped};
pub use result::{ResultFiles, read_all_published};
pub use s3::{BucketSettings, Checksums, Encryption, PathStyle, S3Client, S3Credentials, S3Settings, S3Store};
pub use stores::{StoreSettings, Stores};
pub use target::{Target, TargetLock};
pub use uploads::NamedUploads;
pub use url::{file_url, path_of};

pub const MANIFEST: &str = "manifest.json";

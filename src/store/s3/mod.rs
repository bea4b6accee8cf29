//! Objects in S3, or in a store with the same protocol.
//!
//! Nothing waits forever: connecting, a silent server, one attempt and the whole operation have their own limits. An
//! object may take as long as its bytes keep moving: a body that arrives too slowly is aborted and resumed at the same
//! position of the same version of the object, and one that is sent is given up when the server takes nothing more.
//! Request bodies are in memory, so that every request can be repeated.

mod advice;
mod client;
mod delete;
mod failure;
mod list;
mod read;
mod settings;
mod stall;
mod store;
mod write;

pub use client::S3Client;
pub use settings::{BucketSettings, Checksums, Encryption, PathStyle, S3Credentials, S3Settings};
pub use store::S3Store;

pub(super) use delete::delete;
pub(super) use failure::S3Error;
pub(super) use list::{ListedObject, list_page};
pub(super) use read::read;
pub(super) use store::{put, put_file};

//! Objects in S3, or in a store with the same protocol.
//!
//! Nothing waits forever: connecting, a silent server, one attempt and the whole operation have their own limits. A
//! body that arrives too slowly is aborted and resumed at the same position of the same version of the object. Request
//! bodies are in memory, so that every request can be repeated.

mod client;
mod delete;
mod failure;
mod list;
mod read;
mod store;

pub use client::{Checksums, S3Client, S3Credentials, S3Settings};
pub use store::S3Store;

pub(super) use delete::delete;
pub(super) use failure::S3Error;
pub(super) use list::list_page;
pub(super) use read::read;

//! Objects in S3, or in whatever speaks its protocol.
//!
//! Nothing waits without an end: connecting, a silent server, one attempt and the whole operation have limits of
//! their own, and a body that trickles is given up and taken up again where it stopped, on the same version of the
//! object. What is sent lies in memory, so that every request can be sent again.

mod client;
mod failure;
mod list;
mod read;
mod store;

pub use client::{Checksums, S3Client, S3Credentials, S3Settings};
pub use store::S3Store;

pub(super) use failure::S3Error;
pub(super) use list::list_page;
pub(super) use read::read;

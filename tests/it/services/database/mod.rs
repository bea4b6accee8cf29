//! One suite for SQLite and Postgres, which guarantee the same.

mod batches;
mod claims;
mod endings;
mod message;
mod opening;
mod outbox;
pub mod support;
mod webhooks;

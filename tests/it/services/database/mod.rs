//! One suite over SQLite and Postgres: whatever one promises, the other does.

mod batches;
mod claims;
mod endings;
mod opening;
mod outbox;
pub mod support;
mod sweeps;
mod webhooks;

//! One suite over SQLite and Postgres: whatever one promises, the other does.

mod batches;
mod claims;
mod endings;
mod failover;
pub mod freezer;
mod hosts;
mod migrating;
mod opening;
mod outbox;
mod poolers;
pub mod servers;
pub mod support;
mod webhooks;

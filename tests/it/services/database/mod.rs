//! One suite for SQLite and Postgres, which guarantee the same.

mod actions;
mod batches;
mod claims;
mod clock;
mod datasets;
mod dispatch;
mod endings;
mod failover;
pub mod freezer;
mod hosts;
mod lineage;
mod looking;
mod message;
mod migrating;
mod opening;
mod outbox;
mod overtaken;
mod poolers;
pub mod servers;
pub mod support;
mod sweeps;
mod traces;
mod webhooks;

//! The parts that talk to servers, against real ones: RabbitMQ and PostgreSQL, which `scripts/services` starts, and an
//! S3 server over HTTP in this process, with a layer in front of it that breaks things. Where a server does not answer,
//! these tests fail and say so.

pub mod broker;
mod brokers;
pub mod database;
pub mod proxy;
mod queue;
mod queue_faults;
mod queue_rights;
pub mod rabbit;
mod replies;
pub mod s3_server;
mod script;
mod start;
mod store;
mod store_faults;
mod store_inputs;
mod store_run;
mod store_runtime;
mod submissions;
mod upgrades;
mod worker;
pub mod world;

//! The parts that talk to servers, against real ones: RabbitMQ and PostgreSQL, which `scripts/services` starts, and an
//! S3 server over HTTP in this process, with a layer in front of it that breaks things. Where a server does not answer,
//! these tests fail and say so.

pub mod broker;
pub mod database;
pub mod proxy;
mod queue;
mod queue_faults;
pub mod rabbit;
pub mod s3_server;
mod script;
mod size;
mod start;
mod store;
mod store_deletion;
mod store_faults;
mod store_inputs;
mod store_run;
mod store_runtime;
mod submissions;
mod worker;
pub mod world;

//! The parts that talk to servers, against real ones: RabbitMQ and PostgreSQL, which `scripts/services` starts, and an
//! S3 server over HTTP in this process, with a layer in front of it that breaks things. Where a server does not answer,
//! these tests fail and say so.

mod broker;
#[path = "../common/mod.rs"]
mod common;
#[path = "../faults/service/mod.rs"]
mod faults;
mod proxy;
mod queue;
mod queue_faults;
mod rabbit;
mod s3_server;
mod start;
mod status;
mod store;
mod store_faults;
mod store_inputs;
mod store_run;
mod submissions;
mod worker;
mod world;

//! Tests the parts that use servers with real ones: RabbitMQ and PostgreSQL, which `scripts/services` starts, and an S3
//! server over HTTP in this process, behind a proxy that breaks things. If a server does not respond, these tests fail
//! and say so.

pub mod amqp_proxy;
mod bad_datasets;
mod batch_export;
mod batches;
pub mod broker;
mod broker_limits;
mod brokers;
mod collector;
pub mod database;
mod dataset_columns;
mod dataset_mistakes;
mod dataset_parts;
mod datasets;
mod dead_letter_commands;
mod dead_letters;
mod deletions;
mod fairness;
mod full_queues;
mod job_names;
mod leases;
mod limits;
pub mod listeners;
mod private_ca;
pub mod proxy;
mod queue;
mod queue_faults;
mod queue_rights;
pub mod rabbit;
mod replies;
mod reuse;
mod s3_files;
pub mod s3_server;
mod script;
#[cfg(unix)]
mod secrets;
mod size;
mod start;
mod store;
mod store_credentials;
mod store_deletion;
mod store_faults;
mod store_inputs;
mod store_options;
mod store_run;
mod store_runtime;
mod submissions;
pub mod tls;
mod traces;
mod upgrades;
mod varied_export;
mod web_datasets;
mod worker;
pub mod world;

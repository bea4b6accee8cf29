//! Against real servers: an S3 server over HTTP in this process, with a layer in front of it that breaks things.

#[path = "../common/mod.rs"]
mod common;
mod proxy;
mod s3_server;
mod store;
mod store_faults;
mod store_inputs;
mod store_run;

//! `acetate serve`, as a process of its own, asked over real connections: embedded with the small checkpoints, and as
//! the front of a service over PostgreSQL and RabbitMQ, which `scripts/services` starts.

mod client;
#[path = "../common/mod.rs"]
mod common;
mod events;
mod guards;
mod jobs;
mod pictures;
mod qwen_image;
mod restart;
mod server;
mod service;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod threads;
mod webhooks;

// The service tests' own world: a virtual host, a schema and an S3 server of each test.
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "../services/rabbit.rs"]
mod rabbit;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "../services/s3_server.rs"]
mod s3_server;
mod status;
#[allow(dead_code, unused_imports, unused_macros, reason = "a part of it is used here")]
#[path = "../services/world.rs"]
mod world;

//! Tests `acetate serve` as a separate process over real connections: embedded with the small checkpoints, and as the
//! API server of a service with PostgreSQL and RabbitMQ, which `scripts/services` starts.

pub mod client;
mod downloads;
mod events;
mod guards;
mod inputs;
mod jobs;
mod openai;
mod pictures;
mod queue;
mod qwen_image_server;
mod restart;
mod retries;
mod roles;
pub mod server;
mod service;
mod starved;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod threads;
pub mod webhooks;

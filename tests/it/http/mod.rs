//! `acetate serve`, as a process of its own, asked over real connections: embedded with the small checkpoints, and as
//! the front of a service over PostgreSQL and RabbitMQ, which `scripts/services` starts.

pub mod client;
mod events;
mod guards;
mod jobs;
mod pictures;
mod qwen_image_server;
mod restart;
pub mod server;
mod service;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod threads;
mod webhooks;

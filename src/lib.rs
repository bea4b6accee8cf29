//! acetate takes pictures apart into transparent RGBA layers (Qwen-Image-Layered) and edits layers by instruction
//! (Qwen-Image-Edit-2509), as jobs.
//!
//! # The path of a job
//!
//! A request ([`job::JobRequest`]) is submitted as a row ([`status`]), and its id is put into a queue ([`queue`]). A
//! worker ([`worker`]) takes the id and claims the row; reads the pictures that the request names ([`store`]) and
//! decodes them under limits ([`image`]); hands them to the engine ([`engine`]), whose one thread owns the device and
//! the models and runs a pipeline ([`pipeline`]): prompt, noise, denoise loop, layers; encodes the layers as PNGs;
//! writes them into the store, and after them the manifest that names them; moves the row to `succeeded`; and
//! acknowledges the delivery. `worker/run.rs` is this path, in this order, on one screen; `worker/service.rs` is what
//! goes on around it.
//!
//! ```text
//! message -> claim -> fetch -> decode -> [text encoder -> denoise -> VAE] -> PNGs -> store -> manifest -> row -> ack
//! queue      status   store    image     engine: pipeline, models, nn        image   store   store       status queue
//! ```
//!
//! # What holds everywhere
//!
//! - The row owns the state; the queue only dispatches. What must be told of a change is written with it, into an
//!   outbox, and told afterwards. A claim raises the row's epoch, and every later write names
//!   its epoch: who lost the lease loses every race.
//! - Files lie under `{job}/{epoch}/`, written whole and read back. The manifest is written last, so whoever reads one
//!   finds every file that it names.
//! - An error's class decides what follows ([`job::ErrorClass`]): the caller's fault fails at once, a passing one is
//!   tried again, and after a number of attempts never again.
//! - Nothing waits on the device but the engine's thread, and nothing computes on the async runtime's threads.
//!
//! # Who may use whom
//!
//! `main -> cli -> app -> {http, worker} -> {queue, status, store, image, engine} -> job`, `http -> ui`, and
//! `engine -> {pipeline, hub}`, `pipeline -> {image, models}`, `models -> nn -> candle`. The stages do not know each other; only the
//! worker puts them in order. `pipeline`, `models` and `nn` know no runtime, no database and no environment; only
//! [`config`] reads files of settings and the environment. `tests/architecture.rs` checks all of this.

pub mod app;
pub mod cli;
pub mod config;
pub mod engine;
pub mod http;
pub mod hub;
pub mod image;
pub mod job;
pub mod models;
pub mod nn;
pub mod pipeline;
pub mod queue;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod ui;
pub mod worker;

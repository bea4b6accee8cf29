//! acetate splits pictures into transparent RGBA layers (Qwen-Image-Layered) and edits layers by instruction
//! (Qwen-Image-Edit-2509), as jobs.
//!
//! The models are a library of their own, [`qwen_image`]; here is everything about jobs. `ARCHITECTURE.md` walks through
//! the code with a message, a tensor, a setting and an error.
//!
//! # The path of a job
//!
//! A request ([`job::JobRequest`]) is submitted as a row ([`database`]), and its id is put into a queue ([`queue`]). A
//! worker ([`worker`]) takes the id and claims the row. It reads the pictures that the request names ([`store`]) and
//! decodes them under limits ([`image`]). It hands them to the engine ([`engine`]), whose one thread owns the device and
//! runs the library's pipeline. It encodes the layers as PNGs, writes them into the store, and after them the manifest
//! that names them. It moves the row to `succeeded` and acknowledges the delivery. `worker/run.rs` is this path, in this
//! order, on one screen; `worker/consumer_loop.rs` is what goes on around it.
//!
//! ```text
//! message -> claim    -> fetch -> decode -> [text encoder -> denoise -> VAE] -> PNGs  -> manifest -> row      -> ack
//! queue      database    store    image     engine: qwen_image                  image    store       database    queue
//! ```
//!
//! # What holds everywhere
//!
//! - The row owns the state; the queue only dispatches. What must be told of a change is written with it, into an
//!   outbox, and told afterwards. A claim raises the row's epoch, and every later write names its epoch: a worker that
//!   lost its lease loses every race.
//! - Files lie under `{job}/{epoch}/`, written whole and read back. The manifest is written last, so a reader that finds
//!   one finds every file that it names.
//! - An error's class decides what follows ([`job::ErrorClass`]): the caller's fault fails at once, a passing one is
//!   tried again, and after a number of attempts never again.
//! - Nothing waits on the device but the engine's thread, and nothing computes on the async runtime's threads.
//!
//! # Who may use whom
//!
//! `main -> cli -> app -> {http, worker} -> {queue, database, store, image, engine} -> job`, `http -> ui`,
//! `{store, http} -> egress`, `{app, worker, queue, store} -> retry`. The stages do not know each other; only the worker puts them in order. Only [`config`]
//! reads files of settings and the environment. `tests/it/architecture.rs` checks all of this. That the library knows no
//! runtime, no database and no environment, the compiler checks.

// All unsafe code is in crates/qwen-image. Text for people goes through `cli::output`.
#![forbid(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod app;
pub mod cli;
pub mod config;
pub mod database;
pub mod egress;
pub mod engine;
pub mod http;
pub mod image;
pub mod job;
pub mod queue;
pub mod retry;
pub mod store;
pub mod telemetry;
pub mod ui;
pub mod worker;

//! acetate splits pictures into transparent RGBA layers (Qwen-Image-Layered) and edits layers by instruction
//! (Qwen-Image-Edit-2509 and -2511), as jobs.
//!
//! The models are in a separate library, [`qwen_image`]; this crate has everything about jobs. `ARCHITECTURE.md`
//! follows a message, a tensor, a setting and an error through the code.
//!
//! # The path of a job
//!
//! A request ([`job::JobRequest`]) is submitted as a row ([`database`]), and its id is put into a queue ([`queue`]). A
//! worker ([`worker`]) takes the id and claims the row. It reads the pictures that the request names ([`store`]) and
//! decodes them under limits ([`image`]). It passes them to the engine ([`engine`]), which has one thread for each
//! device and runs the library's pipeline there. It encodes the layers as PNGs and writes them into the store, then the
//! manifest that names them. It changes the row to `succeeded` and acknowledges the delivery. `worker/run.rs` has this
//! path, in this order; `worker/consumer_loop.rs` runs it for every delivery.
//!
//! ```text
//! message -> claim    -> fetch -> decode -> [text encoder -> denoise -> VAE] -> PNGs  -> manifest -> row      -> ack
//! queue      database    store    image     engine: qwen_image                  image    store       database    queue
//! ```
//!
//! # Invariants
//!
//! - The row owns the state; the queue only dispatches. The messages about a change are written into an outbox together
//!   with the change, and sent afterwards. A claim increments the row's epoch, and every later write names its epoch,
//!   so a worker that lost its lease cannot change the row.
//! - Files are under `{job}/{epoch}/`. Each is written atomically and verified. The manifest is written last: if it
//!   exists, so does every file that it names.
//! - An error's class decides what happens next ([`job::ErrorClass`]): a job with an invalid request fails at once;
//!   after a temporary error it is retried, up to a number of attempts.
//! - Only the engine's threads wait for a device, and nothing computes on the async runtime's threads.
//!
//! # Dependencies
//!
//! `main -> cli -> app -> {http, worker} -> {queue, database, store, image, engine} -> job`, `http -> ui`,
//! `{app, store, http} -> egress`, `{app, worker, queue, store} -> retry`,
//! `{app, http, worker, queue, telemetry} -> trace`, `config -> job`. The stages do not know each other; only the
//! worker combines them. Only [`config`] reads configuration files and the environment. `tests/it/architecture.rs`
//! checks all of this. The library is a separate crate without a runtime, a database or settings.

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
pub mod trace;
pub mod ui;
pub mod worker;

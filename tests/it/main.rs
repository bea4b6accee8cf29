//! Everything but the unit tests, in one program: linking is most of what a test of this size costs.
//!
//! `scripts/services` starts the servers that `services`, `http` and `faults` talk to. Where one does not answer, their
//! tests fail and say so.

mod architecture;
mod cli;
mod common;
mod embedded;
mod engine;
mod export;
mod faults;
mod http;
mod image;
mod quality;
mod services;
mod small_models;

//! All tests except the unit tests, in one program, because linking takes most of the time of building them.
//!
//! `scripts/services` starts the servers that `services`, `http` and `faults` use. If a server does not respond, their
//! tests fail and say so.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]
#![allow(clippy::disallowed_methods, reason = "tests have a process of their own, and wait for other programs")]

mod architecture;
mod auto_layers;
mod cli;
mod common;
mod embedded;
mod engine;
mod export;
mod faults;
mod fidelity;
mod http;
mod image;
mod layer_names;
mod loras;
mod many;
mod masks;
mod merged_pictures;
mod nested;
mod quality;
mod refused_settings;
mod services;
mod sheets;
mod slides;
mod small_models;
mod trim;
mod variants;
mod weights;

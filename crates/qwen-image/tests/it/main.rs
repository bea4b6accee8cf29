//! Compares the library with its reference, and tests it on broken networks, in one program.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]
#![allow(clippy::disallowed_methods, reason = "tests have a process of their own, and wait for other programs")]

mod examples;
mod forms;
mod hub;
mod image_processor;
mod library_doc;
mod masks;
mod options;
mod parity;

//! The composition root: builds the parts from the configuration and connects them.

mod embedded_models;
mod error;
mod models;
mod open_files;
mod policies;
mod run_one;
mod server;
mod submitter;
mod traces;
mod wiring;
mod worker;

pub use crate::http::NestedResult;
pub use error::StartError;
pub use models::{devices, edit_model, engine_config, model, small_model_paths};
pub use open_files::raise as raise_open_files;
pub use policies::queue_policies;
pub use run_one::EmbeddedApp;
pub use server::{check_settings, serve_api};
pub use submitter::Submitter;
pub use traces::start_traces;
pub use wiring::{database_url, inspect_jobs, migrated_job_store, queue, stores};
pub use worker::work;

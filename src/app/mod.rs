//! The composition root: builds the parts from the configuration and puts them into each other's hands.

mod embedded;
mod front;
mod models;
mod parts;
mod serve;
mod service;

pub use embedded::Embedded;
pub use front::Front;
pub use models::{edit_model, engine_config, model};
pub use parts::{place, queue, status, stores};
pub use serve::serve_api;
pub use service::work;

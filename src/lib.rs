pub mod engine;
pub mod hub;
pub mod image;
pub mod job;
pub mod models;
pub mod nn;
pub mod pipeline;

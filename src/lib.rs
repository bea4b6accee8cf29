pub mod job;
pub mod models;
pub mod nn;
pub mod pipeline;

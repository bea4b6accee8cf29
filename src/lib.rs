pub mod hub;
pub mod job;

pub mod image;
pub mod job;

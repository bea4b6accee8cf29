mod noise;
mod schedule;

pub use noise::randn;
pub use schedule::{Schedule, Scheduler};

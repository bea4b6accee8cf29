//! The parts that talk to servers, against real ones. `scripts/services` starts them; where one does not answer, these
//! tests fail and say so.

mod queue;
mod queue_faults;
mod rabbit;

//! The parts that speak to servers, against real ones: `scripts/services` starts them.

mod status;

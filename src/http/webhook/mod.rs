//! Calls at the end of jobs, after the Standard Webhooks specification
//! (<https://github.com/standard-webhooks/standard-webhooks>).
//!
//! The job's row and the call are written in one transaction, so a call is never forgotten; it is tried until it
//! arrives, so it may come twice, under the same `webhook-id`.

mod send;
mod sign;

pub use send::send;
pub use sign::WebhookSecret;

//! Webhooks at the end of jobs, after the Standard Webhooks specification
//! (<https://github.com/standard-webhooks/standard-webhooks>).
//!
//! The job's row and the webhook are written in one transaction, so a webhook is never lost. It is retried until it
//! succeeds, so it may arrive twice, with the same `webhook-id`.

mod send;
mod sign;

pub use send::send;
pub use sign::WebhookSecret;

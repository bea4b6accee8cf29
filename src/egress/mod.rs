//! Requests to addresses from clients: pictures from the web, and webhooks. The rules for allowed addresses are here,
//! for both.

mod public_ip;
mod trust;
mod web_address;
mod web_client;
mod webhook_client;

pub use public_ip::is_public;
pub use trust::{PrivateCas, has_native_roots};
pub use web_address::{WebAddress, check_steps, refuse};
pub use web_client::{WebLimits, read};
pub use webhook_client::{WebhookAnswer, WebhookPolicy};

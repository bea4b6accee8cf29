//! Requests to addresses from clients: pictures from the web, and webhooks. The rules for allowed addresses are here,
//! for both. And requests to servers that the owner names: the collector of traces, and the broker's
//! management API.

mod management_client;
mod otlp_client;
mod public_ip;
mod retry_after;
mod status_line;
mod trust;
mod trusted_origins;
mod web_address;
mod web_client;
mod webhook_client;

pub use management_client::{ManagementAnswer, ManagementClient};
pub use otlp_client::OtlpClient;
pub use public_ip::is_public;
pub use retry_after::HostPauses;
pub use trust::{PrivateCas, has_native_roots};
pub use trusted_origins::TrustedOrigins;
pub use web_address::{WebAddress, check_steps, refuse};
pub use web_client::{WebLimits, read};
pub use webhook_client::{WebhookAnswer, WebhookPolicy};

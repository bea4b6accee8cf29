//! Around a request's handler: token, origin, rate, size and encodings.

mod auth;
mod encoding;
mod origin;
mod rate;
mod size;
mod trace;

pub(super) use auth::{__path_session_close, __path_session_open, __path_session_show};
pub use auth::{ApiToken, ApiTokens, NamedToken, authorize, session_close, session_open, session_show};
pub use encoding::{compression, identity, weak_tags};
pub use origin::{cors, headers, same_origin, trusted_host};
pub use rate::{Rates, limit};
pub use size::size;
pub use trace::trace;

//! Where `world` looks for it.

#[allow(dead_code, unused_imports, unused_macros, reason = "a part of it is used here")]
#[path = "../services/status/support.rs"]
pub mod support;

//! The number of files and connections that this process may have open.

use tracing::debug;

use crate::{config::Http, http::ConnectionLimits};

/// As many as the HTTP server, a worker's inputs and results and the connections to servers together will ever need.
const ENOUGH: u64 = 65_536;

/// Raises the limit of this process, which is often 1,024, as far as the system lets it: shells keep it low for
/// programs that use `select`, which this one does not.
pub fn raise() {
    match rlimit::increase_nofile_limit(ENOUGH) {
        Ok(limit) => debug!(limit, "open files"),
        Err(error) => debug!(%error, "the limit of open files stays as it is"),
    }
}

/// The bounds of the HTTP server. Half of the limit remains for files, databases, queues and stores.
pub(super) fn connection_limits(settings: &Http) -> ConnectionLimits {
    let open_files = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(ENOUGH, |(soft, _)| soft);
    let half = usize::try_from(open_files / 2).unwrap_or(usize::MAX);
    ConnectionLimits { most: settings.max_connections.min(half).max(1), read_timeout: settings.read_timeout() }
}

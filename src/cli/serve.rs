//! `acetate serve`.

use std::net::SocketAddr;

use clap::Args;

use super::{Failure, global::GlobalArgs, output, run::flags::text_flag, runtime::block_on, worker::listen};
use crate::{
    app::{self, StartError},
    worker::Shutdown,
};

/// Without `queue.url` this is all there is: jobs in SQLite, pictures in a folder, and a worker in the same process.
/// With `queue.url` it is the front of a service, whose workers are processes of their own (`acetate worker`).
///
/// Nobody needs a token on the loopback. On any other address one must be set: ACETATE__HTTP__TOKEN.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port to answer on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// Whether this process works on jobs, too [default: true without queue.url, else false]
    #[arg(long, value_name = "BOOL")]
    work: Option<bool>,
}

impl ServeArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let bind = text_flag("--bind", "http.bind", self.bind.as_ref());
        let loaded = global.load_service(bind.into_iter().collect())?;
        block_on(async {
            let shutdown = Shutdown::default();
            let signals = tokio::spawn(listen(shutdown.clone()));
            let served = app::serve_api(&loaded, self.work, &shutdown, say).await;
            signals.abort();
            match served {
                // Told to leave before it had begun.
                Err(StartError::Stopped) => Ok(()),
                served => Ok(served?),
            }
        })
    }
}

fn say(address: SocketAddr) {
    // Whoever started it without a terminal may have closed the pipe; that is no reason not to serve.
    let _ = output::line(&format!("acetate is at http://{address}/"));
}

//! `acetate serve`.

use std::net::SocketAddr;

use clap::Args;

use super::{
    Failure,
    global::GlobalArgs,
    output,
    run::flags::{DeviceFlags, text_flag},
    runtime::block_on,
    worker::listen,
};
use crate::{
    app::{self, StartError},
    worker::Shutdown,
};

/// Without `queue.url`, one process does everything: it keeps jobs in SQLite and pictures in a folder, and runs the
/// jobs. With `queue.url`, it is the API server of a service, and `acetate worker` processes run the jobs.
///
/// On localhost no token is needed. On any other address you must set one: ACETATE__HTTP__TOKEN.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  acetate serve\n  acetate serve --bind 127.0.0.1:0")]
pub struct ServeArgs {
    /// Address and port to listen on; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// Whether this process also runs jobs [default: true without queue.url, else false]
    #[arg(long, value_name = "BOOL")]
    work: Option<bool>,
    #[command(flatten)]
    device: DeviceFlags,
}

impl ServeArgs {
    pub fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let mut flags = self.device.settings();
        flags.extend(text_flag("--bind", "http.bind", self.bind.as_ref()));
        let loaded = global.load_service(flags)?;
        app::raise_open_files();
        block_on(async {
            let shutdown = Shutdown::default();
            let signals = tokio::spawn(listen(shutdown.clone()));
            let served = app::serve_api(&loaded, self.work, &shutdown, say).await;
            signals.abort();
            match served {
                // A signal arrived before the server had started.
                Err(StartError::Stopped) => Ok(()),
                served => Ok(served.map_err(|error| error.with_origin(&loaded))?),
            }
        })
    }
}

fn say(address: SocketAddr) {
    // The pipe may be closed if there is no terminal; the server runs anyway.
    let _ = output::line(&format!("acetate is at http://{address}/"));
}

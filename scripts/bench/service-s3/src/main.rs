//! An S3 server on a folder: `bench-s3 ADDRESS FOLDER`, with the credentials of AWS_ACCESS_KEY_ID and
//! AWS_SECRET_ACCESS_KEY.
//!
//! It is s3s-fs with two differences from that crate's own program, which production servers have, too. It sends
//! responses at once (TCP_NODELAY); otherwise each GET waits 40 ms for the receiver's delayed acknowledgment. And it
//! knows without reading the whole bucket that nothing has a prefix. A benchmark would measure little else.

mod prefix;

use std::{env, error::Error};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(address), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bench-s3 ADDRESS FOLDER".into());
    };
    let mut service = S3ServiceBuilder::new(prefix::Files::new(folder.into())?);
    service.set_auth(SimpleAuth::from_single(env::var("AWS_ACCESS_KEY_ID")?, env::var("AWS_SECRET_ACCESS_KEY")?));
    let service = service.build();
    let listener = TcpListener::bind(address).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let service = service.clone();
        tokio::spawn(async move {
            // Ignore clients that close the connection.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

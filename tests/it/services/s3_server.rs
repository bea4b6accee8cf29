//! An S3 server over HTTP that checks signatures, on a folder that is deleted with the test.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use acetate::store::{S3Credentials, S3Settings, Store, StoreSettings, Stores, Trust};
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    primitives::ByteStream,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

use super::s3_files::Files;

pub const ACCESS_KEY: &str = "AKIAACETATETESTS";
pub const SECRET_KEY: &str = "0secret0secret0secret0secret0";

/// The variable for another server to run the suite against. Its bucket is `ACETATE_TEST_S3_BUCKET`, otherwise
/// `acetate-test`, and the credentials are in AWS's usual variables.
const OTHER_ENDPOINT: &str = "ACETATE_TEST_S3_ENDPOINT";

pub struct S3Server {
    pub address: SocketAddr,
    pub folder: tempfile::TempDir,
    hang_up: Arc<Notify>,
    task: JoinHandle<()>,
}

impl S3Server {
    pub async fn start(buckets: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for bucket in buckets {
            std::fs::create_dir(folder.path().join(bucket)).unwrap();
        }
        let mut service = S3ServiceBuilder::new(Files(FileSystem::new(folder.path()).unwrap()));
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hang_up = Arc::new(Notify::new());
        let hung_up = hang_up.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, hung_up) = (service.clone(), hung_up.clone());
                tokio::spawn(async move {
                    let builder = Builder::new(TokioExecutor::new());
                    tokio::select! {
                        _ = builder.serve_connection(TokioIo::new(socket), service) => {}
                        () = hung_up.notified() => {}
                    }
                });
            }
        });
        Self { address, folder, hang_up, task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes all connections, as servers do with idle ones. The next request needs a new one.
    pub fn hang_up(&self) {
        self.hang_up.notify_waiters();
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Settings with short timeouts, so that a test of a silent server is quick.
pub fn impatient(endpoint: &str) -> S3Settings {
    S3Settings { read_timeout: Duration::from_millis(700), ..settings(endpoint) }
}

pub fn settings(endpoint: &str) -> S3Settings {
    S3Settings {
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        credentials: Some(S3Credentials {
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            session_token: None,
        }),
        connect_timeout: Duration::from_secs(1),
        read_timeout: Duration::from_secs(5),
        operation_timeout: Duration::from_secs(9),
        ..S3Settings::default()
    }
}

/// A store with the given settings.
pub fn store_with(settings: S3Settings, url: &str) -> Store {
    stores_with(settings, url, &[], Trust::Local).own().clone()
}

pub fn stores_with(s3: S3Settings, url: &str, inputs: &[&str], trust: Trust) -> Stores {
    let settings = StoreSettings {
        url: url.to_owned(),
        s3,
        inputs: inputs.iter().map(|prefix| (*prefix).to_owned()).collect(),
        outputs: Vec::new(),
        http_inputs: false,
        http_allow: Vec::new(),
    };
    Stores::new(&settings, trust).unwrap()
}

/// A place for objects on a server, and a client to read it without acetate.
pub struct Remote {
    pub name: &'static str,
    pub stores: Stores,
    pub bucket: String,
    /// Ends with `/`.
    pub prefix: String,
    client: Client,
    _server: Option<S3Server>,
}

impl Remote {
    pub async fn here() -> Self {
        let server = S3Server::start(&["bucket"]).await;
        let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test");
        let mut remote = Self::on(settings(&server.endpoint()), "bucket", credentials);
        remote._server = Some(server);
        remote
    }

    /// The server in the environment, if there is one.
    pub fn elsewhere() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(endpoint) = variable(OTHER_ENDPOINT) else {
            eprintln!("{OTHER_ENDPOINT} is not set: only the server in this process is asked");
            return None;
        };
        let bucket = variable("ACETATE_TEST_S3_BUCKET").unwrap_or_else(|| "acetate-test".to_owned());
        let (key, secret) = (variable("AWS_ACCESS_KEY_ID").unwrap(), variable("AWS_SECRET_ACCESS_KEY").unwrap());
        let settings = S3Settings { endpoint: Some(endpoint), ..S3Settings::default() };
        let mut remote = Self::on(settings, &bucket, Credentials::new(key, secret, None, None, "test"));
        remote.name = "the server of ACETATE_TEST_S3_ENDPOINT";
        Some(remote)
    }

    fn on(settings: S3Settings, bucket: &str, credentials: Credentials) -> Self {
        let prefix = format!("test/{}/", uuid::Uuid::now_v7());
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned())))
            .endpoint_url(settings.endpoint.clone().unwrap())
            .force_path_style(true)
            .credentials_provider(credentials)
            .http_client(
                aws_smithy_http_client::Builder::new()
                    .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
                        aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
                    ))
                    .build_https(),
            )
            .build();
        let stores = stores_with(settings, &format!("s3://{bucket}/{prefix}"), &[], Trust::Submitted);
        let client = Client::from_conf(config);
        Self { name: "s3s-fs", stores, bucket: bucket.to_owned(), prefix, client, _server: None }
    }

    /// Writes an object here without acetate.
    pub async fn put(&self, key: &str, bytes: &[u8]) -> String {
        let key = format!("{}{key}", self.prefix);
        let body = ByteStream::from(bytes.to_vec());
        self.client.put_object().bucket(&self.bucket).key(&key).body(body).send().await.unwrap();
        format!("s3://{}/{key}", self.bucket)
    }

    /// Deletes all objects here.
    pub async fn clear(&self) {
        for key in self.keys().await {
            let key = format!("{}{key}", self.prefix);
            self.client.delete_object().bucket(&self.bucket).key(key).send().await.unwrap();
        }
    }

    /// The keys below this place, without its prefix.
    pub async fn keys(&self) -> Vec<String> {
        let listed = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix).send().await.unwrap();
        listed.contents().iter().map(|object| object.key().unwrap()[self.prefix.len()..].to_owned()).collect()
    }
}

//! Certificates of an authority of one's own, and servers that show them: TLS in front of the real ones.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A private certificate authority with a certificate for `localhost` and 127.0.0.1.
pub struct PrivateCa {
    pub folder: tempfile::TempDir,
    config: Arc<ServerConfig>,
}

impl PrivateCa {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// With another certificate for the server.
    pub fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Acetate test authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &authority).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Self { folder, config: Arc::new(config) }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A port that speaks TLS in front of another that does not; gives the port.
    pub fn before(&self, upstream: SocketAddr) -> u16 {
        self.front(upstream, false)
    }

    /// As PostgreSQL does it: the client asks for TLS in clear text first.
    pub fn before_postgres(&self, upstream: SocketAddr) -> u16 {
        self.front(upstream, true)
    }

    fn front(&self, upstream: SocketAddr, asks_first: bool) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = self.config.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let config = config.clone();
                thread::spawn(move || {
                    let mut client = client;
                    if asks_first {
                        client.read_exact(&mut [0; 8]).ok()?;
                        client.write_all(b"S").ok()?;
                    }
                    forward(client, upstream, config)
                });
            }
        });
        port
    }
}

/// Until one side closes.
fn forward(mut client: TcpStream, upstream: SocketAddr, config: Arc<ServerConfig>) -> Option<()> {
    let mut tls = ServerConnection::new(config).ok()?;
    let tick = Some(Duration::from_millis(2));
    client.set_read_timeout(tick).ok()?;
    client.set_nodelay(true).ok()?;
    // Servers do not see clients that do not trust the certificate.
    while tls.is_handshaking() {
        match tls.complete_io(&mut client) {
            Ok(_) => {}
            Err(error) if is_pause(&error) => {}
            Err(_) => return None,
        }
    }
    let mut server = TcpStream::connect(upstream).ok()?;
    server.set_read_timeout(tick).ok()?;
    let mut piece = vec![0; 64 << 10];
    loop {
        match tls.read_tls(&mut client) {
            Ok(0) => return None,
            Ok(_) => {
                if tls.process_new_packets().is_err() {
                    // The alert says why.
                    tls.write_tls(&mut client).ok();
                    return None;
                }
            }
            Err(error) if is_pause(&error) => {}
            Err(_) => return None,
        }
        // Some may have come together with the end of the handshake.
        loop {
            match tls.reader().read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => server.write_all(&piece[..read]).ok()?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return None,
            }
        }
        match server.read(&mut piece) {
            Ok(0) => {
                tls.send_close_notify();
                tls.write_tls(&mut client).ok();
                return None;
            }
            Ok(read) => tls.writer().write_all(&piece[..read]).ok()?,
            Err(error) if is_pause(&error) => {}
            Err(_) => return None,
        }
        while tls.wants_write() {
            tls.write_tls(&mut client).ok()?;
        }
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

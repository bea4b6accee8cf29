//! The certificate authorities that the hub is checked against: the system's, and those of [`HubConfig::ca_file`].

use std::io;
use std::path::Path;
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::{HubConfig, HubError};

/// Where the system has no list of authorities and none are given, Mozilla's list, which is part of the program, is
/// used.
pub(super) fn tls(config: &HubConfig) -> Result<TlsConfig, HubError> {
    let mut trusted: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate.as_ref()).to_owned())
        .collect();
    if let Some(path) = &config.ca_file {
        trusted.extend(read(path).map_err(|source| HubError::Io { path: path.clone(), source })?);
    }
    let roots = if trusted.is_empty() { RootCerts::WebPki } else { RootCerts::Specific(Arc::new(trusted)) };
    Ok(TlsConfig::builder().root_certs(roots).build())
}

fn read(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let pem = std::fs::read(path)?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
    if certificates.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "has no certificate in PEM form"));
    }
    Ok(certificates)
}

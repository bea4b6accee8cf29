//! The certificate authorities that servers are checked against: the system's, and private ones.
//!
//! The library reads `tls.ca_file` for the hub once more (`hub/trust.rs`), because it depends on nothing of this crate;
//! what is wrong with the file is found here, and is told with the setting's name.

use std::{
    fmt,
    path::Path,
    sync::{Arc, LazyLock},
};

use rustls::{RootCertStore, pki_types::CertificateDer};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::job::JobError;

/// Certificates of private authorities, from `tls.ca_file`. Clones share them.
#[derive(Clone)]
pub struct PrivateCas {
    pem: Arc<str>,
    certificates: Arc<[Vec<u8>]>,
}

impl PrivateCas {
    /// Reads a PEM file's text; `field` is the setting and `path` its value.
    pub fn parse(field: &str, path: &Path, pem: &[u8]) -> Result<Self, JobError> {
        let refuse = |reason: String| Err(JobError::invalid(field, format!("{}: {reason}", path.display())));
        let Ok(text) = std::str::from_utf8(pem) else {
            return refuse("is not PEM text; convert it with `openssl x509 -inform der -in FILE`".to_owned());
        };
        let mut certificates = Vec::new();
        let mut trusted = RootCertStore::empty();
        for item in parse_pem(pem) {
            let der = match item {
                Ok(PemItem::Certificate(certificate)) => certificate.der().to_vec(),
                Ok(_) => return refuse("has a key; a file of authorities has certificates only".to_owned()),
                Err(error) => return refuse(format!("cannot be read: {error}")),
            };
            if let Err(error) = trusted.add(CertificateDer::from(der.clone())) {
                return refuse(format!("certificate {} is not valid: {error}", certificates.len() + 1));
            }
            certificates.push(der);
        }
        if certificates.is_empty() {
            return refuse("has no certificate; a PEM file with -----BEGIN CERTIFICATE----- is needed".to_owned());
        }
        Ok(Self { pem: text.into(), certificates: certificates.into() })
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }
}

impl fmt::Debug for PrivateCas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateCas({} certificates)", self.certificates.len())
    }
}

/// Whether this system has a list of authorities; a container without one trusts only `tls.ca_file`.
pub fn has_native_roots() -> bool {
    !NATIVE.is_empty()
}

/// The TLS options of ureq. Where the system has no list of authorities and none are given, Mozilla's list, which is
/// part of the program, is used.
pub(super) fn tls(private: Option<&PrivateCas>) -> TlsConfig {
    let own = private.into_iter().flat_map(|cas| cas.certificates.iter().map(Vec::as_slice));
    let native = NATIVE.iter().map(|certificate| certificate.as_ref());
    let trusted: Vec<Certificate<'static>> =
        native.chain(own).map(|der| Certificate::from_der(der).to_owned()).collect();
    let roots = if trusted.is_empty() { RootCerts::WebPki } else { RootCerts::Specific(Arc::new(trusted)) };
    TlsConfig::builder().root_certs(roots).build()
}

/// The system's authorities, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
static NATIVE: LazyLock<Vec<CertificateDer<'static>>> = LazyLock::new(|| {
    let mut usable = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs().certs;
    // Systems have some that rustls refuses.
    found.into_iter().filter(|certificate| usable.add(certificate.clone()).is_ok()).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_none_is_named() {
        let read =
            |pem: &[u8]| PrivateCas::parse("tls.ca_file", Path::new("/etc/ca.pem"), pem).unwrap_err().to_string();
        for (pem, wanted) in [
            (&b""[..], "has no certificate"),
            (b"\x30\x82\xff", "is not PEM text"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 is not valid"),
        ] {
            let error = read(pem);
            assert!(error.starts_with("tls.ca_file: /etc/ca.pem: ") && error.contains(wanted), "{error}");
        }
    }
}

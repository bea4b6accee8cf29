//! The certificates of a connection over TLS.

use std::{fs, io, path::PathBuf};

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};

use crate::job::JobError;

/// Files in PEM format. They are read for every connection, so that renewed certificates are used without a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of private authorities, trusted in addition to the system's: `tls.ca_file`.
    pub ca: Option<PathBuf>,
    /// This client's certificate, followed by those that issued it: `queue.client_cert`.
    pub client_cert: Option<PathBuf>,
    /// Its private key, not encrypted: `queue.client_key`.
    pub client_key: Option<PathBuf>,
}

impl TlsFiles {
    pub(super) fn has_identity(&self) -> bool {
        self.client_cert.is_some()
    }

    /// # Errors
    /// [`JobError::InvalidRequest`] names the setting whose file is missing or is not what it should be.
    pub(super) fn read(&self) -> Result<OwnedTLSConfig, JobError> {
        let cert_chain = match &self.ca {
            Some(path) => Some(text("tls.ca_file", path, is_certificate)?),
            None => None,
        };
        let identity = match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => Some(OwnedIdentity::PKCS8 {
                pem: text("queue.client_cert", cert, is_certificate)?.into_bytes(),
                key: text("queue.client_key", key, is_key)?.into_bytes(),
            }),
            (None, None) => None,
            (Some(_), None) => {
                return Err(JobError::invalid("queue.client_key", "is empty; give the certificate's key"));
            }
            (None, Some(_)) => {
                return Err(JobError::invalid("queue.client_cert", "is empty; give the key's certificate"));
            }
        };
        Ok(OwnedTLSConfig { identity, cert_chain })
    }
}

fn text(setting: &str, path: &PathBuf, check: fn(&str) -> Result<(), &'static str>) -> Result<String, JobError> {
    let wrong = |reason: String| JobError::invalid(setting, format!("{}: {reason}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => wrong("is not in PEM format; convert it with openssl".to_owned()),
        _ => wrong(format!("cannot be read: {error}")),
    })?;
    check(&text).map_err(|reason| wrong(reason.to_owned()))?;
    Ok(text)
}

fn is_certificate(text: &str) -> Result<(), &'static str> {
    if text.contains("-----BEGIN CERTIFICATE-----") {
        Ok(())
    } else {
        Err("has no certificate in PEM format (-----BEGIN CERTIFICATE-----)")
    }
}

fn is_key(text: &str) -> Result<(), &'static str> {
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err("is encrypted; decrypt it with `openssl pkey -in KEY -out PLAIN`, and protect the file instead");
    }
    if text.contains("PRIVATE KEY-----") {
        Ok(())
    } else {
        Err("has no private key in PEM format (-----BEGIN PRIVATE KEY-----)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_what_it_should_be_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            Some(path)
        };
        let cert = file("cert", b"-----BEGIN CERTIFICATE-----\n");
        let key = file("key", b"-----BEGIN PRIVATE KEY-----\n");
        let good = TlsFiles { ca: cert.clone(), client_cert: cert.clone(), client_key: key.clone() };
        assert!(good.read().is_ok() && TlsFiles::default().read().is_ok());
        let cases = [
            (TlsFiles { client_key: None, ..good.clone() }, "queue.client_key: is empty"),
            (TlsFiles { client_cert: None, ..good.clone() }, "queue.client_cert: is empty"),
            (TlsFiles { ca: Some(folder.path().join("none")), ..good.clone() }, "cannot be read"),
            (TlsFiles { client_cert: key.clone(), ..good.clone() }, "has no certificate"),
            (TlsFiles { client_key: cert, ..good.clone() }, "has no private key"),
            (TlsFiles { client_cert: file("der", &[0x30, 0x82, 0xff]), ..good.clone() }, "is not in PEM format"),
            (TlsFiles { client_key: file("locked", b"-----BEGIN ENCRYPTED PRIVATE KEY-----"), ..good }, "is encrypted"),
        ];
        for (files, reason) in cases {
            let error = files.read().unwrap_err().to_string();
            assert!(error.contains(reason), "{reason} is not in {error}");
        }
    }
}

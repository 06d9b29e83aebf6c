//! TLS to a server: whom to trust, and what went wrong.

mod once;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use p2p_core::text::ForeignText;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tracing::debug;

use once::Once;

use crate::descriptors::is_exhausted;

/// Why there is no TLS, by whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum TlsError {
    /// Something on this machine is set wrongly.
    #[error("TLS is misconfigured on this machine: {0}")]
    Configuration(String),
    /// This machine, or this process, has nothing left to read certificates with.
    #[error("certificates cannot be read now ({0})")]
    Exhausted(String),
    /// The server's certificate is not good enough.
    #[error("the server's certificate is refused ({0}): check the name, the date and the CA file")]
    Certificate(ForeignText),
    /// TLS failed for another reason.
    #[error("TLS with the server failed ({0}): is this a TLS port?")]
    Failed(ForeignText),
}

impl From<&rustls::Error> for TlsError {
    fn from(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(why) => Self::Certificate(match why.to_string() {
                // The commonest self-signed certificate there is: openssl makes it a CA unless told otherwise.
                why if why.contains("CaUsedAsEndEntity") => {
                    "it is a CA's own certificate: make one for the server, with basicConstraints=CA:FALSE"
                        .into()
                }
                why => why.into(),
            }),
            other => Self::Failed(other.to_string().into()),
        }
    }
}

impl From<&io::Error> for TlsError {
    fn from(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => Self::from(inner),
            None => Self::Failed(error.to_string().into()),
        }
    }
}

/// The files of certificates to trust, by server. Default: none, and so those of the platform for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CaFiles(BTreeMap<String, Vec<PathBuf>>);

impl CaFiles {
    /// For this host, a name or an IP address, the certificates in this PEM file instead of the platform's; and those
    /// of other files that were named for it.
    pub(crate) fn add(&mut self, host: &str, ca_file: PathBuf) {
        self.0.entry(spelt(host)).or_default().push(ca_file);
    }

    /// The files for this host; none means the platform's certificates.
    pub(crate) fn ca_files(&self, host: &str) -> &[PathBuf] {
        self.0.get(&spelt(host)).map_or(&[], Vec::as_slice)
    }
}

/// What must stand in the certificate of `host`.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = bare(host);
    ServerName::try_from(bare.to_owned())
        .map_err(|_| TlsError::Configuration(format!("{bare} cannot stand in a certificate")))
}

/// One spelling for each host.
fn spelt(host: &str) -> String {
    let bare = bare(host);
    bare.parse::<IpAddr>().map_or_else(|_| bare.to_ascii_lowercase(), |ip| ip.to_string())
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A configuration that trusts the certificates in these PEM files, or those of the platform when there are none.
///
/// It is made for each dial, so that a new CA file needs no restart, and good for one handshake. So there is nothing to
/// resume either, and a store for sessions would only cost memory: 17 KB.
pub(crate) async fn client_config(ca_files: &[PathBuf]) -> Result<Arc<ClientConfig>, TlsError> {
    let ca_files = ca_files.to_owned();
    // Reading files would stop every other actor on this thread.
    let roots = tokio::task::spawn_blocking(move || match ca_files.is_empty() {
        true => platform_roots(),
        false => roots_from(&ca_files),
    });
    let roots = roots.await.map_err(|error| TlsError::Configuration(error.to_string()))??;
    let provider = Arc::new(ring::default_provider());
    let verifier = Once::new(roots, &provider).map_err(TlsError::Configuration)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Configuration(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots_from(paths: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for path in paths {
        let wrong = |why: String| TlsError::Configuration(format!("CA file {}: {why}", path.display()));
        let unreadable = |error: pem::Error| match error {
            pem::Error::Io(error) if is_exhausted(&error) => TlsError::Exhausted(error.to_string()),
            error => wrong(error.to_string()),
        };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            roots.add(certificate.map_err(unreadable)?).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(wrong("no certificate in it".to_owned()));
        }
    }
    Ok(roots)
}

fn platform_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    debug!(added, ignored, errors = ?found.errors, "platform certificates");
    let exhausted = found.errors.iter().find_map(|error| match &error.kind {
        rustls_native_certs::ErrorKind::Io { inner, .. } => Some(inner).filter(|error| is_exhausted(error)),
        _ => None,
    });
    if let Some(error) = exhausted.filter(|_| roots.is_empty()) {
        return Err(TlsError::Exhausted(error.to_string()));
    }
    if roots.is_empty() {
        return Err(TlsError::Configuration(
            "no trusted certificates on this machine: install them or name a CA file".into(),
        ));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn what_a_certificate_or_a_server_says_is_told_harmless() {
        let hostile = "\x1b[2J\nERROR forged";
        let certificate = CertificateError::NotValidForNameContext {
            expected: server_name("turn.example").unwrap(),
            presented: vec![hostile.to_owned()],
        };
        let errors =
            [rustls::Error::InvalidCertificate(certificate), rustls::Error::General(hostile.to_owned())];
        for error in errors {
            for text in
                [TlsError::from(&error).to_string(), TlsError::from(&io::Error::other(error)).to_string()]
            {
                assert!(!text.chars().any(char::is_control), "{text:?}");
                assert!(text.contains("forged"), "{text:?}");
            }
        }
    }
}

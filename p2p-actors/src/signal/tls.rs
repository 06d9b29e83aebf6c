//! TLS to a broker: whom to trust, and what went wrong.

use std::io;
use std::path::Path;
use std::sync::Arc;

use p2p_core::signal::link::LinkError;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use super::Tls;

/// The TLS handshake with `host`.
pub(super) async fn secure(
    stream: TcpStream,
    host: &str,
    tls: &Tls,
) -> Result<TlsStream<TcpStream>, LinkError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned())
        .map_err(|_| LinkError::Configuration(format!("{bare} cannot stand in a certificate")))?;
    let ca_file = tls.ca_file.clone();
    // Reading files would stop every other actor on this thread. They are read for each dial, so that a new CA
    // file needs no restart.
    let roots = tokio::task::spawn_blocking(move || match ca_file {
        Some(path) => roots_from(&path),
        None => platform_roots(),
    });
    let roots = roots.await.map_err(|error| LinkError::Configuration(error.to_string()))??;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| LinkError::Configuration(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(explain)
}

fn explain(error: io::Error) -> LinkError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => LinkError::Certificate(match why.to_string() {
            // The commonest self-signed certificate there is: openssl makes it a CA unless told otherwise.
            why if why.contains("CaUsedAsEndEntity") => {
                "it is a CA's own certificate: make one for the server, with basicConstraints=CA:FALSE"
                    .to_owned()
            }
            why => why,
        }),
        _ => LinkError::Tls(error.to_string()),
    }
}

fn roots_from(path: &Path) -> Result<RootCertStore, LinkError> {
    let wrong = |why: String| LinkError::Configuration(format!("CA file {}: {why}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("no certificate in it".into()));
    }
    Ok(roots)
}

fn platform_roots() -> Result<RootCertStore, LinkError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    debug!(added, ignored, errors = ?found.errors, "platform certificates");
    if roots.is_empty() {
        return Err(LinkError::Configuration(
            "no trusted certificates on this machine: install them or name a CA file".into(),
        ));
    }
    Ok(roots)
}

//! TLS of the servers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Where a server listens with TLS, and who it says it is.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The addresses to listen on with TLS.
    pub listen: Vec<SocketAddr>,
    /// A PEM file: the certificate of the server, then those above it.
    pub certificate: PathBuf,
    /// A PEM file: its private key.
    pub key: PathBuf,
}

impl ServerTls {
    /// What shakes hands with clients, or what is wrong with the files.
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let in_file = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| in_file(&self.certificate, &error))?;
        if chain.is_empty() {
            return Err(in_file(&self.certificate, &"no certificate is in it"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| in_file(&self.key, &error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| in_file(&self.certificate, &error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

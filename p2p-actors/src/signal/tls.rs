//! TLS to a broker.

use p2p_core::signal::link::LinkError;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Tls;
use crate::tls::{TlsError, client_config, server_name};

/// The TLS handshake with `host`.
pub(super) async fn secure(
    stream: TcpStream,
    host: &str,
    tls: &Tls,
) -> Result<TlsStream<TcpStream>, LinkError> {
    let name = server_name(host)?;
    let config = client_config(tls.ca_file.as_slice()).await?;
    let secured = TlsConnector::from(config).connect(name, stream).await;
    secured.map_err(|error| TlsError::from(&error).into())
}

impl From<TlsError> for LinkError {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Configuration(why) => Self::Configuration(why),
            TlsError::Exhausted(why) => Self::Exhausted(why),
            TlsError::Certificate(why) => Self::Certificate(why),
            TlsError::Failed(why) => Self::Tls(why),
        }
    }
}

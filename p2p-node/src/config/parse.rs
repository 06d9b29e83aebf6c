//! The parser of a broker's URL, where one on the network is wanted.

use p2p_core::peer::{BrokerUrl, BrokerUrlError, Scheme};

/// Parses the URL of a broker on the network.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_broker(text: &str) -> Result<BrokerUrl, String> {
    let url: BrokerUrl = text.parse().map_err(|error: BrokerUrlError| error.to_string())?;
    if url.scheme() == Scheme::Memory {
        return Err("memory:// is for nodes that share a process: write mqtt:// or mqtts://".to_owned());
    }
    Ok(url)
}

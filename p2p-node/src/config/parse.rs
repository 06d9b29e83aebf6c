//! Parsers of servers, families and ways, as the configuration file and the command name them.

use std::net::Ipv6Addr;

use p2p_core::attempt::Way;
use p2p_core::clock::ntp;
use p2p_core::node::{NtpServer, StunServer};
use p2p_core::peer::{BrokerUrl, BrokerUrlError, Scheme};
use p2p_core::relay::circuit::Connections as RelayConnections;
use p2p_core::{Family, stun};

use super::{TurnUri, TurnUriError};

/// Parses `host:port`, with an IPv6 address in brackets, or the URI of a STUN server (RFC 7064): `stun:host`,
/// `stun:host:port`.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_stun(text: &str) -> Result<StunServer, String> {
    let usual = stun::DEFAULT_PORT;
    let server = match text.split_once(':') {
        // A host may be called `stun`; then only its port follows.
        Some((scheme, uri)) if scheme.eq_ignore_ascii_case("stun") && uri.parse::<u16>().is_err() => {
            match uri.rsplit_once(':') {
                Some((_, port)) if !port.ends_with(']') => parse_server(uri, usual),
                _ => parse_server(&format!("{uri}:{usual}"), usual),
            }
        }
        _ => parse_server(text, usual),
    };
    server.map(|(host, port)| StunServer { host, port })
}

/// Parses `host:port`, with an IPv6 address in brackets.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_ntp(text: &str) -> Result<NtpServer, String> {
    parse_server(text, ntp::DEFAULT_PORT).map(|(host, port)| NtpServer { host, port })
}

/// Parses the URI of a TURN server (RFC 7065).
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_turn(text: &str) -> Result<TurnUri, String> {
    text.parse().map_err(|error: TurnUriError| error.to_string())
}

fn parse_server(text: &str, usual: u16) -> Result<(String, u16), String> {
    let wanted =
        || format!("a server is `host:port`, such as `192.0.2.1:{usual}` or `[2001:db8::1]:{usual}`");
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(wanted)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inside) => inside.parse::<Ipv6Addr>().map_err(|_| wanted())?.to_string(),
        None if host.is_empty() || host.contains([':', '/', ' ', '[', ']']) => return Err(wanted()),
        None => host.to_owned(),
    };
    Ok((host, port))
}

/// Parses `v4` or `v6`.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_family(text: &str) -> Result<Family, String> {
    match text {
        "v4" => Ok(Family::V4),
        "v6" => Ok(Family::V6),
        _ => Err("a family is `v4` or `v6`".to_owned()),
    }
}

/// Parses the name of a way.
///
/// # Errors
/// A sentence that names all ways.
pub fn parse_way(text: &str) -> Result<Way, String> {
    Way::ALL.into_iter().find(|way| way.to_string() == text).ok_or_else(|| {
        let names: Vec<_> = Way::ALL.iter().map(|way| format!("`{way}`")).collect();
        format!("the ways are {}", names.join(", "))
    })
}

/// Parses `never`, `careful` or `always`.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_relay_connections(text: &str) -> Result<RelayConnections, String> {
    match text {
        "never" => Ok(RelayConnections::Never),
        "careful" => Ok(RelayConnections::Careful),
        "always" => Ok(RelayConnections::Always),
        _ => Err("connections are relayed `never`, `careful` or `always`".to_owned()),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stun_server_is_a_host_and_a_port_or_a_uri() {
        for (text, host, port) in [
            ("stun.example:3479", "stun.example", 3479),
            ("stun:stun.example:3479", "stun.example", 3479),
            ("STUN:stun.example", "stun.example", 3478),
            ("stun:127.0.0.1:3491", "127.0.0.1", 3491),
            ("stun:[2001:db8::1]:3479", "2001:db8::1", 3479),
            ("stun:[2001:db8::1]", "2001:db8::1", 3478),
            ("stun:3479", "stun", 3479),
        ] {
            assert_eq!(parse_stun(text), Ok(StunServer { host: host.into(), port }), "{text}");
        }
        for text in [
            "",
            "stun:",
            "stun.example",
            "stun://a:1",
            "stun:a:0",
            "stun:a:",
            "stuns:a:1",
            "stun:2001:db8::1:1",
        ] {
            assert!(parse_stun(text).unwrap_err().contains("host:port"), "{text}");
        }
    }
}

//! Servers, as a configuration names them.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::clock::ntp;
use crate::stun;
use crate::turn::Carrier;

/// A STUN server by its name.
///
/// It is written as `host:port`, with an IPv6 address in brackets, and read from that or from its URI (RFC 7064):
/// `stun:host`, `stun:host:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct StunServer {
    /// A name or an IP address.
    pub host: String,
    /// The UDP and TCP port; 3478 is usual.
    pub port: u16,
}

impl StunServer {
    /// Returns the server with this name, or IP address without brackets, at this port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl From<SocketAddr> for StunServer {
    fn from(at: SocketAddr) -> Self {
        Self::new(at.ip().to_string(), at.port())
    }
}

impl fmt::Display for StunServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host(f, &self.host)?;
        write!(f, ":{}", self.port)
    }
}

impl FromStr for StunServer {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        let error = ServerError { usual: stun::DEFAULT_PORT };
        let server = match text.split_once(':') {
            // A host may be called `stun`; then only its port follows.
            Some((scheme, uri)) if scheme.eq_ignore_ascii_case("stun") && uri.parse::<u16>().is_err() => {
                match uri.rsplit_once(':') {
                    Some((_, port)) if !port.ends_with(']') => parse(uri),
                    _ => parse(&format!("{uri}:{}", stun::DEFAULT_PORT)),
                }
            }
            _ => parse(text),
        };
        let (host, port) = server.ok_or(error)?;
        Ok(Self { host, port })
    }
}

/// An NTP server by its name. It is written and read as `host:port`, with an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct NtpServer {
    /// A name or an IP address.
    pub host: String,
    /// The UDP port; 123 is usual.
    pub port: u16,
}

impl NtpServer {
    /// Returns the server with this name, or IP address without brackets, at this port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl From<SocketAddr> for NtpServer {
    fn from(at: SocketAddr) -> Self {
        Self::new(at.ip().to_string(), at.port())
    }
}

impl fmt::Display for NtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host(f, &self.host)?;
        write!(f, ":{}", self.port)
    }
}

impl FromStr for NtpServer {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        let (host, port) = parse(text).ok_or(ServerError { usual: ntp::DEFAULT_PORT })?;
        Ok(Self { host, port })
    }
}

/// A TURN server (RFC 8656) over one transport, and our login there.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TurnServer {
    /// A name or an IP address. Over TLS it must stand in the server's certificate.
    pub host: String,
    /// The port: 3478 is usual over UDP and TCP, 5349 over TLS.
    pub port: u16,
    /// The transport that carries our messages to it. UDP relays best; TCP and TLS get through where UDP does not. A
    /// server that is configured for several is asked over UDP first, then over TCP, then over TLS.
    pub carrier: Carrier,
    /// The user name, 1 to 508 bytes (RFC 8489, section 14.3). That of a time-limited credential begins with the
    /// second since 1970 at which it ends (draft-uberti-behave-turn-rest-00).
    pub user: String,
    /// The password, 1,024 bytes at most. Never sent: it signs (RFC 8489, section 9.2).
    pub password: String,
    /// A PEM file with the certificates to trust for this host, instead of the system's. Only TLS needs it.
    pub ca_file: Option<PathBuf>,
}

crate::setters!(TurnServer {
    with_carrier(carrier: Carrier);
    with_ca_file(ca_file: some PathBuf);
});

impl TurnServer {
    /// Returns the server with this name, or IP address without brackets, at this port over UDP, without a login.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        let (user, password) = (String::new(), String::new());
        Self { host: host.into(), port, carrier: Carrier::Udp, user, password, ca_file: None }
    }

    /// Sets [`user`](field@Self::user) and [`password`](field@Self::password).
    #[must_use]
    pub fn with_login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        (self.user, self.password) = (user.into(), password.into());
        self
    }
}

impl From<SocketAddr> for TurnServer {
    fn from(at: SocketAddr) -> Self {
        Self::new(at.ip().to_string(), at.port())
    }
}

/// Writes its URI (RFC 7065), which has neither user nor password.
impl fmt::Display for TurnServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, transport) = match self.carrier {
            Carrier::Udp => ("turn", "udp"),
            Carrier::Tcp => ("turn", "tcp"),
            Carrier::Tls => ("turns", "tcp"),
        };
        write!(f, "{scheme}:")?;
        write_host(f, &self.host)?;
        write!(f, ":{}?transport={transport}", self.port)
    }
}

/// Never shows the password.
impl fmt::Debug for TurnServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnServer")
            .field("uri", &self.to_string())
            .field("user", &self.user)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// A text names no server. The error says how one is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server is `host:port`, such as `192.0.2.1:{usual}` or `[2001:db8::1]:{usual}`")]
pub struct ServerError {
    /// The usual port of servers of this kind.
    usual: u16,
}

/// Writes an IPv6 address in brackets, and everything else as it is.
fn write_host(f: &mut fmt::Formatter<'_>, host: &str) -> fmt::Result {
    match host.contains(':') && !host.starts_with('[') {
        true => write!(f, "[{host}]"),
        false => f.write_str(host),
    }
}

/// Reads `host:port`.
fn parse(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inside) => inside.parse::<Ipv6Addr>().ok()?.to_string(),
        None if host.is_empty() || host.contains([':', '/', ' ', '[', ']']) => return None,
        None => host.to_owned(),
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

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
            assert_eq!(text.parse(), Ok(StunServer::new(host, port)), "{text}");
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
            let error = text.parse::<StunServer>().unwrap_err().to_string();
            assert!(error.contains("`192.0.2.1:3478`"), "{text}: {error}");
        }
    }

    #[test]
    fn a_server_of_the_time_is_no_stun_server() {
        assert_eq!("ntp.example:123".parse(), Ok(NtpServer::new("ntp.example", 123)));
        let error = "stun:ntp.example".parse::<NtpServer>().unwrap_err().to_string();
        assert!(error.contains("`192.0.2.1:123`"), "{error}");
    }

    #[test]
    fn a_host_is_written_in_brackets_where_it_has_to_be() {
        let text = |host: &str| StunServer::new(host, 1).to_string();
        assert_eq!(text("stun.example"), "stun.example:1");
        assert_eq!(text("::1"), "[::1]:1");
        assert_eq!(text("[::1]"), "[::1]:1");
    }

    fn host() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z0-9_.-]{1,20}",
            Just("stun".to_owned()),
            any::<IpAddr>().prop_map(|ip| ip.to_string()),
        ]
    }

    proptest! {
        #[test]
        fn a_server_is_read_as_it_is_written(host in host(), port in 1..=u16::MAX) {
            let server = StunServer::new(host.clone(), port);
            prop_assert_eq!(server.to_string().parse(), Ok(server));
            let server = NtpServer::new(host, port);
            prop_assert_eq!(server.to_string().parse(), Ok(server));
        }

        #[test]
        fn any_text_is_a_server_or_an_error(text in ".{0,40}") {
            if let Ok(server) = text.parse::<StunServer>() {
                prop_assert_eq!(server.to_string().parse(), Ok(server));
            }
        }
    }
}

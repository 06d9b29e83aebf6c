//! The URL of a message broker.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most bytes of a host name (RFC 1035, section 2.3.4, without its final dot).
const MOST_HOST: usize = 253;
/// The most bytes of a broker's URL: scheme, host, port and query.
const MOST_TEXT: usize = MOST_HOST + 27;

/// The protocol that a broker speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// MQTT over TCP.
    Mqtt,
    /// MQTT over TLS over TCP.
    Mqtts,
    /// A channel inside this process, for tests and examples.
    Memory,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::Mqtt, Self::Mqtts, Self::Memory];

    /// Returns the port registered with IANA, and `None` where there are no ports.
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Mqtt => Some(1883),
            Self::Mqtts => Some(8883),
            Self::Memory => None,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Memory => "memory",
        })
    }
}

/// A version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MqttVersion {
    /// Version 3.1.1 of MQTT.
    V3,
    /// Version 5 of MQTT.
    V5,
}

impl fmt::Display for MqttVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V3 => "MQTT 3.1.1",
            Self::V5 => "MQTT 5",
        })
    }
}

/// The host part of a [`BrokerUrl`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name to look up, in lower case; or the name of a memory channel.
    Name(String),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, written in brackets.
    V6(Ipv6Addr),
}

/// Writes the host without the brackets of an IPv6 address, as a resolver or a certificate check wants it.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(ip) => ip.fmt(f),
            Self::V6(ip) => ip.fmt(f),
        }
    }
}

/// A message broker: `mqtt://host[:1883]`, `mqtts://host[:8883]` or `memory://name`. `?v=3` or `?v=5` follows when
/// only that version of MQTT is to be spoken.
///
/// It is published to every peer, so it never carries user names or passwords.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerUrl {
    scheme: Scheme,
    host: Host,
    /// The TCP port; `None` where the scheme has no ports.
    port: Option<u16>,
    version: Option<MqttVersion>,
}

/// A reason why a text is not a [`BrokerUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerUrlError {
    /// The text is longer than any broker's URL.
    #[error("a broker URL of {len} bytes is too long: {MOST_TEXT} at most")]
    TooLong {
        /// The length of the text, in bytes.
        len: usize,
    },
    /// The text holds `user:password@`. It is not repeated, because it may hold a password.
    #[error(
        "a broker URL is published to every peer and cannot hold a user name or password: \
         put them beside the broker's URL in this node's own configuration"
    )]
    Credentials,
    /// The scheme is missing, or is none of [`Scheme`].
    #[error("broker URL {url:?} must start with mqtt://, mqtts:// or memory://")]
    Scheme {
        /// The whole text.
        url: String,
    },
    /// The host is not a name and not an address.
    #[error("{host:?} is no host: write a name, an IPv4 address or an IPv6 address in brackets")]
    Host {
        /// The text in the place of the host.
        host: String,
    },
    /// The port is not a number from 1 to 65535, or the scheme has none.
    #[error("{port:?} is no port for {scheme}://: a number from 1 to 65535, and none at all for memory://")]
    Port {
        /// The text in the place of the port.
        port: String,
        /// The scheme of the URL.
        scheme: Scheme,
    },
    /// The host and port are followed by something that means nothing here.
    #[error("{rest:?} at the end of a broker URL means nothing: only ?v=3 or ?v=5 may follow, for MQTT")]
    Rest {
        /// The text that follows.
        rest: String,
    },
}

impl BrokerUrl {
    /// Returns the protocol to speak to it.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the TCP port, 1 … 65535; `None` for a memory channel.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Returns the only version of MQTT to speak to it, if that is fixed.
    pub fn version(&self) -> Option<MqttVersion> {
        self.version
    }

    /// Tells whether the connection is protected by TLS.
    pub fn is_tls(&self) -> bool {
        self.scheme == Scheme::Mqtts
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        match &self.host {
            Host::V6(ip) => write!(f, "[{ip}]")?,
            host => host.fmt(f)?,
        }
        if let Some(port) = self.port.filter(|_| self.port != self.scheme.default_port()) {
            write!(f, ":{port}")?;
        }
        match self.version {
            Some(MqttVersion::V3) => f.write_str("?v=3"),
            Some(MqttVersion::V5) => f.write_str("?v=5"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

impl FromStr for BrokerUrl {
    type Err = BrokerUrlError;

    fn from_str(text: &str) -> Result<Self, BrokerUrlError> {
        if text.len() > MOST_TEXT {
            return Err(BrokerUrlError::TooLong { len: text.len() });
        }
        if text.contains('@') {
            return Err(BrokerUrlError::Credentials);
        }
        let (scheme, rest) = split_scheme(text)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (host, port) = split_port(authority);
        Ok(Self {
            scheme,
            host: parse_host(host, scheme)?,
            port: parse_port(port, scheme)?,
            version: parse_rest(rest, scheme)?,
        })
    }
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), BrokerUrlError> {
    text.split_once("://")
        .and_then(|(name, rest)| {
            let is_it = |scheme: &Scheme| scheme.to_string().eq_ignore_ascii_case(name);
            Some((Scheme::ALL.into_iter().find(is_it)?, rest))
        })
        .ok_or_else(|| BrokerUrlError::Scheme { url: text.to_owned() })
}

/// Splits the port from the host. A colon inside brackets belongs to the address.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let from = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority[from..].find(':') {
        Some(colon) => (&authority[..from + colon], Some(&authority[from + colon + 1..])),
        None => (authority, None),
    }
}

fn parse_host(text: &str, scheme: Scheme) -> Result<Host, BrokerUrlError> {
    let wrong = || BrokerUrlError::Host { host: text.to_owned() };
    if scheme != Scheme::Memory {
        if let Some(inside) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            return inside.parse().map(Host::V6).map_err(|_| wrong());
        }
        if let Ok(ip) = text.parse() {
            return Ok(Host::V4(ip));
        }
        // By RFC 1123, section 2.1, a last label of digits only is never a name. So this is a mistyped address.
        if text.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(wrong());
        }
    }
    if text.len() <= MOST_HOST && text.split('.').all(is_label) {
        Ok(Host::Name(text.to_ascii_lowercase()))
    } else {
        Err(wrong())
    }
}

/// Tells whether `label` is one of RFC 1123, section 2.1, or has underscores, which names in use have too.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn parse_port(text: Option<&str>, scheme: Scheme) -> Result<Option<u16>, BrokerUrlError> {
    let Some(text) = text else {
        return Ok(scheme.default_port());
    };
    // `parse` alone would take "+1".
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|port| *port != 0 && is_number && scheme != Scheme::Memory)
        .map(Some)
        .ok_or_else(|| BrokerUrlError::Port { port: text.to_owned(), scheme })
}

fn parse_rest(text: &str, scheme: Scheme) -> Result<Option<MqttVersion>, BrokerUrlError> {
    let wrong = || BrokerUrlError::Rest { rest: text.to_owned() };
    let version = match text.strip_prefix('/').unwrap_or(text) {
        "" => return Ok(None),
        "?v=3" => MqttVersion::V3,
        "?v=5" => MqttVersion::V5,
        _ => return Err(wrong()),
    };
    if scheme == Scheme::Memory {
        return Err(wrong());
    }
    Ok(Some(version))
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

//! The URI of a TURN server.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use p2p_core::node::TurnServer;
use p2p_core::turn::Carrier;

/// The ports of TURN without and with TLS (RFC 8656, section 19.3).
const PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;

/// The most bytes of a name in text (RFC 1035, section 2.3.4).
const MOST_NAME: usize = 253;

/// The URI of a TURN server (RFC 7065): `turn:host[:port][?transport=udp|tcp]`, or
/// `turns:host[:port][?transport=tcp]` with TLS. The usual ports are 3478, and 5349 with TLS. An IPv6 address stands
/// in brackets. `turn:` without a transport means UDP, and TCP where UDP does not get through.
///
/// ```
/// use p2p_node::config::TurnUri;
///
/// let uri: TurnUri = "turn:turn.example".parse()?;
/// let servers = uri.servers("anna", "open sesame");
/// let shown: Vec<_> = servers.iter().map(ToString::to_string).collect();
/// assert_eq!(shown, ["turn:turn.example:3478?transport=udp", "turn:turn.example:3478?transport=tcp"]);
/// # Ok::<(), p2p_node::config::TurnUriError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnUri {
    /// A name, or an IP address without brackets.
    host: String,
    port: u16,
    /// The transports that may carry messages there, in the order of trying.
    carriers: &'static [Carrier],
}

/// A reason why a text is not a [`TurnUri`]. None of these repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnUriError {
    /// The text does not begin with `turn:` or `turns:`.
    #[error(
        "a TURN server is `turn:host:port` or, with TLS, `turns:host:port`, such as `turn:192.0.2.1:3478`"
    )]
    Scheme,
    /// The text begins with `turn://`.
    #[error("a TURN server is written without slashes: `turn:host:port`")]
    Slashes,
    /// The text holds a login, as in `turn:user@…`.
    #[error("user and password do not belong into the URI of a TURN server but beside it")]
    Login,
    /// The host is missing or impossible.
    #[error(
        "the host of a TURN server is a name, an IPv4 address, or an IPv6 address in brackets, such as `turn:[2001:db8::1]:3478`"
    )]
    Host,
    /// The port is missing or impossible.
    #[error("the port of a TURN server is a number from 1 to 65535")]
    Port,
    /// The text has a transport other than UDP and TCP, or something else after the port.
    #[error("all that may follow the port of a TURN server is `?transport=udp` or `?transport=tcp`")]
    Transport,
    /// The text asks for DTLS, as `turns:…?transport=udp` does.
    #[error(
        "TURN over DTLS is not spoken here: for TLS over TCP write `turns:` without `?transport=udp`, for UDP write `turn:`"
    )]
    Dtls,
}

impl TurnUri {
    /// Returns the server over each transport that is meant, with this login. The certificates to trust are the
    /// system's.
    pub fn servers(&self, user: &str, password: &str) -> Vec<TurnServer> {
        let server = |carrier: &Carrier| {
            TurnServer::new(&self.host, self.port).with_carrier(*carrier).with_login(user, password)
        };
        self.carriers.iter().map(server).collect()
    }
}

impl FromStr for TurnUri {
    type Err = TurnUriError;

    fn from_str(text: &str) -> Result<Self, TurnUriError> {
        let (scheme, rest) = text.split_once(':').ok_or(TurnUriError::Scheme)?;
        let is_tls = scheme.eq_ignore_ascii_case("turns");
        if !is_tls && !scheme.eq_ignore_ascii_case("turn") {
            return Err(TurnUriError::Scheme);
        }
        if rest.contains('@') {
            return Err(TurnUriError::Login);
        }
        if rest.starts_with('/') {
            return Err(TurnUriError::Slashes);
        }
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let (host, port) = split_port(place)?;
        let port = match port {
            Some(port) => parse_port(port)?,
            None if is_tls => TLS_PORT,
            None => PORT,
        };
        Ok(Self { host: parse_host(host)?, port, carriers: parse_transport(query, is_tls)? })
    }
}

fn split_port(place: &str) -> Result<(&str, Option<&str>), TurnUriError> {
    match place.rfind(']') {
        Some(end) => match place[end + 1..].strip_prefix(':') {
            Some(port) => Ok((&place[..=end], Some(port))),
            None if place.len() == end + 1 => Ok((place, None)),
            None => Err(TurnUriError::Host),
        },
        None => Ok(place.split_once(':').map_or((place, None), |(host, port)| match port.contains(':') {
            // An IPv6 address without brackets is no name either.
            true => (place, None),
            false => (host, Some(port)),
        })),
    }
}

fn parse_port(text: &str) -> Result<u16, TurnUriError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port != 0).ok_or(TurnUriError::Port)
}

fn parse_host(text: &str) -> Result<String, TurnUriError> {
    if let Some(inside) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return inside.parse().map(|ip: Ipv6Addr| ip.to_string()).map_err(|_| TurnUriError::Host);
    }
    let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = (1..=MOST_NAME).contains(&text.len()) && text.bytes().all(is_of_names);
    is_name.then(|| text.to_owned()).ok_or(TurnUriError::Host)
}

fn parse_transport(query: Option<&str>, is_tls: bool) -> Result<&'static [Carrier], TurnUriError> {
    let transport = match query {
        None => None,
        Some(query) => Some(query.strip_prefix("transport=").ok_or(TurnUriError::Transport)?),
    };
    match transport.map(str::to_ascii_lowercase).as_deref() {
        None | Some("tcp") if is_tls => Ok(&[Carrier::Tls]),
        Some("udp") if is_tls => Err(TurnUriError::Dtls),
        None => Ok(&[Carrier::Udp, Carrier::Tcp]),
        Some("udp") => Ok(&[Carrier::Udp]),
        Some("tcp") => Ok(&[Carrier::Tcp]),
        Some(_) => Err(TurnUriError::Transport),
    }
}

impl fmt::Display for TurnUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, transport) = match self.carriers {
            [Carrier::Udp] => ("turn", "?transport=udp"),
            [Carrier::Tcp] => ("turn", "?transport=tcp"),
            [Carrier::Tls] => ("turns", ""),
            _ => ("turn", ""),
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}:[{}]:{}{transport}", self.host, self.port),
            false => write!(f, "{scheme}:{}:{}{transport}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<(String, u16, &'static [Carrier]), TurnUriError> {
        text.parse().map(|uri: TurnUri| (uri.host, uri.port, uri.carriers))
    }

    #[test]
    fn every_form_of_the_rfc_is_read() {
        use Carrier::{Tcp, Tls, Udp};
        for (text, host, port, carriers) in [
            // These are the examples of RFC 7065, appendix A, as far as they apply here.
            ("turn:example.org", "example.org", 3478, &[Udp, Tcp][..]),
            ("turns:example.org", "example.org", 5349, &[Tls]),
            ("turn:example.org:8000", "example.org", 8000, &[Udp, Tcp]),
            ("turn:example.org?transport=udp", "example.org", 3478, &[Udp]),
            ("turn:example.org?transport=tcp", "example.org", 3478, &[Tcp]),
            ("turns:example.org?transport=tcp", "example.org", 5349, &[Tls]),
            ("turns:192.0.2.1:443?transport=TCP", "192.0.2.1", 443, &[Tls]),
            ("TURN:[2001:DB8::0:1]:1?transport=udp", "2001:db8::1", 1, &[Udp]),
            ("turn:[::1]", "::1", 3478, &[Udp, Tcp]),
        ] {
            assert_eq!(parsed(text), Ok((host.to_owned(), port, carriers)), "{text}");
        }
    }

    #[test]
    fn what_is_none_says_why() {
        use TurnUriError::{Dtls, Host, Login, Port, Scheme, Slashes, Transport};
        for (text, why) in [
            ("", Scheme),
            ("turn.example:3478", Scheme),
            ("turn", Scheme),
            ("stun:turn.example", Scheme),
            ("turn://turn.example", Slashes),
            ("turn:anna:sesame@turn.example", Login),
            ("turn://anna@turn.example", Login),
            ("turn:", Host),
            ("turn::3478", Host),
            ("turn:2001:db8::1", Host),
            ("turn:2001:db8::1:3478", Host),
            ("turn:[2001:db8::g]", Host),
            ("turn:[192.0.2.1]", Host),
            ("turn:[fe80::1%25eth0]", Host),
            ("turn:[::1]3478", Host),
            ("turn:[::1", Host),
            ("turn:]", Host),
            ("turn:turn.example/", Host),
            ("turn:turn example", Host),
            ("turn:türn.example", Host),
            ("turn:turn.example:", Port),
            ("turn:turn.example:0", Port),
            ("turn:turn.example:+1", Port),
            ("turn:turn.example:65536", Port),
            ("turn:[::1]:x", Port),
            ("turn:turn.example?", Transport),
            ("turn:turn.example?transport=", Transport),
            ("turn:turn.example?transport=sctp", Transport),
            ("turn:turn.example?transport=udp&x=y", Transport),
            ("turn:turn.example?tls=yes", Transport),
            ("turns:turn.example?transport=udp", Dtls),
        ] {
            assert_eq!(parsed(text), Err(why), "{text}");
        }
        assert_eq!(parsed(&format!("turn:{}", "x".repeat(254))), Err(Host));
    }

    fn host() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z0-9][a-zA-Z0-9.-]{0,60}",
            any::<u32>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            any::<u128>().prop_map(|ip| format!("[{}]", Ipv6Addr::from(ip))),
        ]
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(?s).{0,60}") {
            let _ = parsed(&text);
        }

        #[test]
        fn anything_like_it_is_read_or_refused(text in r"(turns?|stun):[\[\]a-z0-9:.@/%]{0,12}(\?[a-z=&]{0,15})?") {
            if let Ok(uri) = text.parse::<TurnUri>() {
                prop_assert_eq!(uri.to_string().parse(), Ok(uri));
            }
        }

        #[test]
        fn what_is_written_is_read_again(
            host in host(),
            port in 1u16..,
            (scheme, transport) in prop::sample::select(vec![
                ("turn", ""), ("turn", "?transport=udp"), ("turn", "?transport=tcp"), ("turns", ""),
            ]),
        ) {
            let text = format!("{scheme}:{host}:{port}{transport}");
            let uri: TurnUri = text.parse().unwrap();
            prop_assert_eq!(uri.to_string(), text);
        }
    }
}

//! What is known of an interface, and who said so.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use p2p_core::Mapped;
use p2p_core::stun::{Failure, Transport};

/// A STUN server by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StunServer {
    /// A name or an IP address.
    pub host: String,
    /// Its UDP and TCP port; 3478 is usual.
    pub port: u16,
}

impl fmt::Display for StunServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') && !self.host.starts_with('[') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One server's word on one address of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The server as it was configured.
    pub server: StunServer,
    /// Where it was asked, and how; `None` when its name did not resolve.
    pub asked: Option<(SocketAddr, Transport)>,
    /// What it said.
    pub outcome: Outcome,
}

/// What a server said, or why it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It sees us as this.
    Mapped(Mapped),
    /// It said nothing of use.
    Failed(Failure),
    /// Its name has no address, says the resolver.
    Unresolved(String),
}

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// The address.
    pub local: IpAddr,
    /// Length of its network prefix, in bits.
    pub prefix: u8,
    /// The zone of a link-local IPv6 address; else 0.
    pub scope: u32,
    /// The TCP port listened on.
    pub listen: u16,
    /// What that port is seen as from outside, over TCP.
    pub external: Option<Mapped>,
    /// What our UDP port, the same number if it was free, is seen as.
    pub external_udp: Option<Mapped>,
    /// Who said what.
    pub evidence: Vec<Evidence>,
}

/// What most servers say over `transport`; of claims with equal votes the one that stands first.
pub(super) fn agreed(evidence: &[Evidence], transport: Transport) -> Option<Mapped> {
    let claims: Vec<Mapped> = evidence
        .iter()
        .filter_map(|evidence| match (evidence.asked, &evidence.outcome) {
            (Some((_, over)), Outcome::Mapped(mapped)) if over == transport => Some(*mapped),
            _ => None,
        })
        .collect();
    let votes = |claim: &Mapped| claims.iter().filter(|other| *other == claim).count();
    // `max_by_key` takes the last of equals.
    claims.iter().rev().max_by_key(|claim| votes(claim)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(last: u8, transport: Transport, mapped: Option<&str>) -> Evidence {
        let address = SocketAddr::from(([192, 0, 2, last], 3478));
        Evidence {
            server: StunServer { host: address.ip().to_string(), port: 3478 },
            asked: Some((address, transport)),
            outcome: mapped.map_or(Outcome::Failed(Failure::Closed), |mapped| {
                Outcome::Mapped(Mapped(mapped.parse().unwrap()))
            }),
        }
    }

    #[test]
    fn a_liar_is_outvoted_and_transports_are_apart() {
        let (truth, lie) = (Some("198.51.100.1:5"), Some("203.0.113.66:6"));
        let evidence = [
            claim(1, Transport::Tcp, lie),
            claim(2, Transport::Tcp, truth),
            claim(3, Transport::Tcp, None),
            claim(4, Transport::Tcp, truth),
            claim(1, Transport::Udp, lie),
        ];
        let mapped = |text: Option<&str>| text.map(|text| Mapped(text.parse().unwrap()));
        assert_eq!(agreed(&evidence, Transport::Tcp), mapped(truth));
        assert_eq!(agreed(&evidence, Transport::Udp), mapped(lie), "nobody contradicts");
        assert_eq!(agreed(&evidence[..2], Transport::Tcp), mapped(lie), "the first of equals");
        assert_eq!(agreed(&evidence[2..3], Transport::Tcp), None);
    }

    #[test]
    fn a_server_is_written_as_it_is_read() {
        let text = |host: &str| StunServer { host: host.into(), port: 1 }.to_string();
        assert_eq!(text("stun.example"), "stun.example:1");
        assert_eq!(text("::1"), "[::1]:1");
        assert_eq!(text("[::1]"), "[::1]:1");
    }
}

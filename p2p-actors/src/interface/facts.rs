//! What is known of an interface, and who said so.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use p2p_core::Mapped;
use p2p_core::nat::report::NatReport;
use p2p_core::stun::Failure;

use super::observe::Observation;

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

/// One server's word on the TCP port listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The server as it was configured.
    pub server: StunServer,
    /// Where it was asked; `None` when its name did not resolve.
    pub asked: Option<SocketAddr>,
    /// What it said.
    pub outcome: Outcome,
}

/// What a server said, or why it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It sees us as this.
    Mapped(Observation),
    /// It said nothing of use.
    Failed(Failure),
    /// Its name has no address, says the resolver.
    Unresolved(String),
}

/// What a probe of the network found out, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    /// When it ended.
    pub at: Instant,
    /// All of it: verdicts with their confidence, servers, and every mapping seen with its times
    /// ([`NatReport::newest`]).
    pub report: Arc<NatReport>,
}

/// One address of an interface.
#[derive(Clone, Debug, PartialEq)]
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
    /// What one UDP port of this address was seen as.
    pub external_udp: Option<Mapped>,
    /// Who said what of the port listened on.
    pub evidence: Vec<Evidence>,
    /// The STUN servers that can be asked from here, as far as their names are resolved.
    pub servers: Vec<SocketAddr>,
    /// Those whose names are being resolved.
    pub pending: Vec<StunServer>,
    /// The network in front of this address: probed from here, or from an address of the same interface, family
    /// and reach. The report names the address.
    pub probed: Option<Probed>,
    /// The time to live at which a SYN passes our NAT and dies at a hop that says nothing. Looked for where our NAT
    /// answers SYNs, on Linux.
    pub silent_hop: Option<u8>,
    /// Whether the last probe has ended, or there is nobody to ask.
    pub is_surveyed: bool,
}

/// What most servers say, those left out that are `liars`; of claims with equal votes the one that stands first.
pub(super) fn agreed(evidence: &[Evidence], is_liar: impl Fn(SocketAddr) -> bool) -> Option<Mapped> {
    let claims: Vec<Mapped> = evidence
        .iter()
        .filter_map(|evidence| match (evidence.asked, &evidence.outcome) {
            (Some(server), Outcome::Mapped(seen)) if !is_liar(server) => Some(seen.mapped),
            _ => None,
        })
        .collect();
    let votes = |claim: &Mapped| claims.iter().filter(|other| *other == claim).count();
    // `max_by_key` takes the last of equals.
    claims.iter().rev().max_by_key(|claim| votes(claim)).copied()
}

#[cfg(test)]
mod tests {
    use p2p_core::Local;

    use super::*;

    fn claim(last: u8, mapped: Option<&str>) -> Evidence {
        let server = SocketAddr::from(([192, 0, 2, last], 3478));
        let local = Local(SocketAddr::from(([192, 168, 1, 2], 5)));
        let (sent, at) = (p2p_core::sim::epoch(), p2p_core::sim::epoch());
        let seen =
            |mapped: &str| Observation { server, local, mapped: Mapped(mapped.parse().unwrap()), sent, at };
        Evidence {
            server: StunServer { host: server.ip().to_string(), port: 3478 },
            asked: Some(server),
            outcome: mapped.map_or(Outcome::Failed(Failure::Closed), |mapped| Outcome::Mapped(seen(mapped))),
        }
    }

    #[test]
    fn a_liar_is_outvoted_or_left_out() {
        let (truth, lie) = (Some("198.51.100.1:5"), Some("203.0.113.66:6"));
        let evidence = [claim(1, lie), claim(2, truth), claim(3, None), claim(4, truth)];
        let mapped = |text: Option<&str>| text.map(|text| Mapped(text.parse().unwrap()));
        let nobody = |_| false;
        assert_eq!(agreed(&evidence, nobody), mapped(truth));
        assert_eq!(agreed(&evidence[..2], nobody), mapped(lie), "the first of equals");
        let first = |server| Some(server) == evidence[0].asked;
        assert_eq!(agreed(&evidence[..2], first), mapped(truth), "others have shown that it lies");
        assert_eq!(agreed(&evidence[2..3], nobody), None);
    }

    #[test]
    fn a_server_is_written_as_it_is_read() {
        let text = |host: &str| StunServer { host: host.into(), port: 1 }.to_string();
        assert_eq!(text("stun.example"), "stun.example:1");
        assert_eq!(text("::1"), "[::1]:1");
        assert_eq!(text("[::1]"), "[::1]:1");
    }
}

//! What is known of the network in front of one address, and who said so.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::super::server::StunServer;
use crate::nat::NatFacts;
use crate::nat::report::NatReport;
use crate::stun::Failure;
use crate::{Local, Mapped};

/// One server's view of one TCP port of ours, and the times it goes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortView {
    /// The server.
    pub server: SocketAddr,
    /// The port here.
    pub local: Local,
    /// The address and port the server saw.
    pub mapped: Mapped,
    /// When the SYN left that made the mapping, or opened it again.
    pub sent: Instant,
    /// When the answer came.
    pub at: Instant,
}

/// One server's word on the TCP port listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortEvidence {
    /// The server as it was configured.
    pub server: StunServer,
    /// The address it was asked at; `None` when its name did not resolve.
    pub asked: Option<SocketAddr>,
    /// Its answer, or the lack of one.
    pub outcome: PortOutcome,
}

/// The answer of a server, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortOutcome {
    /// It sees us as this.
    Mapped(PortView),
    /// It said nothing of use.
    Failed(Failure),
    /// Its name has no address, says the resolver.
    Unresolved(String),
}

/// The result of a probe of the network, and its time.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Probed {
    /// When it ended.
    pub at: Instant,
    /// Verdicts with their confidence, servers, and every mapping seen with its times ([`NatReport::newest`]).
    pub report: Arc<NatReport>,
}

/// Everything that is known of one address of an interface and the network in front of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NetworkView {
    /// The address.
    pub local: IpAddr,
    /// Length of its network prefix, in bits.
    pub prefix: u8,
    /// The zone of a link-local IPv6 address; else 0.
    pub scope: u32,
    /// The TCP port listened on.
    pub listen: u16,
    /// The port listened on as it is seen from outside, over TCP.
    pub external: Option<Mapped>,
    /// One UDP port of this address as it was seen from outside.
    pub external_udp: Option<Mapped>,
    /// All that was said of the port listened on.
    pub evidence: Vec<PortEvidence>,
    /// The STUN servers that can be asked from here, as far as their names are resolved.
    pub servers: Vec<SocketAddr>,
    /// Those whose names are being resolved.
    pub pending: Vec<StunServer>,
    /// The network in front of this address: probed from here, or from an address of the same interface, family
    /// and reach. The report names the address.
    pub probed: Option<Probed>,
    /// The time to live, in hops, at which a SYN passes our NAT and dies at a hop that says nothing. Looked for where
    /// our NAT answers SYNs, on Linux.
    pub silent_hop: Option<u8>,
    /// Tells that the last probe has ended, or that there is nobody to ask.
    pub is_surveyed: bool,
}

impl NetworkView {
    /// Returns the external address to publish: that of the port listened on if it is known, else that most servers of
    /// the probe saw, else that the first one saw.
    pub fn external_ip(&self) -> Option<IpAddr> {
        let own = self.probed.as_ref().filter(|probed| probed.report.local == self.local);
        self.external
            .map(|external| external.0.ip())
            .or_else(|| own.and_then(|probed| Some(probed.report.external?.value)))
            .or(self.external_udp.map(|external| external.0.ip()))
    }

    /// Returns the facts about the NAT in front, over TCP. Nothing is known before a probe has ended.
    pub fn facts(&self) -> NatFacts {
        self.probed.as_ref().map_or_else(NatFacts::default, |probed| probed.report.facts().tcp)
    }

    /// Returns the STUN servers to ask from here, those first that have answered.
    pub fn servers_by_merit(&self) -> Vec<SocketAddr> {
        let has_answered = |server: &SocketAddr| {
            let is_answer = |evidence: &&PortEvidence| matches!(evidence.outcome, PortOutcome::Mapped(_));
            self.evidence.iter().filter(is_answer).any(|evidence| evidence.asked == Some(*server))
        };
        let mut servers = self.servers.clone();
        servers.sort_by_key(|server| !has_answered(server));
        servers
    }
}

/// Returns what most servers say, those left out that are liars; of claims with equal votes the one that stands first.
pub(super) fn agreed(evidence: &[PortEvidence], is_liar: impl Fn(SocketAddr) -> bool) -> Option<Mapped> {
    let claims: Vec<Mapped> = evidence
        .iter()
        .filter_map(|evidence| match (evidence.asked, &evidence.outcome) {
            (Some(server), PortOutcome::Mapped(seen)) if !is_liar(server) => Some(seen.mapped),
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

    fn claim(last: u8, mapped: Option<&str>) -> PortEvidence {
        let server = SocketAddr::from(([192, 0, 2, last], 3478));
        let local = Local(SocketAddr::from(([192, 168, 1, 2], 5)));
        let (sent, at) = (crate::sim::epoch(), crate::sim::epoch());
        let seen =
            |mapped: &str| PortView { server, local, mapped: Mapped(mapped.parse().unwrap()), sent, at };
        let outcome = match mapped {
            Some(mapped) => PortOutcome::Mapped(seen(mapped)),
            None => PortOutcome::Failed(Failure::Closed),
        };
        let server = StunServer::new(server.ip().to_string(), 3478);
        PortEvidence { server, asked: Some(SocketAddr::from(([192, 0, 2, last], 3478))), outcome }
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
}

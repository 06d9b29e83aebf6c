//! The network of one family as it is probed from one address, and the search for a silent hop after it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::view::Probed;
use crate::nat::hop::{self, Hop, HopConfig};
use crate::nat::probe::{self, Probe, ProbeConfig};
use crate::nat::report::NatReport;
use crate::nat::{PortRange, SynAnswer};
use crate::node::io::{SocketAct, StunLink};
use crate::node::nic::NicAddress;
use crate::stun::dial_back::SynOutcome;
use crate::stun::{Server, Transport};
use crate::{Deadline, Local, Machine, Mapped, Output, Reach, Seed};

/// Packets a probe sends to one server at most. With a SYN and three more about the port listened on, no server gets
/// more than 40. The eight SYNs of a search for a silent hop come on top.
pub const MOST_PACKETS: u32 = 35;

/// The survey of one family: a probe, then a search for a silent hop.
#[derive(Debug)]
pub(super) struct Survey {
    /// The address it is probed from.
    pub(super) address: NicAddress,
    probe: Option<Probe>,
    hop: Option<Hop>,
    /// A UDP port as it was seen.
    pub(super) external_udp: Option<Mapped>,
    /// The last probe that ended.
    pub(super) probed: Option<Probed>,
    pub(super) silent_hop: Option<u8>,
    /// Tells that the system says who sent an ICMP error about a TCP socket.
    can_see_hops: bool,
}

/// What one turn of a survey brought.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) acts: Vec<SocketAct>,
    pub(super) has_news: bool,
    pub(super) deadline: Option<Deadline>,
}

impl Survey {
    /// Probes from `address` with servers whose names, so many, are being resolved. Local ports are taken from the
    /// default range of [`ProbeConfig`], on the side of `listen` where there are more.
    pub(super) fn new(
        address: NicAddress,
        listen: u16,
        names: usize,
        can_see_hops: bool,
        seed: Seed,
        now: Instant,
    ) -> Self {
        let mut config = ProbeConfig::new(address.ip);
        config.names = names;
        config.most_packets = MOST_PACKETS;
        config.ports = beside(config.ports, listen);
        let probe = Probe::new(config, seed, now).expect("no servers are not too many servers");
        let (external_udp, probed, silent_hop) = (None, None, None);
        Self { address, probe: Some(probe), hop: None, external_udp, probed, silent_hop, can_see_hops }
    }

    /// Takes over the knowledge of an earlier survey from the same address, until there is better.
    pub(super) fn inherit(&mut self, before: Self) {
        if before.address == self.address {
            self.external_udp = before.external_udp;
            self.probed = before.probed;
            self.silent_hop = before.silent_hop;
        }
    }

    /// Tells whether its result goes for another address of the interface, too.
    pub(super) fn is_of(&self, address: NicAddress) -> bool {
        self.address.family() == address.family() && Reach::of(self.address.ip) == Reach::of(address.ip)
    }

    /// Tells whether the last probe found that others contradict this server.
    pub(super) fn is_liar(&self, server: SocketAddr) -> bool {
        let servers = self.probed.iter().flat_map(|probed| &probed.report.servers);
        servers.filter(|report| report.is_liar).any(|report| report.server.ip() == server.ip())
    }

    pub(super) fn is_over(&self) -> bool {
        self.probe.is_none() && self.hop.is_none()
    }

    pub(super) fn handle_resolved(&mut self, found: &[SocketAddr], now: Instant) {
        let Some(probe) = &mut self.probe else { return };
        let both = |address| [Transport::Udp, Transport::Tcp].map(|transport| Server { address, transport });
        let servers: Vec<Server> = found.iter().copied().flat_map(both).collect();
        if let Err(error) = probe.handle_resolved(&servers, now) {
            tracing::debug!(%error, "STUN servers are left out");
        }
    }

    pub(super) fn handle_unresolved(&mut self, name: String, why: String, now: Instant) {
        if let Some(probe) = &mut self.probe {
            probe.handle_unresolved(name, why, now);
        }
    }

    pub(super) fn handle_datagram(&mut self, at: SocketAddr, from: SocketAddr, bytes: &[u8], now: Instant) {
        if let Some(probe) = &mut self.probe {
            probe.handle_datagram(unzoned(at), from, bytes, now);
        }
    }

    pub(super) fn handle_unreachable(
        &mut self,
        at: SocketAddr,
        to: SocketAddr,
        why: std::io::ErrorKind,
        now: Instant,
    ) {
        if let Some(probe) = &mut self.probe {
            probe.handle_unreachable(unzoned(at), to, why, now);
        }
    }

    pub(super) fn handle_up(&mut self, link: StunLink, now: Instant) {
        if let Some(probe) = &mut self.probe {
            probe.handle_tcp_open(unzoned(link.from), link.to, now);
        }
    }

    pub(super) fn handle_bytes(&mut self, link: StunLink, bytes: &[u8], now: Instant) {
        if let Some(probe) = &mut self.probe {
            probe.handle_tcp_data(unzoned(link.from), link.to, bytes, now);
        }
    }

    pub(super) fn handle_down(&mut self, link: StunLink, why: Option<std::io::ErrorKind>, now: Instant) {
        if let Some(probe) = &mut self.probe {
            probe.handle_tcp_closed(unzoned(link.from), link.to, why, now);
        }
    }

    pub(super) fn handle_expired(&mut self, syn: u8, by: std::net::IpAddr, now: Instant) {
        if let Some(hop) = &mut self.hop {
            hop.handle_expired(syn, by, now);
        }
    }

    pub(super) fn handle_answered(&mut self, syn: u8, now: Instant) {
        if let Some(hop) = &mut self.hop {
            hop.handle_answered(syn, now);
        }
    }

    pub(super) fn handle_unsent(&mut self, syn: u8, now: Instant) {
        if let Some(hop) = &mut self.hop {
            hop.handle_unsent(syn, now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(probe) = &mut self.probe {
            probe.handle_timeout(now);
        }
        if let Some(hop) = &mut self.hop {
            hop.handle_timeout(now);
        }
    }

    pub(super) fn close(&mut self, now: Instant) -> Vec<SocketAct> {
        if let Some(probe) = &mut self.probe {
            probe.close(now);
        }
        if let Some(hop) = &mut self.hop {
            hop.close(now);
        }
        self.drain(now).acts
    }

    /// Returns the acts, whether there is news, and the next deadline.
    pub(super) fn drain(&mut self, now: Instant) -> Turn {
        let mut turn = Turn::default();
        while let Some(probe) = &mut self.probe {
            match probe.poll_output() {
                Output::Act(probe::Act::AskSynProbe { helper, .. }) => {
                    // Servers that dial back are asked by the machine itself; there are no other helpers here.
                    probe.handle_syn_probe(helper, SynOutcome::Unavailable, now);
                }
                Output::Act(act) => turn.acts.extend(self.act(act)),
                Output::Event(event) => {
                    turn.has_news = true;
                    self.hear(event, now);
                }
                Output::Wait(deadline) => {
                    turn.deadline = deadline;
                    break;
                }
            }
        }
        while let Some(hop) = &mut self.hop {
            let from = self.address.with_port(0);
            match hop.poll_output() {
                Output::Act(hop::Act::Dial { syn, to, ttl }) => {
                    turn.acts.push(SocketAct::DialHop { syn, from, to, ttl });
                }
                Output::Act(hop::Act::Drop { syn }) => turn.acts.push(SocketAct::DropHop { syn, from }),
                Output::Event(hop::Event::Done(found)) => {
                    self.silent_hop = found;
                    turn.has_news = true;
                    self.hop = None;
                }
                Output::Wait(deadline) => {
                    turn.deadline = Deadline::earliest([turn.deadline, deadline]);
                    break;
                }
            }
        }
        turn
    }

    fn act(&self, act: probe::Act) -> Option<SocketAct> {
        let bound = |local: Local| self.address.with_port(local.0.port());
        let link = |from, to| StunLink { from: bound(from), to };
        Some(match act {
            probe::Act::SendUdp { from, to, bytes } => {
                SocketAct::SendDatagram { from: bound(from), to, bytes }
            }
            probe::Act::CloseUdp { from } => SocketAct::CloseDatagrams { from: bound(from) },
            probe::Act::Listen { at } => SocketAct::Listen { at: bound(at), is_throwaway: true },
            probe::Act::Unlisten { at } => SocketAct::Unlisten { at: bound(at) },
            probe::Act::OpenTcp { from, to } => SocketAct::OpenLink { link: link(from, to) },
            probe::Act::SendTcp { from, to, bytes } => SocketAct::WriteLink { link: link(from, to), bytes },
            probe::Act::CloseTcp { from, to } => SocketAct::CloseLink { link: link(from, to) },
            probe::Act::AskSynProbe { .. } => return None,
        })
    }

    fn hear(&mut self, event: probe::Event, now: Instant) {
        match event {
            probe::Event::External { transport: Transport::Udp, mapped, .. } => {
                self.external_udp = Some(mapped);
            }
            // Over TCP the port listened on is asked about at the same time, and that is the better answer.
            probe::Event::External { .. } => {}
            // Until there is better. What an earlier probe found out in whole is better.
            probe::Event::Early(report) if self.probed.is_none() => {
                self.probed = Some(Probed { at: now, report: Arc::from(report) });
            }
            probe::Event::Early(_) => {}
            probe::Event::Done(report) => {
                tracing::info!(%report, "network");
                self.hop = self.wanted_hop(&report).map(|config| Hop::new(config, now));
                if self.hop.is_none() {
                    self.silent_hop = None;
                }
                self.probed = Some(Probed { at: now, report: Arc::from(report) });
                self.probe = None;
            }
        }
    }

    /// Returns the search for a silent hop that is worth making: where a NAT of ours answers SYNs.
    fn wanted_hop(&self, report: &NatReport) -> Option<HopConfig> {
        let answers = matches!(report.facts().tcp.syn, Some(SynAnswer::Reset | SynAnswer::Icmp));
        let is_translated = report.tcp.translates.is_some_and(|translates| translates.value);
        let external = report.external.map(|known| known.value)?;
        // Over TCP an answer takes two round trips. The server that is furthest is best: hops beyond it are not seen.
        let seen = report.evidence.over(Transport::Tcp).filter_map(|seen| Some((seen.span()?, seen.server)));
        let (span, server) = seen.max()?;
        let is_worth_it = self.can_see_hops && answers && is_translated;
        is_worth_it.then(|| HopConfig { server, external, rtt: span / 2 })
    }
}

/// Returns the larger part of a range without `port`.
fn beside(range: PortRange, port: u16) -> PortRange {
    if !range.contains(port) {
        return range;
    }
    let below = PortRange { last: port.saturating_sub(1).max(range.first), ..range };
    let above = PortRange { first: port.saturating_add(1).min(range.last), ..range };
    if below.size() > above.size() { below } else { above }
}

/// Returns the near end as the probe names it: without its zone.
fn unzoned(at: SocketAddr) -> Local {
    Local(SocketAddr::new(at.ip(), at.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_listened_on_is_left_alone() {
        let range = PortRange { first: 40_000, last: 59_999 };
        assert_eq!(beside(range, 4_711), range);
        assert_eq!(beside(range, 40_000), PortRange { first: 40_001, ..range });
        assert_eq!(beside(range, 59_000), PortRange { last: 58_999, ..range });
    }
}

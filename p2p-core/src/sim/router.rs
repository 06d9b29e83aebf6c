//! A simulated router: addresses below it, at most one link up, and a NAT or firewall for each family.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::dump::{Fate, Loss};
use super::error::WorldError;
use super::ids::EdgeId;
use super::nat::{Nat, NatConfig, Verdict};
use super::packet::{Header, IcmpKind, Packet};
use crate::{Family, Seed};

/// The configuration of a router.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// The name of the router in dumps.
    pub name: String,
    /// The NAT or firewall for IPv4; `None` when the router only routes it.
    pub v4: Option<NatConfig>,
    /// The NAT or firewall for IPv6; `None` when the router only routes it.
    pub v6: Option<NatConfig>,
    /// The hops it counts for: 1 for a box at home, more for a stretch of Internet.
    pub hops: u8,
    /// True when it tells the sender that the time to live has run out.
    pub time_exceeded: bool,
    /// The source of its own ICMP errors. `None` stands for an external address of its NAT, or else the dummy of RFC
    /// 7600.
    pub address: Option<IpAddr>,
}

impl RouterConfig {
    /// Returns a plain router, which also serves as a switch or an access point.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), v4: None, v6: None, hops: 1, time_exceeded: true, address: None }
    }

    /// Returns it with this NAT or firewall for IPv4.
    pub fn with_v4(mut self, nat: NatConfig) -> Self {
        self.v4 = Some(nat);
        self
    }

    /// Returns it with this NAT or firewall for IPv6.
    pub fn with_v6(mut self, nat: NatConfig) -> Self {
        self.v6 = Some(nat);
        self
    }

    /// Returns it as a router that never sends Time Exceeded.
    pub fn with_silent_hops(mut self) -> Self {
        self.time_exceeded = false;
        self
    }

    /// Returns it with this source of its own ICMP errors.
    pub fn with_address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }
}

/// A router of the simulated world.
#[derive(Debug)]
pub struct Router {
    name: String,
    v4: Option<Nat>,
    v6: Option<Nat>,
    hops: u8,
    time_exceeded: bool,
    address: Option<IpAddr>,
    pub(super) uplink: Option<EdgeId>,
    pub(super) below: BTreeMap<IpAddr, EdgeId>,
}

/// The decision of a router on a packet: its fate, and the packets to send with their links.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) fate: Fate,
    pub(super) forward: Option<EdgeId>,
    pub(super) answer: Option<(EdgeId, Header)>,
}

impl Decision {
    fn drop(why: impl Into<Loss>) -> Self {
        let fate = Fate::Dropped { why: why.into(), answered: false };
        Self { fate, forward: None, answer: None }
    }

    fn forward(fate: Fate, to: EdgeId) -> Self {
        Self { fate, forward: Some(to), answer: None }
    }

    fn answer(why: impl Into<Loss>, answer: Option<(EdgeId, Header)>) -> Self {
        let fate = Fate::Dropped { why: why.into(), answered: answer.is_some() };
        Self { fate, forward: None, answer }
    }
}

impl Router {
    pub(super) fn new(
        config: RouterConfig,
        uplink: Option<EdgeId>,
        mut seed: Seed,
    ) -> Result<Self, WorldError> {
        let mut nat = |config: Option<NatConfig>, family| {
            let Some(config) = config else { return Ok(None) };
            if let Some(ip) = config.external.iter().find(|ip| Family::of(**ip) != family) {
                return Err(WorldError::Family { family, ip: *ip });
            }
            Ok(Some(Nat::new(config, seed.fork("nat"))?))
        };
        let (v4, v6) = (nat(config.v4, Family::V4)?, nat(config.v6, Family::V6)?);
        Ok(Self {
            name: config.name,
            v4,
            v6,
            hops: config.hops,
            time_exceeded: config.time_exceeded,
            address: config.address,
            uplink,
            below: BTreeMap::new(),
        })
    }

    /// Returns the name of the router.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the NAT or firewall for a family; `None` when the router only routes it.
    pub fn nat(&self, family: Family) -> Option<&Nat> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    pub(super) fn nat_mut(&mut self, family: Family) -> Option<&mut Nat> {
        match family {
            Family::V4 => self.v4.as_mut(),
            Family::V6 => self.v6.as_mut(),
        }
    }

    /// Tells whether addresses below are hidden from above.
    pub(super) fn hides(&self, family: Family) -> bool {
        self.nat(family).is_some_and(|nat| nat.config().is_translating())
    }

    /// Returns the source of its own ICMP errors.
    fn address(&self, family: Family) -> IpAddr {
        if let Some(address) = self.address.filter(|address| Family::of(*address) == family) {
            return address;
        }
        let external = self.nat(family).and_then(|nat| nat.config().external.first());
        external.copied().unwrap_or(match family {
            Family::V4 => Ipv4Addr::new(192, 0, 0, 8).into(),
            Family::V6 => Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8).into(),
        })
    }

    /// Takes a packet that has come over `edge`, and decides on it.
    pub(super) fn handle_packet(&mut self, edge: EdgeId, packet: &mut Packet, now: Instant) -> Decision {
        let before = packet.header;
        let header = &mut packet.header;
        if header.ttl <= self.hops {
            let error = || header.icmp_error(self.address(header.family()), IcmpKind::TimeExceeded);
            let answer = self.time_exceeded.then(error).flatten();
            return Decision::answer(Loss::Expired, answer.map(|answer| (edge, answer)));
        }
        header.ttl -= self.hops;
        if self.uplink == Some(edge) {
            return self.inward(edge, header, before, now);
        }
        match (self.below.get(&header.dst.ip()), self.uplink) {
            (Some(below), _) => Decision::forward(Fate::Passed { before }, *below),
            (None, Some(uplink)) => self.outward(edge, uplink, header, before, now),
            (None, None) => Decision::drop(Loss::NoRoute),
        }
    }

    fn outward(
        &mut self,
        edge: EdgeId,
        uplink: EdgeId,
        header: &mut Header,
        before: Header,
        now: Instant,
    ) -> Decision {
        let verdict = match self.nat_mut(header.family()) {
            Some(nat) => nat.outbound(header, now),
            None => Verdict::Forward,
        };
        match verdict {
            Verdict::Forward => Decision::forward(Fate::Passed { before }, uplink),
            Verdict::Leak(why) => Decision::forward(Fate::Leaked(why), uplink),
            Verdict::Hairpin => match self.below.get(&header.dst.ip()) {
                Some(below) => Decision::forward(Fate::TurnedRound { before }, *below),
                None => Decision::drop(Loss::NoRoute),
            },
            Verdict::Drop(why) => Decision::drop(why),
            Verdict::Answer(answer, why) => {
                let back = self.below.get(&answer.dst.ip()).copied().unwrap_or(edge);
                Decision::answer(why, Some((back, answer)))
            }
        }
    }

    fn inward(&mut self, uplink: EdgeId, header: &mut Header, before: Header, now: Instant) -> Decision {
        let verdict = match self.nat_mut(header.family()) {
            Some(nat) => nat.inbound(header, now),
            None => Verdict::Forward,
        };
        match verdict {
            Verdict::Forward | Verdict::Hairpin => match self.below.get(&header.dst.ip()) {
                Some(below) => Decision::forward(Fate::Passed { before }, *below),
                None => Decision::drop(Loss::NoRoute),
            },
            Verdict::Leak(why) | Verdict::Drop(why) => Decision::drop(why),
            Verdict::Answer(answer, why) => Decision::answer(why, Some((uplink, answer))),
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let nats = [&self.v4, &self.v6].into_iter().flatten();
        nats.filter_map(Nat::next_answer).min()
    }

    /// Returns a late answer of one of the NATs, to be sent up.
    pub(super) fn poll_answer(&mut self, now: Instant) -> Option<Header> {
        let nats = [&mut self.v4, &mut self.v6].into_iter().flatten();
        nats.into_iter().find_map(|nat| nat.poll_answer(now))
    }
}

//! The plan of a probe: the questions that show each property of a NAT. It is pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::nat::PortRange;
use crate::nat::observe::{Purpose, Stranger};
use crate::stun::Transport;
use crate::{Local, Seed};

/// The packets of ours that one TCP connection costs its server: SYN, ACK, request, ACK, RST.
pub(super) const TCP_PACKETS: u32 = 5;
/// The packets of a repeated question over TCP: the request and an ACK on the held connection.
pub(super) const AGAIN_PACKETS: u32 = 2;
/// The packets of being dialled back: the request as above, and a SYN-ACK and a RST to each dialler that was let in.
const DIAL_PACKETS: u32 = AGAIN_PACKETS + 2;
/// The most new mappings that show the delta.
const MOST_SAMPLES: usize = 14;

/// One step of the plan, to be done at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Asks a server.
    Ask { purpose: Purpose, local: Local, server: SocketAddr },
    /// Has a stranger answer from `from`.
    Filter { stranger: Stranger, local: Local, server: SocketAddr, from: SocketAddr },
    /// Asks a server, and lets helpers dial that port meanwhile.
    Bait { local: Local, server: SocketAddr },
    /// Dials ourselves through the outside.
    Hairpin { local: Local },
}

/// A server that has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alive {
    pub(super) address: SocketAddr,
    /// The other address of the server (RFC 5780).
    pub(super) other: Option<SocketAddr>,
    /// True when the server offers to dial back.
    pub(super) dials_back: bool,
}

/// The local ports that have not been used.
#[derive(Debug)]
pub(super) struct Ports {
    ip: IpAddr,
    base: u16,
    fresh: Vec<u16>,
    spare: u16,
}

/// The number of ports that one lane may use, from its base.
const SPAN: u16 = 600;
/// The distance of fresh ports, which is such that none follows another.
const STRIDE: u16 = 7;

impl Ports {
    pub(super) fn new(ip: IpAddr, range: PortRange, seed: &mut Seed) -> Self {
        let last = range.last.saturating_sub(SPAN).max(range.first);
        let width = u64::from(last - range.first) + 1;
        let base = (range.first + seed.below(width) as u16).min(u16::MAX - SPAN);
        let mut fresh: Vec<_> = (0..60).map(|slot| base + 100 + STRIDE * slot).collect();
        seed.shuffle(&mut fresh);
        Self { ip, base, fresh, spare: 0 }
    }

    fn at(&self, port: u16) -> Local {
        Local(SocketAddr::new(self.ip, port))
    }

    /// Returns the port for the mapping test, and another one each time.
    pub(super) fn first(&mut self) -> Local {
        self.spare = self.spare.saturating_add(2);
        self.at(self.base.saturating_add(self.spare.min(20)))
    }

    fn consecutive(&self, index: usize) -> Local {
        self.at(self.base + 40 + (index as u16).min(40))
    }

    /// Returns two neighbouring ports for a run that is tried once more.
    pub(super) fn again(&self) -> [Local; 2] {
        [82, 83].map(|above| self.at(self.base + above))
    }

    fn fresh(&mut self) -> Local {
        let port = self.fresh.pop().unwrap_or(self.base);
        self.at(port)
    }
}

/// Returns the steps that are left once some servers have answered, each with its time from now.
///
/// New mappings go out in runs of two to each server, in strict order. Two in a row show a counter per destination;
/// the change from one run to the next shows a shared one. First the local port goes up by one, then it jumps. Some
/// time later come a few more, which show the mappings of others meanwhile.
pub(super) fn rest(
    transport: Transport,
    alive: &[Alive],
    packets_each: u32,
    helpers: &[IpAddr],
    first: Local,
    ports: &mut Ports,
    (gap, rtt): (Duration, Duration),
) -> Vec<(Duration, Step)> {
    let mut steps = Vec::new();
    let (mut early, mut then) = (Vec::new(), Vec::new());
    let others: Vec<_> = alive.iter().filter_map(|server| Some((*server, server.other?))).collect();
    let cost = if transport == Transport::Tcp { TCP_PACKETS } else { 1 };
    // The first question has made one connection already.
    let mut reserved = vec![cost; alive.len()];
    let of = |server: &Alive| alive.iter().position(|known| known == server).unwrap_or(0);
    let most_others = if transport == Transport::Tcp { 1 } else { 2 };
    for (server, other) in others.iter().rev().take(most_others) {
        let server_at = SocketAddr::new(server.address.ip(), other.port());
        // Only the server's own address is asked, because the other one it names may be somebody else's.
        if server_at != server.address {
            then.push(Step::Ask { purpose: Purpose::OtherPort, local: first, server: server_at });
            reserved[of(server)] += cost;
        }
    }
    let held = alive.iter().take(2);
    for server in held.clone() {
        reserved[of(server)] += AGAIN_PACKETS;
    }
    if transport == Transport::Udp {
        let mut strangers: Vec<_> =
            others.iter().map(|(server, other)| (server, strangers(server, *other))).collect();
        strangers.sort_by_key(|(_, from)| std::cmp::Reverse(from.len()));
        for (server, from) in strangers.into_iter().take(2) {
            let local = ports.fresh();
            reserved[of(server)] += 2 * from.len() as u32;
            then.extend(from.into_iter().map(|(stranger, from)| Step::Filter {
                stranger,
                local,
                server: server.address,
                from,
            }));
        }
    }
    let bait = alive
        .iter()
        .find(|server| server.dials_back)
        .or(alive.iter().find(|server| helpers.contains(&server.address.ip())))
        .or(alive.first().filter(|_| !helpers.is_empty()))
        .filter(|_| transport == Transport::Tcp);
    if let Some(server) = bait {
        reserved[of(server)] += cost + if server.dials_back { DIAL_PACKETS } else { 0 };
    }
    let quota = |reserved: &u32| (packets_each.saturating_sub(*reserved) / cost) as usize;
    let mut order = runs(&reserved.iter().map(quota).collect::<Vec<_>>());
    // Without a packet left, the delta is worth more than a test whether mappings last.
    let asks_again = !order.is_empty();
    if !asks_again {
        held.clone().for_each(|server| reserved[of(server)] -= AGAIN_PACKETS);
        order = runs(&reserved.iter().map(quota).collect::<Vec<_>>());
    }
    let lates = usize::from(order.len() >= 2) + usize::from(order.len() >= 9);
    let early_count = order.len().saturating_sub(lates);
    let consecutive = (early_count * 7).div_ceil(12);
    for (index, server) in order.iter().take(early_count).enumerate() {
        let server = alive[*server].address;
        early.push(if index < consecutive {
            Step::Ask { purpose: Purpose::Consecutive, local: ports.consecutive(index), server }
        } else {
            Step::Ask { purpose: Purpose::Fresh, local: ports.fresh(), server }
        });
    }
    // When few packets are left, the bait shows whether ports follow each other.
    let follows = consecutive == 1 && early_count == 1;
    early.extend(bait.map(|server| Step::Bait {
        local: if follows { ports.consecutive(consecutive) } else { ports.fresh() },
        server: server.address,
    }));
    let mut at = Duration::ZERO;
    for step in early.into_iter().chain(then) {
        steps.push((at, step));
        at += gap;
    }
    at = at.max(rtt.mul_f64(2.5));
    for server in order.iter().skip(early_count) {
        let step = Step::Ask { purpose: Purpose::Late, local: ports.fresh(), server: alive[*server].address };
        steps.push((at, step));
        at += gap;
    }
    for server in held.filter(|_| asks_again) {
        steps.push((at, Step::Ask { purpose: Purpose::Again, local: first, server: server.address }));
        at += gap;
    }
    steps.push((at, Step::Hairpin { local: ports.fresh() }));
    steps
}

/// Returns the addresses that can answer for a server and are strangers to a mapping which has only sent to it. The
/// other address that a server names may be its own: coturn 4.6 does so on the second of two.
fn strangers(server: &Alive, other: SocketAddr) -> Vec<(Stranger, SocketAddr)> {
    let beside = SocketAddr::new(server.address.ip(), other.port());
    let far = (other.ip() != server.address.ip()).then_some((Stranger::OtherAddress, other));
    let near = (beside != server.address).then_some((Stranger::OtherPort, beside));
    far.into_iter().chain(near).collect()
}

/// Returns the servers in runs of two, as far as their quotas go.
fn runs(quota: &[usize]) -> Vec<usize> {
    let mut left = quota.to_vec();
    let mut order = Vec::new();
    while order.len() < MOST_SAMPLES && left.iter().any(|left| *left > 0) {
        for (server, left) in left.iter_mut().enumerate() {
            let run = (*left).min(2).min(MOST_SAMPLES - order.len());
            order.extend(std::iter::repeat_n(server, run));
            *left -= run;
        }
    }
    order
}

/// Returns the servers to begin with: one of each address, as each address has one vote.
pub(super) fn shortlist(all: impl Iterator<Item = SocketAddr>, most: usize) -> Vec<SocketAddr> {
    let mut seen = BTreeSet::new();
    all.filter(|server| seen.insert(server.ip())).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_two_within_the_quota() {
        assert_eq!(runs(&[4, 4, 3]), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2]);
        assert_eq!(runs(&[1]), [0]);
        assert_eq!(runs(&[99, 99]).len(), MOST_SAMPLES);
        assert_eq!(runs(&[]), [0_usize; 0]);
    }

    #[test]
    fn a_server_is_no_stranger_to_itself() {
        let of = |other: &str| {
            let server = Alive { address: "192.0.2.1:3478".parse().unwrap(), other: None, dials_back: false };
            strangers(&server, other.parse().unwrap())
                .into_iter()
                .map(|(stranger, _)| stranger)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("192.0.2.2:3479"), [Stranger::OtherAddress, Stranger::OtherPort]);
        assert_eq!(of("192.0.2.2:3478"), [Stranger::OtherAddress]);
        assert_eq!(of("192.0.2.1:3479"), [Stranger::OtherPort]);
        assert_eq!(of("192.0.2.1:3478"), []);
    }

    #[test]
    fn local_ports_are_never_used_twice_nor_next_to_each_other() {
        for number in 0..50 {
            let mut seed = Seed::from_u64(number);
            let range = PortRange { first: 40_000, last: 41_000 };
            let mut ports = Ports::new("192.0.2.9".parse().unwrap(), range, &mut seed);
            let alive: Vec<_> = (1..5)
                .map(|host| Alive {
                    address: format!("192.0.2.{host}:3478").parse().unwrap(),
                    other: format!("192.0.2.{}:3479", host + 100).parse().ok(),
                    dials_back: false,
                })
                .collect();
            let first = ports.first();
            let times = (Duration::from_millis(1), Duration::from_millis(40));
            let steps = rest(Transport::Udp, &alive, 15, &[], first, &mut ports, times);
            let mut used = BTreeSet::from([first.0.port()]);
            for (_, step) in &steps {
                let (local, is_new) = match *step {
                    Step::Ask { purpose, local, .. } => (local, purpose.is_new_port()),
                    Step::Filter { stranger, local, .. } => (local, stranger == Stranger::OtherAddress),
                    Step::Bait { local, .. } | Step::Hairpin { local } => (local, true),
                };
                assert_eq!(used.insert(local.0.port()), is_new, "{step:?}");
                assert!(range.contains(local.0.port()));
                if let Step::Ask { purpose: Purpose::Fresh | Purpose::Late, .. } = step {
                    assert!(!used.contains(&(local.0.port() - 1)) && !used.contains(&(local.0.port() + 1)));
                }
            }
            assert!(steps.is_sorted_by_key(|(at, _)| *at));
            let samples = steps
                .iter()
                .filter(|(_, step)| matches!(step, Step::Ask { purpose, .. } if purpose.is_new_port()));
            assert_eq!(samples.count(), MOST_SAMPLES);
        }
    }
}

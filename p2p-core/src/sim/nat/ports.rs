//! The choice of the external port of a new mapping.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::config::{Fallback, FlowConfig, PortChoice, StepScope};
use crate::Seed;
use crate::nat::PortRange;
use crate::sim::packet::Protocol;

/// The number of random ports that are tried before the range is searched one by one.
const THROWS: usize = 16;
/// The most hosts or destinations for which a counter is kept. Beyond that the lowest is forgotten.
const MOST_COUNTERS: usize = 4_096;

/// The key of a counter: the protocol, and the host or destination that it counts for.
type Counter = (Protocol, Option<IpAddr>);

#[derive(Clone, Copy, Debug)]
struct Last {
    /// The inside port, unless a host that is not simulated came after it.
    local: Option<u16>,
    mapped: u16,
}

/// The port allocator of one NAT.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    seed: Seed,
    last: BTreeMap<Counter, Last>,
    /// The time at which background flows were last accounted for.
    background_at: BTreeMap<Protocol, Instant>,
    blocks: BTreeMap<(Protocol, IpAddr, IpAddr), PortRange>,
    blocks_taken: BTreeSet<(Protocol, IpAddr, u16)>,
}

/// The mapping that a port is asked for.
pub(super) struct Asker<'a> {
    pub(super) protocol: Protocol,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The external address the port is for.
    pub(super) external: IpAddr,
    pub(super) flow: &'a FlowConfig,
    pub(super) block: Option<u16>,
    pub(super) now: Instant,
}

impl Ports {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            seed,
            last: BTreeMap::new(),
            background_at: BTreeMap::new(),
            blocks: BTreeMap::new(),
            blocks_taken: BTreeSet::new(),
        }
    }

    /// Forgets everything, as a reboot does.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.seed.fork("reboot"));
    }

    /// Returns the block of ports that a host was given.
    pub(super) fn block(&self, protocol: Protocol, external: IpAddr, host: IpAddr) -> Option<PortRange> {
        self.blocks.get(&(protocol, external, host)).copied()
    }

    /// Returns a random one of `addresses`.
    pub(super) fn pick(&mut self, addresses: &[IpAddr]) -> Option<IpAddr> {
        self.seed.pick(addresses).copied()
    }

    /// Returns a port for which `free` holds, or `None` when there is none.
    pub(super) fn choose(&mut self, asker: &Asker<'_>, mut free: impl FnMut(u16) -> bool) -> Option<u16> {
        let range = match asker.block {
            Some(size) => self.block_of(asker, size)?,
            None => asker.flow.range,
        };
        let local = asker.local.port();
        let parity = asker.flow.parity;
        let mut free = |port| (!parity || port % 2 == local % 2) && free(port);
        match asker.flow.ports {
            PortChoice::Preserve { or } => {
                if range.contains(local) && free(local) {
                    return Some(local);
                }
                match or {
                    Fallback::Random => self.random(range, free),
                    Fallback::Next => walk(range, wrap(range, i64::from(local) + 1), 1, free),
                    Fallback::Refuse => None,
                }
            }
            PortChoice::Offset { by } => {
                let start = wrap(range, i64::from(local) + i64::from(by));
                walk(range, start, 1, free)
            }
            PortChoice::Step { by, scope } => {
                let whose = match scope {
                    StepScope::Global => None,
                    StepScope::PerHost => Some(asker.local.ip()),
                    StepScope::PerDestination => Some(asker.remote.ip()),
                };
                let others = self.background(asker);
                let last = self.last.get(&(asker.protocol, whose)).copied();
                let start = match last {
                    Some(last) => {
                        let others = if whose.is_none() { others } else { 0 };
                        wrap(range, i64::from(last.mapped) + i64::from(by) * (1 + others))
                    }
                    None => self.anywhere(range),
                };
                let mapped = walk(range, start, by, free)?;
                self.remember(asker, whose, mapped);
                Some(mapped)
            }
            PortChoice::StepWhileLocalSteps { by } => {
                let alone = self.background(asker) == 0;
                let last = self.last.get(&(asker.protocol, None)).copied();
                let follows =
                    last.filter(|last| alone && last.local.and_then(|l| l.checked_add(1)) == Some(local));
                let mapped = match follows {
                    Some(last) => {
                        let start = wrap(range, i64::from(last.mapped) + i64::from(by));
                        walk(range, start, by, free)?
                    }
                    None => self.random(range, free)?,
                };
                self.remember(asker, None, mapped);
                Some(mapped)
            }
            PortChoice::Random => self.random(range, free),
        }
    }

    fn remember(&mut self, asker: &Asker<'_>, whose: Option<IpAddr>, mapped: u16) {
        let local = Some(asker.local.port());
        self.last.insert((asker.protocol, whose), Last { local, mapped });
        if self.last.len() > MOST_COUNTERS {
            self.last.pop_first();
        }
    }

    fn anywhere(&mut self, range: PortRange) -> u16 {
        range.first + self.seed.below(u64::from(range.size())) as u16
    }

    fn random(&mut self, range: PortRange, mut free: impl FnMut(u16) -> bool) -> Option<u16> {
        for _ in 0..THROWS {
            let port = self.anywhere(range);
            if free(port) {
                return Some(port);
            }
        }
        let start = self.anywhere(range);
        walk(range, start, 1, free)
    }

    /// Returns the number of flows of hosts that are not simulated since the last question. It is
    /// Poisson-distributed.
    fn background(&mut self, asker: &Asker<'_>) -> i64 {
        let rate = asker.flow.background;
        let before = self.background_at.insert(asker.protocol, asker.now);
        let Some(before) = before.filter(|_| rate > 0.0) else {
            return 0;
        };
        let mean = rate * asker.now.saturating_duration_since(before).as_secs_f64();
        if mean > 30.0 {
            // The sum of twelve uniform numbers is near enough to a normal distribution.
            let normal = (0..12).map(|_| self.seed.unit()).sum::<f64>() - 6.0;
            return (mean + normal * mean.sqrt()).max(0.0) as i64;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.seed.unit(), 0);
        while product > limit {
            product *= self.seed.unit();
            count += 1;
        }
        count
    }

    /// Returns the block of the asking host, and a random new one when it has none yet.
    fn block_of(&mut self, asker: &Asker<'_>, size: u16) -> Option<PortRange> {
        let key = (asker.protocol, asker.external, asker.local.ip());
        if let Some(block) = self.blocks.get(&key) {
            return Some(*block);
        }
        let range = asker.flow.range;
        let count = (range.size() / u32::from(size)) as u16;
        let start = self.seed.below(u64::from(count)) as u16;
        let index = (0..count)
            .map(|step| ((u32::from(start) + u32::from(step)) % u32::from(count)) as u16)
            .find(|index| !self.blocks_taken.contains(&(asker.protocol, asker.external, *index)))?;
        let first = range.first + index * size;
        let block = PortRange::new(first, first + (size - 1))?;
        self.blocks_taken.insert((asker.protocol, asker.external, index));
        self.blocks.insert(key, block);
        Some(block)
    }
}

/// Returns `port` brought into the range, as if the range were a circle.
fn wrap(range: PortRange, port: i64) -> u16 {
    let size = i64::from(range.size());
    (i64::from(range.first) + (port - i64::from(range.first)).rem_euclid(size)) as u16
}

/// Returns the first free port from `start` in steps of `by`, once round, and then any free one.
fn walk(range: PortRange, start: u16, by: i16, mut free: impl FnMut(u16) -> bool) -> Option<u16> {
    let mut port = start;
    for _ in 0..range.size() {
        if free(port) {
            return Some(port);
        }
        port = wrap(range, i64::from(port) + i64::from(by));
        if port == start {
            break;
        }
    }
    (range.first..=range.last).find(|port| free(*port))
}

//! What one side tells the other of itself: where its SYNs will come from, and what its NAT does with others'.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::nat::{Filtering, PortRange, SynAnswer};

/// Ports in one list at most.
pub const MOST_PORTS: usize = 8;
/// Ports in one run at most.
pub const MOST_RUN: u16 = 64;
/// No side announces or uses more sockets for one wave than this.
pub const MOST_SOCKETS: u16 = 1_024;
/// No more mappings of others than this are reckoned with.
const MOST_OTHERS: u16 = 96;

/// The external ports that one side's SYNs will come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ports {
    /// These, 1 … 8 of them, each for any number of destinations.
    Fixed(Vec<u16>),
    /// These, one after another, each for one destination only.
    Run {
        /// The lowest.
        first: u16,
        /// How many, 1 … 64.
        count: u16,
    },
    /// Each new mapping is the last one plus a step.
    Counter {
        /// What the next mapping gets if nobody comes between.
        next: u16,
        /// The step, not 0.
        step: i16,
        /// As many mappings of others may come between, all but certainly; 96 at most.
        others: u16,
        /// Where the counter turns round.
        pool: PortRange,
    },
    /// Nobody knows: any of these.
    Random {
        /// The range or the block.
        pool: PortRange,
    },
}

/// One side of a punch, as the other must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Its address, as the other side has to dial it.
    pub address: IpAddr,
    /// Its ports.
    pub ports: Ports,
    /// Whom its NAT lets in.
    pub filtering: Filtering,
    /// What its NAT answers to a SYN it does not let in; `None` when not known.
    pub syn: Option<SynAnswer>,
    /// Whether it can send a SYN that opens its own NAT and dies before the other one: it has found a hop between
    /// them that says nothing.
    pub quiet: bool,
    /// How many sockets it can use; at least 1.
    pub sockets: u16,
}

impl Side {
    /// Whether this can be: what comes from a peer is looked at before it is used.
    pub fn is_sound(&self) -> bool {
        let is_pool = |pool: &PortRange| pool.first > 0 && pool.first <= pool.last;
        let ports = match &self.ports {
            Ports::Fixed(ports) => (1..=MOST_PORTS).contains(&ports.len()) && !ports.contains(&0),
            Ports::Run { first, count } => {
                *first > 0 && (1..=MOST_RUN).contains(count) && first.checked_add(count - 1).is_some()
            }
            Ports::Counter { next, step, others, pool } => {
                is_pool(pool) && pool.contains(*next) && *step != 0 && *others <= MOST_OTHERS
            }
            Ports::Random { pool } => is_pool(pool),
        };
        ports && (1..=MOST_SOCKETS).contains(&self.sockets)
    }

    /// The external port of the mapping number `index`; of `index` 0 and up, in the order of their making.
    /// Wraps where a counter or a list does. `None` where nobody knows.
    pub fn port(&self, index: i32) -> Option<u16> {
        match &self.ports {
            Ports::Fixed(ports) => ports.get(usize::try_from(index).ok()? % ports.len().max(1)).copied(),
            Ports::Run { first, count } => {
                let index = u16::try_from(index).ok().filter(|index| index < count)?;
                first.checked_add(index)
            }
            Ports::Counter { next, step, pool, .. } => {
                let port = i64::from(*next) + i64::from(*step) * i64::from(index);
                let offset = (port - i64::from(pool.first)).rem_euclid(i64::from(pool.size()));
                u16::try_from(i64::from(pool.first) + offset).ok()
            }
            Ports::Random { .. } => None,
        }
    }

    /// Whether a SYN that it does not let in may get an answer that ends the dial.
    pub(crate) fn may_answer(&self) -> bool {
        self.answers() || (self.syn.is_none() && !self.is_reachable())
    }

    /// Whether it certainly does.
    pub(crate) fn answers(&self) -> bool {
        matches!(self.syn, Some(SynAnswer::Reset | SynAnswer::Icmp)) && !self.is_reachable()
    }

    /// Whether anybody who knows a port of it gets in.
    pub(crate) fn is_reachable(&self) -> bool {
        self.filtering == Filtering::EndpointIndependent && matches!(self.ports, Ports::Fixed(_))
    }
}

/// How many others may come between, all but certainly, at `rate` a second for `seconds`.
pub fn others(rate: u16, seconds: f64) -> u16 {
    let mean = f64::from(rate) * seconds.max(0.0);
    (mean + 3.0 * mean.sqrt()).ceil().clamp(0.0, f64::from(MOST_OTHERS)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(ports: Ports) -> Side {
        Side {
            address: IpAddr::from([203, 0, 113, 1]),
            ports,
            filtering: Filtering::AddressAndPortDependent,
            syn: None,
            quiet: false,
            sockets: 64,
        }
    }

    const POOL: PortRange = PortRange { first: 1_000, last: 1_009 };

    #[test]
    fn ports_follow_their_rule() {
        let ports =
            |ports: Ports| -> Vec<_> { (-1..4).map(|index| side(ports.clone()).port(index)).collect() };
        assert_eq!(ports(Ports::Fixed(vec![7, 8])), [None, Some(7), Some(8), Some(7), Some(8)]);
        assert_eq!(ports(Ports::Run { first: 9, count: 3 }), [None, Some(9), Some(10), Some(11), None]);
        let counter = Ports::Counter { next: 1_008, step: 1, others: 0, pool: POOL };
        assert_eq!(ports(counter), [1_007, 1_008, 1_009, 1_000, 1_001].map(Some));
        let counter = Ports::Counter { next: 1_001, step: -3, others: 0, pool: POOL };
        assert_eq!(ports(counter), [1_004, 1_001, 1_008, 1_005, 1_002].map(Some));
        assert_eq!(ports(Ports::Random { pool: POOL }), [None; 5]);
    }

    #[test]
    fn the_absurd_is_told() {
        let absurd = [
            Ports::Fixed(vec![]),
            Ports::Fixed(vec![0]),
            Ports::Fixed(vec![5; 10_000]),
            Ports::Run { first: 0, count: 1 },
            Ports::Run { first: 1, count: 0 },
            Ports::Run { first: 1, count: 10_000 },
            Ports::Run { first: u16::MAX, count: 2 },
            Ports::Counter { next: 1_000, step: 0, others: 0, pool: POOL },
            Ports::Counter { next: 999, step: 1, others: 0, pool: POOL },
            Ports::Counter { next: 1_000, step: 1, others: u16::MAX, pool: POOL },
            Ports::Random { pool: PortRange { first: 0, last: 5 } },
            Ports::Random { pool: PortRange { first: 6, last: 5 } },
        ];
        for ports in absurd {
            assert!(!side(ports.clone()).is_sound(), "{ports:?}");
        }
        assert!(side(Ports::Fixed(vec![1])).is_sound());
        assert!(!Side { sockets: 0, ..side(Ports::Fixed(vec![1])) }.is_sound());
        assert!(!Side { sockets: u16::MAX, ..side(Ports::Fixed(vec![1])) }.is_sound());
    }

    #[test]
    fn others_are_few_or_many() {
        assert_eq!((others(0, 5.0), others(35, 0.3), others(10, -1.0)), (0, 21, 0));
        assert_eq!(others(u16::MAX, 1e9), MOST_OTHERS);
    }
}

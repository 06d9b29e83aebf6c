//! The external ports that a NAT gives to our next mappings: the one prediction in the crate.
//!
//! | question | asked by | answered by |
//! |---|---|---|
//! | by which rule does this NAT choose ports? | table, punch, prediction | [`PortRule::of`] |
//! | out of which ports? | the same | [`pool`] |
//! | how many mappings of others come between? | the same | [`others`] |
//! | which port has mapping number n? | punch, as told by the peer | [`PortForecast::port`] |
//! | which ports are likely, and how likely? | report, figures | [`predict`](super::predict::predict) |

use serde::{Deserialize, Serialize};

use super::{DeltaKind, NatFacts, PortRange};

/// The rule by which a NAT chooses the external port of a new mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRule {
    /// The local port plus a constant, modulo 65,536; 0 where the NAT keeps ports.
    Moved {
        /// The constant.
        by: i16,
    },
    /// The last external port plus a step.
    Counter {
        /// The step in ports, not 0; negative where the NAT counts down.
        step: i16,
        /// True where the step is made only while the local port moves by one.
        is_dependent: bool,
    },
    /// No rule is known: any port of the pool.
    Random,
}

impl PortRule {
    /// Returns the rule that these facts tell. Where no delta is known, that is [`Random`](Self::Random).
    pub fn of(facts: &NatFacts) -> Self {
        let Some(delta) = facts.delta else { return Self::Random };
        match delta.kind {
            DeltaKind::Equal => Self::Moved { by: 0 },
            DeltaKind::Preserving => Self::Moved { by: delta.value },
            DeltaKind::Independent | DeltaKind::Dependent if delta.value != 0 => {
                Self::Counter { step: delta.value, is_dependent: delta.kind == DeltaKind::Dependent }
            }
            DeltaKind::Independent | DeltaKind::Dependent | DeltaKind::Random => Self::Random,
        }
    }
}

/// Returns the ports that a NAT chooses from: the block of this host, else the range, else all above those of
/// services. Port 0 is none of them.
pub fn pool(facts: &NatFacts) -> PortRange {
    let pool = facts.block.or(facts.range).unwrap_or(ANY);
    PortRange { first: pool.first.max(1), last: pool.last.max(1) }
}

/// The external ports that the next SYNs of one host will come from, as it tells its peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortForecast {
    /// These, 1 … 8 of them, each for any number of destinations.
    Fixed(Vec<u16>),
    /// These, one after another, each for one destination only.
    Run {
        /// The lowest.
        first: u16,
        /// The number of ports, 1 … 64.
        count: u16,
    },
    /// Each new mapping is the last one plus a step.
    Counter {
        /// The port that the next mapping gets if nobody comes between.
        next: u16,
        /// The step, not 0.
        step: i16,
        /// As many mappings of others may come between, all but certainly; 96 at most.
        others: u16,
        /// The ports at whose end the counter turns round.
        pool: PortRange,
    },
    /// No rule is known: any of these.
    Random {
        /// The range or the block.
        pool: PortRange,
    },
}

/// The reason why a forecast cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadForecast {
    /// A list of ports is empty or longer than [`MOST_PORTS`].
    #[error("a list of {0} ports: 1 to {MOST_PORTS} are allowed")]
    List(usize),
    /// A run of ports is empty, longer than [`MOST_RUN`] or ends beyond 65,535.
    #[error("a run of {count} ports from {first}: 1 to {MOST_RUN} are allowed, none above 65535")]
    Run {
        /// The lowest port.
        first: u16,
        /// The number of ports.
        count: u16,
    },
    /// Port 0 is in it, or a range is the wrong way round.
    #[error("port 0, or a range of ports that ends before it begins")]
    Range,
    /// A counter stands outside its pool, stands still, or expects more than [`MOST_OTHERS`] of others.
    #[error("a counter that cannot be: it stands still, is outside its range, or expects too many others")]
    Counter,
}

impl PortForecast {
    /// Checks what a peer has told, before it is used.
    ///
    /// # Errors
    /// [`BadForecast`] says what cannot be.
    pub fn validate(&self) -> Result<(), BadForecast> {
        let is_pool = |pool: &PortRange| pool.first > 0 && pool.first <= pool.last;
        match self {
            Self::Fixed(ports) if !(1..=MOST_PORTS).contains(&ports.len()) => {
                Err(BadForecast::List(ports.len()))
            }
            Self::Fixed(ports) if ports.contains(&0) => Err(BadForecast::Range),
            Self::Run { first: 0, .. } => Err(BadForecast::Range),
            Self::Run { first, count }
                if !(1..=MOST_RUN).contains(count) || first.checked_add(count - 1).is_none() =>
            {
                Err(BadForecast::Run { first: *first, count: *count })
            }
            Self::Counter { pool, .. } | Self::Random { pool } if !is_pool(pool) => Err(BadForecast::Range),
            Self::Counter { next, step, others, pool }
                if !pool.contains(*next) || *step == 0 || *others > MOST_OTHERS =>
            {
                Err(BadForecast::Counter)
            }
            _ => Ok(()),
        }
    }

    /// Returns the external port of mapping number `index`, 0 and up in the order of their making, or `None` where
    /// no rule is known. Wraps where a counter or a list does.
    pub fn port(&self, index: i32) -> Option<u16> {
        match self {
            Self::Fixed(ports) => ports.get(usize::try_from(index).ok()? % ports.len().max(1)).copied(),
            Self::Run { first, count } => {
                let index = u16::try_from(index).ok().filter(|index| index < count)?;
                first.checked_add(index)
            }
            Self::Counter { next, step, pool, .. } => {
                Some(pool.wrap(i64::from(*next) + i64::from(*step) * i64::from(index)))
            }
            Self::Random { .. } => None,
        }
    }

    /// Returns how many mappings of others may come between, all but certainly; 0 where they move nothing.
    pub fn others(&self) -> u16 {
        match self {
            Self::Counter { others, .. } => *others,
            Self::Fixed(_) | Self::Run { .. } | Self::Random { .. } => 0,
        }
    }

    /// Returns the ports that a guess is drawn from.
    pub fn pool(&self) -> PortRange {
        match self {
            Self::Counter { pool, .. } | Self::Random { pool } => *pool,
            Self::Fixed(_) | Self::Run { .. } => ANY,
        }
    }
}

/// Returns how many mappings others make in `seconds` at `rate` a second, all but certainly; 96 at most.
pub fn others(rate: u16, seconds: f64) -> u16 {
    likely(f64::from(rate) * seconds.max(0.0)).ceil().clamp(0.0, f64::from(MOST_OTHERS)) as u16
}

/// Returns a number that a count with this mean does not exceed, all but certainly.
pub(super) fn likely(mean: f64) -> f64 {
    mean + 3.0 * mean.sqrt()
}

/// Ports in one list at most.
pub const MOST_PORTS: usize = 8;
/// Ports in one run at most.
pub const MOST_RUN: u16 = 64;
/// Mappings of others that are reckoned with at most.
pub const MOST_OTHERS: u16 = 96;
/// The ports of a NAT of which no range is known.
pub(super) const ANY: PortRange = PortRange { first: 1_024, last: u16::MAX };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Delta;

    const POOL: PortRange = PortRange { first: 1_000, last: 1_009 };

    #[test]
    fn ports_follow_their_rule() {
        let ports = |ports: PortForecast| -> Vec<_> { (-1..4).map(|index| ports.port(index)).collect() };
        assert_eq!(ports(PortForecast::Fixed(vec![7, 8])), [None, Some(7), Some(8), Some(7), Some(8)]);
        let run = PortForecast::Run { first: 9, count: 3 };
        assert_eq!(ports(run), [None, Some(9), Some(10), Some(11), None]);
        let counter = PortForecast::Counter { next: 1_008, step: 1, others: 0, pool: POOL };
        assert_eq!(ports(counter), [1_007, 1_008, 1_009, 1_000, 1_001].map(Some));
        let counter = PortForecast::Counter { next: 1_001, step: -3, others: 0, pool: POOL };
        assert_eq!(ports(counter), [1_004, 1_001, 1_008, 1_005, 1_002].map(Some));
        assert_eq!(ports(PortForecast::Random { pool: POOL }), [None; 5]);
    }

    #[test]
    fn the_absurd_is_told() {
        let run = |first, count| (PortForecast::Run { first, count }, BadForecast::Run { first, count });
        let counter = |next, step, others| PortForecast::Counter { next, step, others, pool: POOL };
        let pool = |first, last| PortForecast::Random { pool: PortRange { first, last } };
        let absurd = [
            (PortForecast::Fixed(vec![]), BadForecast::List(0)),
            (PortForecast::Fixed(vec![0]), BadForecast::Range),
            (PortForecast::Fixed(vec![5; 10_000]), BadForecast::List(10_000)),
            (PortForecast::Run { first: 0, count: 1 }, BadForecast::Range),
            run(1, 0),
            run(1, 10_000),
            run(u16::MAX, 2),
            (counter(1_000, 0, 0), BadForecast::Counter),
            (counter(999, 1, 0), BadForecast::Counter),
            (counter(1_000, 1, u16::MAX), BadForecast::Counter),
            (pool(0, 5), BadForecast::Range),
            (pool(6, 5), BadForecast::Range),
        ];
        for (ports, why) in absurd {
            assert_eq!(ports.validate(), Err(why), "{ports:?}");
        }
        assert_eq!(PortForecast::Fixed(vec![1]).validate(), Ok(()));
    }

    #[test]
    fn a_counter_that_stands_still_is_no_rule() {
        let rule = |kind, value| {
            PortRule::of(&NatFacts { delta: Some(Delta { kind, value }), ..NatFacts::default() })
        };
        assert_eq!(rule(DeltaKind::Equal, 9), PortRule::Moved { by: 0 });
        assert_eq!(rule(DeltaKind::Preserving, -9), PortRule::Moved { by: -9 });
        assert_eq!(rule(DeltaKind::Independent, 2), PortRule::Counter { step: 2, is_dependent: false });
        assert_eq!(rule(DeltaKind::Dependent, 1), PortRule::Counter { step: 1, is_dependent: true });
        assert_eq!(rule(DeltaKind::Independent, 0), PortRule::Random);
        assert_eq!(rule(DeltaKind::Random, 3), PortRule::Random);
    }

    #[test]
    fn others_are_few_or_many() {
        assert_eq!((others(0, 5.0), others(35, 0.3), others(10, -1.0)), (0, 21, 0));
        assert_eq!(others(u16::MAX, 1e9), MOST_OTHERS);
    }
}

//! Which local ports a side uses for a round, and what they become outside.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::layout::brief;
use super::schedule::{Mode, NO_NAT};
use crate::attempt::{AttemptId, Role};
use crate::nat::forecast::{self, PortForecast, PortRule, others};
use crate::nat::meets;
use crate::nat::{Filtering, Mapping, NatFacts, NatType, PortRange, SynAnswer};
use crate::{Mapped, Seed};

/// Ports of one side where their outside is computed, where it is asked for, and where there is no NAT.
const COMPUTED: u16 = 6;
const OBSERVED: u16 = 4;
const LOCAL: u16 = 4;
/// The ports of a run: for pairs, and where the other side counts.
const RUN: u16 = 24;
const LONG_RUN: u16 = 64;
/// A port that is taken is replaced so often.
const MOST_REPLACED: u16 = 16;
/// From the measurement of a counter to the last dial, in seconds, where the peer must be asked first and where it
/// need not be.
const CALLER_WAITS: f64 = 0.45;
const ANSWERER_WAITS: f64 = 0.12;
/// New mappings a second that are expected of others when nothing is known of them.
const USUAL_RATE: u16 = 10;
/// Local ports that are used: above those of services.
const LOCALS: PortRange = PortRange { first: 10_000, last: 65_000 };

/// Chance that both sides of an attempt have in common.
pub(super) fn lot(attempt: AttemptId, pair: u8, round: u8, label: &str) -> Seed {
    let mut entropy = [0; 32];
    entropy[..16].copy_from_slice(&attempt.0);
    entropy[16] = pair;
    entropy[17] = round;
    Seed::new(entropy).fork(label)
}

/// How a local port becomes an external one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outside {
    /// By adding this.
    Moved(i16),
    /// By asking.
    Asked,
}

/// What decides over a round: if it is another one by now, the round should be, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    ports: std::mem::Discriminant<Kind>,
    /// Tells that the NAT ends dials that it does not let in.
    answers: bool,
    filtering: Option<Filtering>,
}

impl Basis {
    /// Returns the basis of a round with this configuration.
    pub(super) fn new(config: &GatherConfig) -> Self {
        let is_local = config.mode.is_local();
        Self {
            ports: std::mem::discriminant(&kind(config)),
            answers: !is_local && !matches!(config.facts.syn, None | Some(SynAnswer::Silence)),
            filtering: config.facts.filtering_or_guess().filter(|_| !is_local),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fixed(Outside),
    Run { by: i16 },
    Counter { step: i16, is_dependent: bool },
    Random { pool: PortRange },
}

/// What one side is, as far as ports go.
#[derive(Clone, Copy, Debug)]
pub(super) struct GatherConfig {
    pub(super) attempt: AttemptId,
    pub(super) pair: u8,
    pub(super) round: u8,
    pub(super) role: Role,
    pub(super) mode: Mode,
    pub(super) address: IpAddr,
    pub(super) facts: NatFacts,
    pub(super) can_observe: bool,
    /// The other side's NAT may count.
    pub(super) other_counts: bool,
    /// Sockets there may be.
    pub(super) sockets: u16,
    /// How often ports were chosen for this round before: those are bound.
    pub(super) begun_anew: u8,
}

/// One local port on its way to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// Waiting to hear whether it could be bound.
    Binding,
    /// Bound, and waiting for its external port.
    Asking,
    Ready(u16),
    Failed,
}

/// What to do for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Listen(u16),
    Observe(u16),
}

/// Chooses local ports, has them bound and asked for, and says what a peer must know.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    config: GatherConfig,
    kind: Kind,
    seed: Seed,
    ports: BTreeMap<u16, Port>,
    /// The local ports by number.
    locals: Vec<u16>,
    replaced: u16,
    measured: Option<(u16, Instant)>,
    pub(super) wants: Vec<Want>,
}

/// How many local ports a round of this kind may use and how many sockets it needs.
fn kind(config: &GatherConfig) -> Kind {
    let facts = &config.facts;
    let is_bare = matches!(facts.nat, Some(NatType::Open | NatType::SymmetricFirewall));
    if config.mode.is_local() || is_bare {
        return Kind::Fixed(Outside::Moved(0));
    }
    match (facts.mapping_or_guess(), PortRule::of(facts)) {
        (Some(Mapping::EndpointIndependent) | None, rule) => match rule {
            // What was computed and did not work is asked for.
            PortRule::Moved { by } if config.round == 0 || !config.can_observe => {
                Kind::Fixed(Outside::Moved(by))
            }
            _ if config.can_observe => Kind::Fixed(Outside::Asked),
            // A guess, and the best one: most routers keep ports.
            _ => Kind::Fixed(Outside::Moved(0)),
        },
        // One for each address is one for all ports of the peer.
        (Some(Mapping::AddressDependent), PortRule::Moved { by }) => Kind::Fixed(Outside::Moved(by)),
        (Some(_), PortRule::Moved { by }) => Kind::Run { by },
        (Some(_), PortRule::Counter { step, is_dependent }) if config.can_observe => {
            Kind::Counter { step, is_dependent }
        }
        (Some(_), PortRule::Counter { .. } | PortRule::Random) => {
            Kind::Random { pool: forecast::pool(facts) }
        }
    }
}

impl Gather {
    pub(super) fn new(config: GatherConfig) -> Self {
        let label = if config.role == Role::Caller { "caller ports" } else { "answerer ports" };
        let mut seed = lot(config.attempt, config.pair, config.round, label);
        if config.begun_anew > 0 {
            seed = seed.fork(&format!("anew {}", config.begun_anew));
        }
        let mut gather = Self {
            config,
            kind: kind(&config),
            seed,
            ports: BTreeMap::new(),
            locals: Vec::new(),
            replaced: 0,
            measured: None,
            wants: Vec::new(),
        };
        gather.choose();
        gather
    }

    fn choose(&mut self) {
        let sockets = self.config.sockets.max(1);
        match self.kind {
            Kind::Fixed(outside) => {
                let count = match outside {
                    _ if self.config.mode.is_local() => LOCAL,
                    Outside::Moved(_) => COMPUTED,
                    Outside::Asked => OBSERVED,
                };
                for _ in 0..count {
                    self.add();
                }
            }
            Kind::Run { by } => {
                let most = if self.config.other_counts { LONG_RUN } else { RUN };
                let count = most.min(sockets);
                let first = self.draw(by, count);
                self.locals = (first..first.saturating_add(count)).collect();
                for local in self.locals.clone() {
                    self.bind(local);
                }
            }
            Kind::Counter { .. } => {
                // The first one is asked for; the dials follow it, one port after another.
                let count = sockets.min(512);
                let first = self.draw(0, count + 1);
                self.locals = (first + 1..=first.saturating_add(count)).collect();
                self.bind(first);
            }
            Kind::Random { pool } => {
                let count = u32::from(brief(sockets)).min(pool.size()).min(meets::MOST_GUESSES) as u16;
                let first = self.draw(0, count);
                self.locals = (first..first.saturating_add(count)).collect();
            }
        }
    }

    /// The lowest of `count` neighbouring local ports whose outside, moved by `by`, is inside the range.
    fn draw(&mut self, by: i16, count: u16) -> u16 {
        let pool = forecast::pool(&self.config.facts);
        let room = u64::from(LOCALS.last - LOCALS.first - count);
        let mut first = LOCALS.first;
        for _ in 0..256 {
            first = LOCALS.first + self.seed.below(room) as u16;
            let outside = |local: u16| i32::from(local) + i32::from(by);
            let fits = |port: i32| u16::try_from(port).is_ok_and(|port| pool.contains(port));
            if self.config.mode.is_local() || (fits(outside(first)) && fits(outside(first + count))) {
                break;
            }
        }
        first
    }

    /// One more port that is not a neighbour of others.
    fn add(&mut self) {
        let by = match self.kind {
            Kind::Fixed(Outside::Moved(by)) => by,
            _ => 0,
        };
        let local = self.draw(by, 1);
        if !self.ports.contains_key(&local) {
            self.locals.push(local);
            self.bind(local);
        }
    }

    fn bind(&mut self, local: u16) {
        self.ports.insert(local, Port::Binding);
        self.wants.push(Want::Listen(local));
    }

    pub(super) fn handle_listening(&mut self, local: u16, is_listening: bool) {
        let Some(port) = self.ports.get_mut(&local).filter(|port| **port == Port::Binding) else { return };
        match (is_listening, self.kind) {
            (true, Kind::Fixed(Outside::Moved(by)) | Kind::Run { by }) => {
                *port = Port::Ready(local.wrapping_add_signed(by));
            }
            (true, _) => {
                *port = Port::Asking;
                self.wants.push(Want::Observe(local));
            }
            (false, Kind::Fixed(_)) => {
                self.ports.remove(&local);
                self.locals.retain(|other| *other != local);
                if self.replaced < MOST_REPLACED {
                    self.replaced += 1;
                    self.add();
                }
            }
            (false, Kind::Counter { .. }) if self.replaced < MOST_REPLACED => {
                self.ports.remove(&local);
                self.replaced += 1;
                self.choose();
            }
            // A gap in a run costs one pair.
            (false, _) => *port = Port::Failed,
        }
    }

    /// Takes what a server saw. Returns whether a port is ready by it.
    pub(super) fn handle_observed(&mut self, local: u16, mapped: Option<Mapped>, now: Instant) -> bool {
        let asked = self.ports.get_mut(&local).filter(|port| **port == Port::Asking);
        let Some(port) = asked else { return false };
        // From another address of ours than the peer is told, it is of no use.
        let mapped = mapped.filter(|mapped| mapped.0.ip().to_canonical() == self.config.address);
        *port = mapped.map_or(Port::Failed, |mapped| Port::Ready(mapped.0.port()));
        if let Some(mapped) = mapped {
            self.measured = Some((mapped.0.port(), now));
        }
        mapped.is_some()
    }

    /// Whether nothing more is expected.
    pub(super) fn is_done(&self) -> bool {
        self.wants.is_empty() && self.ports.values().all(|port| matches!(port, Port::Ready(_) | Port::Failed))
    }

    /// What the other side must know, and the local ports behind the numbers. `None` when nothing can be used.
    pub(super) fn finish(mut self, now: Instant) -> Option<(Endpoint, Vec<u16>)> {
        let facts = self.config.facts;
        let ports = match self.kind {
            Kind::Fixed(_) => {
                let ready = |local: &u16| match self.ports.get(local) {
                    Some(Port::Ready(port)) if *port > 0 => Some((*local, *port)),
                    _ => None,
                };
                let (locals, ports): (Vec<_>, Vec<_>) = self.locals.iter().filter_map(ready).unzip();
                self.locals = locals;
                PortForecast::Fixed(ports)
            }
            Kind::Run { by } => {
                let first = self.locals.first()?.wrapping_add_signed(by);
                PortForecast::Run { first, count: self.locals.len() as u16 }
            }
            Kind::Counter { step, is_dependent } => {
                let (last, at) = self.measured?;
                let pool = forecast::pool(&facts);
                let waits = match self.config.role {
                    Role::Caller => CALLER_WAITS,
                    Role::Answerer => ANSWERER_WAITS,
                };
                let seconds = waits + now.saturating_duration_since(at).as_secs_f64();
                let others = if is_dependent { 0 } else { others(facts.rate.unwrap_or(USUAL_RATE), seconds) };
                let next = pool.wrap(i64::from(last) + i64::from(step));
                PortForecast::Counter { next, step, others, pool }
            }
            Kind::Random { pool } => PortForecast::Random { pool },
        };
        let is_local = self.config.mode.is_local();
        let end = Endpoint {
            address: self.config.address,
            ports,
            filtering: match facts.filtering_or_guess() {
                _ if is_local => NO_NAT,
                // A mapping for one port of the peer lets no other of its ports in.
                Some(Filtering::AddressDependent)
                    if facts.mapping_or_guess() == Some(Mapping::AddressAndPortDependent) =>
                {
                    Filtering::AddressAndPortDependent
                }
                Some(filtering) => filtering,
                None => Filtering::AddressAndPortDependent,
            },
            syn: if is_local { None } else { facts.syn },
            low_ttl: false,
            sockets: self.config.sockets.max(1),
        };
        end.validate().ok().map(|()| (end, self.locals))
    }
}

/// How long slower servers are waited for at least, once one port is known.
pub(super) const OTHERS_WITHIN: Duration = Duration::from_millis(30);
/// How long all of it may take.
pub(super) const WITHIN: Duration = Duration::from_millis(1_500);

/// The first external port that a peer will use of which this is known, where it can be told beforehand: it binds
/// what both can compute, and its NAT keeps ports.
pub(super) fn foreseen(config: GatherConfig) -> Option<u16> {
    let gather = Gather::new(GatherConfig { can_observe: false, ..config });
    match gather.kind {
        Kind::Fixed(Outside::Moved(by)) | Kind::Run { by } => {
            gather.locals.first().map(|local| local.wrapping_add_signed(by))
        }
        _ => None,
    }
}

//! What a round of a punch asks for: a share of the budget, ports, a plan.

use super::api::PunchConfig;
use super::budget::Share;
use super::endpoint::Endpoint;
use super::gather::{self, GatherConfig, lot};
use super::message::Timing;
use super::schedule::{Mode, Plan};
use crate::UnixTime;
use crate::attempt::Role;
use crate::nat::forecast::PortForecast;
use crate::nat::meets::{self, Seat};
use crate::nat::{Delta, DeltaKind, Mapping, NatFacts, NatType, SynAnswer};

/// Dials a second that a punch asks for where it does not make many.
const FEW_PER_SECOND: u16 = 250;
/// Sockets that a punch asks for where it does not need many.
const FEW_SOCKETS: u16 = 96;
/// What it asks for where nothing is between: 16 dials within 1.5 s, the first few 16 ms apart.
const NEAR: Share = Share { sockets: 24, per_second: 64 };

/// The round that ports are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundAsks {
    pub(super) round: u8,
    /// How often ports were chosen for this round before.
    pub(super) begun_anew: u8,
    /// Sockets there may be.
    pub(super) sockets: u16,
}

impl PunchConfig {
    /// Returns the share that a round asks for, by what the peer says of itself.
    pub(super) fn share_for(&self, theirs: Option<&Endpoint>) -> Share {
        let limits = self.limits;
        let wanted = match self.mode {
            Mode::Lan | Mode::Machine | Mode::Interface => NEAR,
            Mode::Remote if self.is_birthday(theirs) => {
                Share { sockets: limits.sockets, per_second: limits.per_second }
            }
            Mode::Remote => Share { sockets: FEW_SOCKETS, per_second: FEW_PER_SECOND },
        };
        Share {
            sockets: wanted.sockets.min(limits.sockets),
            per_second: wanted.per_second.min(limits.per_second),
        }
    }

    /// Returns whether it will take many dials. A NAT of which nothing is known is taken for one of the kind that most
    /// are.
    fn is_birthday(&self, theirs: Option<&Endpoint>) -> bool {
        let usual = NatFacts { nat: Some(NatType::PortRestricted), ..NatFacts::default() };
        let seat = |facts: &NatFacts| {
            let is_known = facts.nat.is_some() || facts.mapping.is_some();
            Seat::new(if is_known { facts } else { &usual })
        };
        let theirs = theirs.map_or_else(|| seat(&self.theirs), Endpoint::seat);
        let chosen = meets::choose(&seat(&self.facts), &theirs);
        chosen.is_some_and(|chosen| chosen.plan == meets::Plan::Birthday)
    }

    /// Returns how the ports of a round are chosen.
    pub(super) fn ports_for(&self, theirs: Option<&Endpoint>, asks: RoundAsks) -> GatherConfig {
        let counting = |facts: &NatFacts| {
            let steps = |delta: Delta| matches!(delta.kind, DeltaKind::Independent | DeltaKind::Dependent);
            facts.delta.is_some_and(steps) && facts.mapping_or_guess() != Some(Mapping::EndpointIndependent)
        };
        GatherConfig {
            attempt: self.attempt,
            pair: self.pair,
            round: asks.round,
            role: self.role,
            mode: self.mode,
            address: self.address,
            facts: self.facts,
            can_observe: self.can_observe,
            other_counts: match theirs {
                Some(side) => matches!(side.ports, PortForecast::Counter { .. }),
                None => counting(&self.theirs),
            },
            sockets: asks.sockets,
            begun_anew: asks.begun_anew,
        }
    }

    /// Returns the port that an answerer will dial from first, where that can be told before it has answered, and a SYN to
    /// it that comes too early is not answered.
    pub(super) fn foreseen(&self, ours: &Endpoint, asks: RoundAsks) -> Option<u16> {
        let theirs = &self.theirs;
        let is_silent = theirs.syn == Some(SynAnswer::Silence) || theirs.nat == Some(NatType::Open);
        let keeps = theirs.nat.is_some_and(|nat| matches!(nat, NatType::Open | NatType::SymmetricFirewall))
            || theirs.delta.is_some_and(|delta| delta.kind == DeltaKind::Equal);
        let is_plain = matches!(ours.ports, PortForecast::Fixed(_) | PortForecast::Run { .. });
        if self.mode.is_local() || asks.round > 0 || !(is_silent && keeps && is_plain) {
            return None;
        }
        let asks = RoundAsks { begun_anew: 0, sockets: FEW_SOCKETS, ..asks };
        let config = GatherConfig {
            role: Role::Answerer,
            facts: *theirs,
            other_counts: false,
            ..self.ports_for(None, asks)
        };
        gather::foreseen(config).filter(|port| *port > 0)
    }

    /// Returns the plan of a round. Where `timing` is not agreed on yet, it only tells whether there is one.
    pub(super) fn plan(
        &self,
        round: u8,
        ours: &Endpoint,
        theirs: &Endpoint,
        timing: Option<Timing>,
    ) -> Option<Plan> {
        let any = Timing { start: UnixTime(0), lead: 1, spread: 1, step: 1 };
        let (caller, answerer) = match self.role {
            Role::Caller => (ours, theirs),
            Role::Answerer => (theirs, ours),
        };
        let mut seed = lot(self.attempt, self.pair, round, "plan");
        Plan::new(self.mode, caller, answerer, timing.unwrap_or(any), &mut seed).ok()
    }
}

//! Between which of our addresses and which of the peer's a punch is worth while, and allowed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::api::PunchConfig;
use super::message::{MOST_PAIRS, MOST_ROUNDS, Message, Step};
use super::schedule::Mode;
use super::timing::PathTiming;
use super::view::{NetworkView, View};
use crate::attempt::{AttemptId, Path, Role, Trust};
use crate::candidate::{Filter, OurAddress, is_on_link};
use crate::nat::meets::{self, Way};
use crate::nat::{NatFacts, NatType};
use crate::peer::{InterfaceAddr, PeerAddr};
use crate::{Family, Local, Reach};

/// One address of each side, and what lies between.
#[derive(Clone, Copy, Debug)]
struct Pair {
    mode: Mode,
    ours: OurAddress,
    local: SocketAddr,
    address: IpAddr,
    remote: SocketAddr,
    at: IpAddr,
    theirs: NatFacts,
}

impl Pair {
    fn config(
        &self,
        view: &View<'_>,
        attempt: AttemptId,
        number: u8,
        role: Role,
        trust: Trust,
    ) -> PunchConfig {
        let network = view.network(self.ours.ip);
        PunchConfig {
            attempt,
            pair: number,
            role,
            mode: self.mode,
            local: Local(self.local),
            address: self.address,
            remote: self.remote,
            at: self.at,
            facts: network.facts,
            theirs: self.theirs,
            can_observe: network.can_observe,
            silent_hop: network.silent_hop,
            path_timing: PathTiming { served: view.served, delay: None },
            clock: view.clock,
            limits: view.limits_for(trust),
        }
    }
}

impl PunchConfig {
    /// Reads anew what is known of both ends by now. The addresses that are bound and dialled stay, and so does all
    /// that was known of an end that is gone.
    pub(super) fn read(&mut self, view: &View<'_>, peer: &PeerAddr, trust: Trust) {
        if let Some(ours) = view.host.addresses.iter().find(|ours| ours.ip == self.local.0.ip()) {
            let network = view.network(ours.ip);
            (self.facts, self.can_observe, self.silent_hop) =
                (network.facts, network.can_observe, network.silent_hop);
            if let (Mode::Remote, Some(external)) = (self.mode, outside(ours.external, ours.ip)) {
                self.address = external.to_canonical();
            }
        }
        let is_theirs = |theirs: &&InterfaceAddr| {
            theirs.local == self.at
                && (self.mode.is_local() || outside(theirs.external, theirs.local) == Some(self.remote.ip()))
        };
        if let Some(theirs) = peer.interfaces().iter().find(is_theirs) {
            self.theirs = theirs.nat.tcp;
        }
        self.path_timing.served = view.served;
        self.clock = view.clock;
        self.limits = view.limits_for(trust);
        self.limits.rounds = self.limits.rounds.clamp(1, MOST_ROUNDS);
    }
}

/// What the caller of an attempt punches, the most promising first; 4 at most.
///
/// On one machine and on one network that is between the addresses there; across the Internet between the ones
/// others see, unless the facts say that nothing can come of it. Two that have one machine id are on one machine; where
/// others see them at different addresses they may be copies of one, and punch across the Internet too. Two peers behind
/// one NAT that are not on one network punch across it: whether it turns packets round for two homes, no home can find out
/// alone, as its own filter stands in between.
pub fn worthwhile(view: &View<'_>, peer: &PeerAddr, filter: &Filter, attempt: AttemptId) -> Vec<PunchConfig> {
    // Our user named the peer.
    let trust = Trust::Known;
    let mut found = all(view, peer, trust);
    found.retain(|pair| {
        let path = match pair.mode {
            Mode::Remote => Path::External,
            Mode::Lan => Path::Local,
            Mode::Machine | Mode::Interface => Path::Machine,
        };
        filter.paths.contains(&path) && filter.families.contains(&Family::of(pair.remote.ip()))
    });
    let cost = |pair: &Pair| {
        let network = view.network(pair.ours.ip);
        let meeting = meets::meets(&network.facts, &pair.theirs);
        let is_local = pair.mode.is_local();
        let doubt = if is_local { 0 } else { ((1.0 - meeting.probability) * 100.0) as u32 };
        let syns = if is_local { 0 } else { meeting.syns };
        (pair.mode == Mode::Remote, doubt, syns)
    };
    found.sort_by_key(cost);
    // A pair of NATs is punched once: from another address behind the same NAT it would be the same again.
    let mut seen = BTreeSet::new();
    found.retain(|pair| seen.insert((pair.mode, pair.address, pair.remote)));
    let most = usize::from(MOST_PAIRS);
    // However many interfaces both have, one pair is across the Internet: a machine's id may be a copy.
    if let Some(far) = found.iter().position(|pair| pair.mode == Mode::Remote).filter(|far| *far >= most) {
        found.swap(most - 1, far);
    }
    found.truncate(most);
    found
        .iter()
        .zip(0..)
        .map(|(pair, number)| pair.config(view, attempt, number, Role::Caller, trust))
        .collect()
}

/// What an offer asks for, if it may be answered. The peer must publish the address it wants to be dialled at, with
/// the means by which it published all others; and that address must be of the kind that we dial because somebody
/// asks: a public one, or one inside a network of ours. So an offer leads nowhere that a request to dial would not. The
/// trust in the peer decides over the limits only.
pub fn answerable(
    view: &View<'_>,
    peer: &PeerAddr,
    attempt: AttemptId,
    message: &Message,
    trust: Trust,
) -> Option<PunchConfig> {
    let Step::Offer(offer) = &message.step else { return None };
    let wanted = |pair: &&Pair| {
        pair.ours.ip == offer.at
            && pair.mode == offer.mode
            && pair.remote.ip().to_canonical() == offer.side.address.to_canonical()
    };
    if message.validate().is_err() {
        return None;
    }
    let found = all(view, peer, Trust::Stranger);
    let pair = found.iter().find(wanted)?;
    Some(pair.config(view, attempt, message.pair, Role::Answerer, trust))
}

/// Whether it is known of both where others see them, or they are near each other: if not, that is why nothing is
/// [`worthwhile`].
pub fn are_placed(view: &View<'_>, peer: &PeerAddr) -> bool {
    let is_same_machine = peer.is_on(&view.host.machine_id);
    let mut pairs = view.host.addresses.iter().flat_map(|ours| {
        let of_family = |theirs: &&InterfaceAddr| theirs.family() == Family::of(ours.ip);
        peer.interfaces().iter().filter(of_family).map(move |theirs| (ours, theirs))
    });
    pairs.any(|(ours, theirs)| {
        let far = outside(ours.external, ours.ip).and(outside(theirs.external, theirs.local));
        far.is_some() || local_pair(ours, theirs, is_same_machine).is_some()
    })
}

/// Where an address is seen from the Internet. With no server to say so, a public one is taken for what it looks like.
fn outside(external: Option<IpAddr>, own: IpAddr) -> Option<IpAddr> {
    external.or((Reach::of(own) == Reach::Global).then_some(own))
}

fn all(view: &View<'_>, peer: &PeerAddr, trust: Trust) -> Vec<Pair> {
    let is_same_machine = peer.is_on(&view.host.machine_id);
    let is_copy = is_same_machine && is_elsewhere(view, peer);
    let mut found = Vec::new();
    for ours in &view.host.addresses {
        for theirs in peer.interfaces().iter().filter(|theirs| theirs.family() == Family::of(ours.ip)) {
            let near = local_pair(ours, theirs, is_same_machine);
            found.extend(near);
            if !is_same_machine || is_copy {
                let network = view.network(ours.ip);
                let far = remote_pair(ours, &network, theirs, trust).filter(|far| {
                    let is_one_nat = far.address == far.remote.ip();
                    !(is_one_nat && near.is_some())
                });
                // Where nothing translates, both would be between the same addresses.
                let ends = |pair: &Pair| (pair.address, pair.remote.ip());
                found.extend(far.filter(|far| near.as_ref().map(ends) != Some(ends(far))));
            }
        }
    }
    found
}

/// Whether others see the peer at none of the addresses at which they see us, and see both. Then a machine id that both
/// have may be that of two copies of one machine.
fn is_elsewhere(view: &View<'_>, peer: &PeerAddr) -> bool {
    let ours: BTreeSet<_> = view.host.addresses.iter().filter_map(|ours| ours.external).collect();
    let mut theirs = peer.interfaces().iter().filter_map(|theirs| theirs.external).peekable();
    !ours.is_empty() && theirs.peek().is_some() && theirs.all(|external| !ours.contains(&external))
}

fn local_pair(ours: &OurAddress, theirs: &InterfaceAddr, is_same_machine: bool) -> Option<Pair> {
    let reach = [Reach::of(ours.ip), Reach::of(theirs.local)];
    if reach.iter().any(|reach| matches!(reach, Reach::Nowhere)) {
        return None;
    }
    let mode = if is_same_machine {
        match reach {
            _ if ours.ip == theirs.local => Mode::Interface,
            [Reach::Loopback | Reach::Link, _] | [_, Reach::Loopback | Reach::Link] => return None,
            _ => Mode::Machine,
        }
    } else {
        // A loopback address of another machine is one of ours.
        let is_near =
            reach[1] != Reach::Loopback && ours.ip != theirs.local && is_on_link(ours, theirs.local);
        is_near.then_some(Mode::Lan)?
    };
    let scoped = |ip| match SocketAddr::new(ip, 0) {
        SocketAddr::V6(mut address) if Reach::of(ip) == Reach::Link => {
            address.set_scope_id(ours.scope);
            address.into()
        }
        address => address,
    };
    Some(Pair {
        mode,
        ours: *ours,
        local: scoped(ours.ip),
        address: ours.ip,
        remote: scoped(theirs.local),
        at: theirs.local,
        theirs: theirs.nat.tcp,
    })
}

fn remote_pair(
    ours: &OurAddress,
    network: &NetworkView,
    theirs: &InterfaceAddr,
    trust: Trust,
) -> Option<Pair> {
    let (address, remote) = (outside(ours.external, ours.ip)?, outside(theirs.external, theirs.local)?);
    let may_dial = match (Reach::of(remote), trust) {
        (Reach::Global, _) => true,
        // A carrier's network (RFC 6598) or a company's, as for plain dials.
        (Reach::Site, Trust::Known) => true,
        _ => false,
    };
    let is_blocked = [network.facts.nat, theirs.nat.tcp.nat].contains(&Some(NatType::Blocked));
    if !may_dial || is_blocked {
        return None;
    }
    // With nothing known on a side it is still tried, as most NATs are kind.
    let is_known = |facts: &NatFacts| facts.nat.is_some() || facts.mapping.is_some();
    let meeting = meets::meets(&network.facts, &theirs.nat.tcp);
    let is_hopeless = !meeting.ways.iter().any(|way| *way != Way::Relay);
    if is_known(&network.facts) && is_known(&theirs.nat.tcp) && is_hopeless {
        return None;
    }
    Some(Pair {
        mode: Mode::Remote,
        ours: *ours,
        local: SocketAddr::new(ours.ip, 0),
        address,
        remote: SocketAddr::new(remote, 0),
        at: theirs.local,
        theirs: theirs.nat.tcp,
    })
}

#[cfg(test)]
#[path = "pairs_tests.rs"]
mod tests;

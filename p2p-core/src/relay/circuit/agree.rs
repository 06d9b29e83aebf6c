//! What the two ends tell each other, and what follows from it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::{
    Act, Circuit, CircuitFailure, Connections, Datagrams, Event, MOST_PEER_ADDRESSES, RelayClient, SAY_AGAIN,
    State,
};
use crate::attempt::Role;
use crate::relay::route::{End, PathChallenge, Route};
use crate::relay::{MOST_RELAYED, RelayOffer};
use crate::turn::Relaying;
use crate::{Family, Relayed};

impl Circuit {
    /// The peer has said this, in a signal that says that it is at these addresses.
    pub fn handle_offer(&mut self, offer: &RelayOffer, addresses: &[IpAddr], now: Instant) {
        let is_late = matches!(self.state, State::Lingering { .. } | State::Closing | State::Over);
        let is_old = self.theirs.as_ref().is_some_and(|last| last.serial >= offer.serial);
        let is_other = self.theirs.as_ref().is_some_and(|last| last.token != offer.token);
        if is_late || is_old || is_other || offer.refusal.is_some() || offer.validate().is_err() {
            return;
        }
        let lends_nothing = offer.is_empty();
        self.theirs = Some(offer.clone());
        let all = offer.datagrams.iter().chain(&offer.connections).copied();
        self.named.admit(&all.filter(|lent| self.config.may_reach(*lent)).collect::<Vec<_>>(), now);
        // The caller lends nothing for connections: then this end does.
        if self.config.role != Role::Caller && lends_nothing {
            self.start(Relaying::Tcp, now);
        }
        self.make_room(offer, addresses, now);
        for ip in addresses.iter().take(MOST_PEER_ADDRESSES) {
            self.permit(*ip, now);
        }
        for lent in offer.datagrams.iter().filter(|lent| self.named.contains(**lent)).collect::<Vec<_>>() {
            self.permit(lent.ip(), now);
        }
        self.dial();
        self.find_routes(now);
        if let Some((route, nonce)) = self.early.take() {
            self.on_challenge(route, PathChallenge::Question, nonce, now);
        }
        self.drain(now);
    }

    /// Where the peer was does not matter any more, when there are too many such places.
    fn make_room(&mut self, offer: &RelayOffer, addresses: &[IpAddr], now: Instant) {
        let lent = offer.datagrams.iter().map(SocketAddr::ip);
        let current = self.routes.current().map(|route| route.to.ip());
        let wanted: BTreeSet<_> =
            addresses.iter().take(MOST_PEER_ADDRESSES).copied().chain(lent).chain(current).collect();
        for client in self.clients.iter_mut().filter_map(|relay_client| relay_client.client.as_mut()) {
            client.make_room(wanted.len(), |ip| wanted.contains(&ip), now);
        }
    }

    /// Has the peer let through at all our servers, now or when they lend something.
    pub(super) fn permit(&mut self, ip: IpAddr, now: Instant) {
        for relay_client in &mut self.clients {
            if let Some(client) = &mut relay_client.client {
                // What cannot be asked for is not reached by that server, and may be by another.
                let _ = client.permit(ip, now);
            }
        }
    }

    pub(super) fn dial(&mut self) {
        // Who lends is dialled. Where both could lend, the caller does.
        let lends = self.clients[1].is_hopeful();
        if self.config.connections == Connections::Never
            || lends
            || !matches!(self.state, State::Meeting { .. } | State::Met)
        {
            return;
        }
        let theirs = self.theirs.iter().flat_map(|theirs| &theirs.connections).copied();
        let targets: Vec<_> = theirs.filter(|lent| self.named.contains(*lent)).collect();
        for lent in self.dialling.dial(&targets) {
            self.act(Act::Dial(lent));
        }
    }

    /// What became of [`Act::Dial`].
    pub fn handle_dialled(&mut self, to: SocketAddr, is_up: bool, now: Instant) {
        if self.dialling.on_dialled(to) {
            self.connections += usize::from(is_up);
            self.reconsider(now);
        }
    }

    /// A connection, one that arrived or one that was dialled, has turned out not to be the one.
    pub fn handle_connection_failed(&mut self, now: Instant) {
        self.connections = self.connections.saturating_sub(1);
        self.reconsider(now);
    }

    /// Whether a connection may yet come about.
    pub(super) fn hopes_for_connection(&self) -> bool {
        self.connections > 0 || self.dialling.is_hopeful() || self.clients[1].is_hopeful()
    }

    fn reconsider(&mut self, now: Instant) {
        if self.connections == 0 && matches!(self.state, State::Meeting { .. } | State::Met) {
            self.dialling.on_barren(now);
        }
        if matches!(self.datagrams, Datagrams::Held { .. }) && !self.hopes_for_connection() {
            self.go_up();
        }
        let is_barren = self.state == State::Met && self.datagrams == Datagrams::Waiting;
        if is_barren && self.connections == 0 {
            self.fail(CircuitFailure::Blocked(self.refused.clone().unwrap_or_default()), now);
        }
        self.drain(now);
    }

    /// Every route there may be: from each end of ours to each address that the peer was lent.
    pub(super) fn find_routes(&mut self, now: Instant) {
        let theirs = self.theirs.iter().flat_map(|theirs| &theirs.datagrams).copied();
        // In one order, whatever the peer's: what it says again in another is not news.
        let targets: BTreeSet<_> = theirs.filter(|to| self.named.contains(*to)).collect();
        let bare = targets.iter().map(|&to| Route { from: End::Bare, to });
        let is_lent = |to: &&SocketAddr| self.relayed(Relaying::Udp, Family::of(to.ip())).is_some();
        let lent = targets.iter().filter(is_lent).map(|&to| Route { from: End::Relayed, to });
        let candidates = bare.chain(lent).collect();
        self.routes.set_candidates(candidates, now);
    }

    /// What could be said now, but for the serial number.
    fn offer(&self) -> RelayOffer {
        let lent = |relaying| -> Vec<SocketAddr> {
            let relay_client =
                Some(&self.clients[super::index(relaying)]).filter(|relay_client| relay_client.is_hopeful());
            let lease = relay_client.and_then(|relay_client| relay_client.client.as_ref()?.lease());
            let all = lease.into_iter().flat_map(|(_, _, lease)| lease.relayed.iter());
            all.map(|Relayed(address)| *address).take(MOST_RELAYED).collect()
        };
        let has_more =
            self.clients.iter().any(|relay_client| relay_client.is_hopeful() && !relay_client.has_relayed);
        let (datagrams, connections) = (lent(Relaying::Udp), lent(Relaying::Tcp));
        RelayOffer { serial: 0, token: self.token, datagrams, connections, has_more, refusal: None }
    }

    /// Tells the peer what it does not know yet.
    pub(super) fn say(&mut self, now: Instant) {
        let is_live = matches!(self.state, State::Meeting { .. } | State::Met | State::Kept);
        if !is_live || (self.config.role != Role::Caller && self.theirs.is_none()) {
            return;
        }
        let serial = self.saying.last.as_ref().map_or(0, |last| last.serial);
        let offer = RelayOffer { serial, ..self.offer() };
        if self.saying.last.as_ref() == Some(&offer) {
            return;
        }
        // What only ends is not worth a signal: an address that is gone is found to be.
        let offer = RelayOffer { serial: serial.saturating_add(1), ..offer };
        self.saying.again = Some((0, now + SAY_AGAIN[0]));
        self.saying.last = Some(offer.clone());
        self.act(Act::Signal(offer));
    }

    /// A signal may be lost behind the broker.
    pub(super) fn say_again(&mut self, now: Instant) {
        let Some((times, at)) = self.saying.again else { return };
        if at > now {
            return;
        }
        if self.datagrams == Datagrams::Up && !self.routes.is_open() {
            self.saying.again = None;
            return;
        }
        self.saying.again =
            SAY_AGAIN.get(times + 1).map(|after| (times + 1, at + (*after - SAY_AGAIN[times])));
        if let Some(last) = &self.saying.last {
            self.act(Act::Signal(last.clone()));
        }
    }

    /// Whether all that could be said was, and it is not enough.
    pub(super) fn check(&mut self, now: Instant) {
        if !matches!(self.state, State::Meeting { .. }) {
            return;
        }
        let has_nothing = !self.clients.iter().any(RelayClient::is_hopeful);
        if has_nothing && self.connections == 0 && self.theirs.as_ref().is_some_and(RelayOffer::is_empty) {
            let failed: Vec<_> =
                self.clients.iter().filter_map(|relay_client| relay_client.failed.clone()).collect();
            let failure = match failed.first() {
                None => CircuitFailure::NoServer,
                Some(first) => CircuitFailure::NoAddress(first.clone()),
            };
            self.fail(failure, now);
        }
    }

    /// Time is up.
    pub(super) fn give_up(&mut self, now: Instant) {
        if self.connections > 0 {
            self.state = State::Met;
            return;
        }
        let failure = match &self.theirs {
            None => CircuitFailure::Silent,
            Some(_) => {
                let failed = self.clients.iter().find_map(|relay_client| relay_client.failed.clone());
                CircuitFailure::Blocked(self.refused.clone().or(failed).unwrap_or_default())
            }
        };
        self.fail(failure, now);
    }

    fn fail(&mut self, failure: CircuitFailure, now: Instant) {
        self.close(now);
        // Before `Closed`, which may be there already.
        self.out.push_front(crate::Output::Event(Event::Failed(failure)));
    }

    pub(super) fn go_up(&mut self) {
        if self.datagrams != Datagrams::Up {
            self.datagrams = Datagrams::Up;
            self.state = match self.state {
                State::Meeting { .. } => State::Met,
                state => state,
            };
            self.tell(Event::Up);
        }
    }
}

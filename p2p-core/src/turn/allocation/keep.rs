//! The effects of answers and of time on an allocation.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{
    Allocation, ConnectionId, Event, MOST_MISSES, Pulse, Purpose, SOONEST, SUSPICION_PAUSE, Standing, State,
};
use crate::stun::transaction::Fault;
use crate::stun::{Attribute, Message, Method};
use crate::turn::credentials::LongTermAuth;
use crate::turn::errand::Draft;
use crate::turn::{Carrier, Failure, Packet};
use crate::{Backoff, Output};

/// The longest lifetime that is taken from a server.
const LONGEST_LIFETIME: Duration = Duration::from_secs(3_600);

impl Allocation {
    pub(super) fn on_success(&mut self, purpose: Purpose, began: Instant, message: &Message, now: Instant) {
        if matches!(self.state, State::Closing { .. }) {
            return match purpose {
                Purpose::Allocate => self.say_farewell(now),
                _ => self.end_closing(),
            };
        }
        match purpose {
            Purpose::Allocate => return self.on_allocated(began, message, now),
            Purpose::Refresh => match lifetime(message) {
                Some(lifetime) => self.on_refreshed(began, lifetime, now),
                None => return self.on_failure(purpose, Failure::Missing("lifetime"), now),
            },
            Purpose::Permit(ips) => ips.into_iter().for_each(|ip| self.on_permitted(ip, began)),
            Purpose::Bind(peer) => {
                // A channel brings its permission along (RFC 8656, section 12.2).
                self.on_permitted(peer.ip(), began);
                if self.peers.on_bound(peer, began) {
                    self.tell(Event::Bound(peer));
                }
            }
            Purpose::Connect(peer) => {
                let id = message.find(|attribute| match attribute {
                    Attribute::ConnectionId(id) => Some(ConnectionId(*id)),
                    _ => None,
                });
                self.tell(match id {
                    Some(connection) => Event::Connected { peer, connection },
                    None => Event::NotConnected { peer, failure: Failure::Missing("connection id") },
                });
            }
            Purpose::Farewell => {}
        }
        if let State::Standing(standing) = &mut self.state {
            standing.retry.reset();
            if std::mem::take(&mut standing.is_troubled) {
                self.tell(Event::Recovered);
            }
        }
    }

    fn on_permitted(&mut self, ip: IpAddr, began: Instant) {
        if self.peers.on_permitted(ip, began) {
            self.tell(Event::Permitted(ip));
        }
    }

    fn on_refreshed(&mut self, began: Instant, lifetime: Duration, now: Instant) {
        if let State::Standing(standing) = &mut self.state {
            standing.lease.lifetime = lifetime;
            standing.ends = began + lifetime;
            standing.refresh = (began + lifetime / 2).max(now + SOONEST);
            self.peers.suit(lifetime);
        }
    }

    fn on_allocated(&mut self, began: Instant, message: &Message, now: Instant) {
        let lease = match self.lease_of(message) {
            Ok(lease) => lease,
            Err(failure) => return self.on_failure(Purpose::Allocate, failure, now),
        };
        let State::Asking { is_first, .. } = self.state else { return };
        tracing::info!(server = %self.config.server, carrier = %self.config.carrier, ?lease, "TURN allocation");
        let lifetime = lease.lifetime;
        self.state = State::Standing(Box::new(Standing {
            lease: lease.clone(),
            ends: began + lifetime,
            refresh: (began + lifetime / 2).max(now + SOONEST),
            checked: now,
            is_troubled: false,
            retry: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            calm_until: now,
        }));
        self.peers.suit(lifetime);
        self.peers.reset(now);
        if self.config.carrier == Carrier::Udp {
            self.pulse = Pulse { at: Some(now + self.keep_alive()), ..Pulse::default() };
        }
        self.tell(if is_first { Event::Allocated(lease) } else { Event::Moved(lease) });
    }

    pub(super) fn on_failure(&mut self, purpose: Purpose, failure: Failure, now: Instant) {
        tracing::debug!(server = %self.config.server, carrier = %self.config.carrier, ?purpose, %failure, "TURN request failed");
        match &self.state {
            State::Over => {}
            State::Closing { .. } => self.end_closing(),
            State::Asking { .. } => self.on_not_allocated(failure, now),
            State::Standing(_) if failure.is_signed() && failure.code() == Some(437) => {
                self.ask_anew(false, now);
            }
            State::Standing(_) if failure.is_signed() && failure.code() == Some(441) => {
                self.end(Event::Failed(failure));
            }
            State::Standing(_) => self.on_unrenewed(purpose, failure, now),
        }
    }

    /// Handles the failure of a request other than the first, which ends nothing.
    fn on_unrenewed(&mut self, purpose: Purpose, failure: Failure, now: Instant) {
        let is_no = failure.is_signed() && failure.code() != Some(400);
        match &purpose {
            Purpose::Permit(ips) if is_no => {
                if self.peers.on_refused(ips, now) {
                    let ip = ips[0];
                    self.peers.forget(ip, now);
                    self.tell(Event::Refused(ip, failure));
                }
                return;
            }
            Purpose::Permit(ips) => self.peers.retry_permissions(ips, now),
            Purpose::Bind(peer) => {
                self.peers.retry_channel(*peer, is_no, now);
                if is_no {
                    return;
                }
            }
            Purpose::Connect(peer) => {
                let peer = *peer;
                return self.tell(Event::NotConnected { peer, failure });
            }
            Purpose::Refresh | Purpose::Allocate | Purpose::Farewell => {}
        }
        let State::Standing(standing) = &mut self.state else { return };
        if purpose == Purpose::Refresh {
            standing.refresh = now + standing.retry.fail(&mut self.seed).max(SOONEST);
        }
        let is_suspicion = !failure.is_silence() && now >= standing.calm_until;
        if !std::mem::replace(&mut standing.is_troubled, true) {
            self.out.push_back(Output::Event(Event::Trouble(failure)));
        }
        if is_suspicion {
            self.ask_anew(true, now);
        }
    }

    /// Asks for another allocation from the same port. A server that still has the old one will say so, signed.
    fn ask_anew(&mut self, may_stand: bool, now: Instant) {
        let State::Standing(standing) = std::mem::replace(&mut self.state, State::Over) else { return };
        self.drop_errands(|_, _| false);
        self.peers.ask_again(now);
        let old = if may_stand {
            // The sender of the refusal may have lied about the realm as well, so the login begins anew.
            let fresh = LongTermAuth::new(self.config.credentials.clone());
            Some(Box::new((*standing, std::mem::replace(&mut self.login, fresh))))
        } else {
            self.peers.reset(now);
            None
        };
        self.pulse.asked = None;
        self.state = State::Asking { old, is_first: false };
        self.ask(now);
    }

    fn on_not_allocated(&mut self, failure: Failure, now: Instant) {
        let State::Asking { old, .. } = &mut self.state else { return };
        if let Some(old) = old.take() {
            let (mut standing, login) = *old;
            self.login = login;
            standing.calm_until = now + SUSPICION_PAUSE;
            standing.refresh = standing.refresh.max(now + SOONEST);
            self.peers.ask_again(now + SOONEST);
            self.state = State::Standing(Box::new(standing));
            return;
        }
        let failure = match failure {
            Failure::Fault(Fault::Refused { code: 300, message, .. }) => redirection(&message),
            failure => failure,
        };
        self.end(Event::Failed(failure));
    }

    /// Does what is due.
    pub(super) fn settle(&mut self, now: Instant) {
        if let State::Closing { until } = self.state
            && until <= now
        {
            return self.end(Event::Closed);
        }
        if let State::Standing(standing) = &self.state
            && standing.ends <= now
        {
            self.ask_anew(false, now);
        }
        let is_refreshing = self.is_refreshing();
        let State::Standing(standing) = &mut self.state else { return };
        if standing.refresh <= now && !is_refreshing {
            standing.checked = now;
            self.begin(Purpose::Refresh, Draft::new(Method::REFRESH), now);
        }
        self.ask_for_peers(now);
        self.beat(now);
    }

    fn ask_for_peers(&mut self, now: Instant) {
        while matches!(self.state, State::Standing(_)) {
            let ips = self.peers.take_permissions(now);
            if ips.is_empty() {
                break;
            }
            let draft = ips.iter().fold(Draft::new(Method::CREATE_PERMISSION), |draft, ip| {
                draft.with(Attribute::XorPeerAddress(SocketAddr::new(*ip, 0)))
            });
            self.begin(Purpose::Permit(ips), draft, now);
        }
        while matches!(self.state, State::Standing(_))
            && let Some((number, peer)) = self.peers.take_channel(now)
        {
            let draft = Draft::new(Method::CHANNEL_BIND)
                .with(Attribute::ChannelNumber(number.number()))
                .with(Attribute::XorPeerAddress(peer));
            self.begin(Purpose::Bind(peer), draft, now);
        }
    }

    /// Sends one Binding request, not repeated and not signed, because NATs care for packets only.
    fn beat(&mut self, now: Instant) {
        if self.pulse.at.is_none_or(|at| at > now) || !matches!(self.state, State::Standing(_)) {
            return;
        }
        let request = Message::binding(&mut self.seed);
        self.pulse.misses = match self.pulse.asked.replace(request.transaction) {
            Some(_) if self.pulse.is_heard => self.pulse.misses + 1,
            _ => 0,
        };
        self.pulse.at = Some(now + self.keep_alive());
        let bytes = request.encode(self.config.carrier.transport()).expect("an empty request can be written");
        self.out.push_back(Output::Act(Packet::message(bytes)));
        if self.pulse.misses >= MOST_MISSES {
            self.pulse.misses = 0;
            self.handle_doubt(now);
        }
    }
}

/// Returns LIFETIME, unless it is missing or zero.
pub(super) fn lifetime(message: &Message) -> Option<Duration> {
    let seconds = message.find(|attribute| match attribute {
        Attribute::Lifetime(seconds) => Some(*seconds),
        _ => None,
    })?;
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(LONGEST_LIFETIME))
}

/// Returns the redirection of a 300.
fn redirection(refusal: &Message) -> Failure {
    let to = refusal.find(|attribute| match attribute {
        Attribute::AlternateServer(to) => Some(*to),
        _ => None,
    });
    // The name goes into a certificate check and into reports: what is no name is none.
    let is_name = |domain: &String| {
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        !domain.is_empty() && domain.bytes().all(is_of_name)
    };
    let domain = refusal.find(|attribute| match attribute {
        Attribute::AlternateDomain(domain) => Some(domain.clone()).filter(is_name),
        _ => None,
    });
    to.map_or(Failure::Missing("alternate server"), |to| Failure::Redirected { to, domain })
}

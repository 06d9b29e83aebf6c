//! The permissions and channels of peers (RFC 8656, sections 9 to 12).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::MOST_PEERS;
use super::output::Misuse;
use crate::Deadline;
use crate::turn::ChannelNumber;

/// The time that a server keeps a permission (RFC 8656, section 9).
const PERMISSION_LIFE: Duration = Duration::from_secs(300);
/// The time after which it is renewed. Two lost requests of 9.5 s fit in between.
const PERMISSION_RENEWAL: Duration = Duration::from_secs(240);
/// The time within which later renewals are made along with those that are due now.
const TOGETHER: Duration = Duration::from_secs(60);
/// The most peers in one CreatePermission.
const MOST_TOGETHER: usize = 16;
/// The time that a server keeps a channel (RFC 8656, section 12), and the time after which it is renewed.
const CHANNEL_LIFE: Duration = Duration::from_secs(600);
const CHANNEL_RENEWAL: Duration = Duration::from_secs(300);
/// The time after its end in which a number may not be given to another peer (RFC 8656, section 12).
const CHANNEL_REST: Duration = Duration::from_secs(300);
/// The shortest time between renewals. A server may keep permissions and channels for less time than it should,
/// without saying so. Then they are renewed more often, but never more often than this.
const SHORTEST_RENEWAL: Duration = Duration::from_secs(15);
/// The pause after a renewal that failed for now.
const RETRY: Duration = Duration::from_secs(3);

/// The next step of a permission or channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Due(Instant),
    Asked,
}

impl Step {
    fn due(self) -> Option<Instant> {
        match self {
            Self::Due(at) => Some(at),
            Self::Asked => None,
        }
    }
}

#[derive(Debug)]
struct Permission {
    step: Step,
    /// The time until which the server keeps it; `None` until it has said so.
    until: Option<Instant>,
    /// True when it is asked for alone, because a request for several was refused.
    is_alone: bool,
}

#[derive(Debug)]
struct Channel {
    number: ChannelNumber,
    step: Step,
    until: Option<Instant>,
}

/// The route by which data reaches a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Channel(ChannelNumber),
    Indication,
}

/// The peers of one allocation.
#[derive(Debug)]
pub(super) struct Peers {
    permissions: BTreeMap<IpAddr, Permission>,
    channels: BTreeMap<SocketAddr, Channel>,
    numbers: BTreeMap<ChannelNumber, SocketAddr>,
    /// The numbers no longer used, each with its peer and the time until which no other peer may have it.
    resting: BTreeMap<ChannelNumber, (SocketAddr, Instant)>,
    next: ChannelNumber,
    /// The longest time after which permissions and channels are renewed.
    renewal: Duration,
}

impl Peers {
    pub(super) fn new() -> Self {
        Self {
            renewal: CHANNEL_RENEWAL,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            numbers: BTreeMap::new(),
            resting: BTreeMap::new(),
            next: ChannelNumber::FIRST,
        }
    }

    /// Asks for a permission, at once.
    pub(super) fn permit(&mut self, ip: IpAddr, now: Instant) -> Result<(), Misuse> {
        if self.permissions.len() >= MOST_PEERS && !self.permissions.contains_key(&ip) {
            return Err(Misuse::TooManyPeers);
        }
        let wanted = Permission { step: Step::Due(now), until: None, is_alone: false };
        self.permissions.entry(ip).or_insert(wanted);
        Ok(())
    }

    /// Asks for a channel, at once. When all numbers are used or resting there is none, and indications must do.
    pub(super) fn bind(&mut self, peer: SocketAddr, now: Instant) -> Result<(), Misuse> {
        if self.channels.contains_key(&peer) {
            return Ok(());
        }
        if self.channels.len() >= MOST_PEERS {
            return Err(Misuse::TooManyPeers);
        }
        if let Some(number) = self.pick(peer, now) {
            self.numbers.insert(number, peer);
            self.channels.insert(peer, Channel { number, step: Step::Due(now), until: None });
        }
        Ok(())
    }

    fn pick(&mut self, peer: SocketAddr, now: Instant) -> Option<ChannelNumber> {
        self.resting.retain(|_, (_, until)| *until > now);
        let own = self.resting.iter().find(|(_, (whose, _))| *whose == peer).map(|(number, _)| *number);
        let number = own.or_else(|| {
            let mut all = std::iter::successors(Some(self.next), |number| Some(number.next())).take(0x1000);
            all.find(|number| !self.numbers.contains_key(number) && !self.resting.contains_key(number))
        })?;
        self.resting.remove(&number);
        if own.is_none() {
            self.next = number.next();
        }
        Some(number)
    }

    /// Renews nothing for this address any more.
    pub(super) fn forget(&mut self, ip: IpAddr, now: Instant) {
        self.permissions.remove(&ip);
        let of_ip: Vec<_> = self.channels.keys().filter(|peer| peer.ip() == ip).copied().collect();
        for peer in of_ip {
            self.unbind(peer, now);
        }
    }

    fn unbind(&mut self, peer: SocketAddr, now: Instant) {
        if let Some(channel) = self.channels.remove(&peer) {
            self.numbers.remove(&channel.number);
            // A channel that was asked for may exist, from now on at the latest.
            let until = channel.until.unwrap_or(now + CHANNEL_LIFE) + CHANNEL_REST;
            self.resting.insert(channel.number, (peer, until));
        }
    }

    /// Notes that the server knows nothing of all these any more.
    pub(super) fn reset(&mut self, now: Instant) {
        self.resting.clear();
        for permission in self.permissions.values_mut() {
            *permission = Permission { step: Step::Due(now), until: None, is_alone: false };
        }
        for channel in self.channels.values_mut() {
            (channel.step, channel.until) = (Step::Due(now), None);
        }
    }

    /// Asks again for what was asked for and will not be answered.
    pub(super) fn ask_again(&mut self, now: Instant) {
        let permissions = self.permissions.values_mut().map(|permission| &mut permission.step);
        let channels = self.channels.values_mut().map(|channel| &mut channel.step);
        permissions.chain(channels).filter(|step| **step == Step::Asked).for_each(|step| {
            *step = Step::Due(now);
        });
    }

    /// Renews more often when the server lends the address itself for a short time. Then the server may keep
    /// permissions and channels for a short time too, against RFC 8656, and does not say so.
    pub(super) fn suit(&mut self, lifetime: Duration) {
        self.renewal = self.renewal.min(lifetime / 2).max(SHORTEST_RENEWAL);
    }

    /// Renews everything now, because data gets no answer. If a permission or channel had stood for less time than it
    /// should, the server may keep it no longer.
    pub(super) fn doubt(&mut self, now: Instant) {
        let permissions =
            self.permissions.values_mut().map(|one| (&mut one.step, one.until, PERMISSION_LIFE));
        let channels = self.channels.values_mut().map(|one| (&mut one.step, one.until, CHANNEL_LIFE));
        for (step, until, life) in permissions.chain(channels) {
            let Some(left) = until.map(|until| until.saturating_duration_since(now)) else { continue };
            if *step != Step::Asked {
                *step = Step::Due(now);
                let age = life.saturating_sub(left);
                self.renewal = self.renewal.min(age / 2).max(SHORTEST_RENEWAL);
            }
        }
    }

    pub(super) fn is_permitted(&self, ip: IpAddr) -> bool {
        self.permissions.contains_key(&ip)
    }

    /// Returns the peer that a channel belongs to, bound or about to be.
    pub(super) fn peer(&self, number: ChannelNumber) -> Option<SocketAddr> {
        self.numbers.get(&number).copied()
    }

    /// Returns the route by which data reaches `peer`; `None` until the server has let it through.
    pub(super) fn route(&self, peer: SocketAddr, now: Instant) -> Option<Route> {
        if let Some(channel) = self.channels.get(&peer).filter(|channel| channel.until > Some(now)) {
            return Some(Route::Channel(channel.number));
        }
        self.permissions.get(&peer.ip()).and_then(|permission| permission.until)?;
        Some(Route::Indication)
    }

    /// Takes the addresses to ask a permission for in one request now.
    pub(super) fn take_permissions(&mut self, now: Instant) -> Vec<IpAddr> {
        let is_due = |permission: &Permission, by: Instant| permission.step.due().is_some_and(|at| at <= by);
        let mut due = self.permissions.iter_mut().filter(|(_, permission)| is_due(permission, now));
        if let Some((ip, permission)) = due.find(|(_, permission)| permission.is_alone) {
            permission.step = Step::Asked;
            return vec![*ip];
        }
        if !self.permissions.values().any(|permission| is_due(permission, now)) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for (ip, permission) in &mut self.permissions {
            if taken.len() < MOST_TOGETHER && !permission.is_alone && is_due(permission, now + TOGETHER) {
                permission.step = Step::Asked;
                taken.push(*ip);
            }
        }
        taken
    }

    /// Takes a channel to ask for now.
    pub(super) fn take_channel(&mut self, now: Instant) -> Option<(ChannelNumber, SocketAddr)> {
        let mut channels = self.channels.iter_mut();
        let (peer, channel) = channels.find(|(_, channel)| channel.step.due().is_some_and(|at| at <= now))?;
        channel.step = Step::Asked;
        Some((channel.number, *peer))
    }

    /// Notes that the server granted a permission asked for at `began`. Returns true when that is news.
    pub(super) fn on_permitted(&mut self, ip: IpAddr, began: Instant) -> bool {
        let Some(permission) = self.permissions.get_mut(&ip) else { return false };
        permission.step = Step::Due(began + PERMISSION_RENEWAL.min(self.renewal));
        permission.is_alone = false;
        permission.until.replace(began + PERMISSION_LIFE).is_none()
    }

    /// Notes that the server granted a channel. Returns true when that is news.
    pub(super) fn on_bound(&mut self, peer: SocketAddr, began: Instant) -> bool {
        let Some(channel) = self.channels.get_mut(&peer) else { return false };
        channel.step = Step::Due(began + CHANNEL_RENEWAL.min(self.renewal));
        channel.until.replace(began + CHANNEL_LIFE).is_none()
    }

    /// Notes that the server refused all of these, with proof, so each is asked for alone. Returns true when there
    /// was only one.
    pub(super) fn on_refused(&mut self, ips: &[IpAddr], now: Instant) -> bool {
        if ips.len() == 1 {
            return true;
        }
        for ip in ips {
            if let Some(permission) = self.permissions.get_mut(ip) {
                (permission.step, permission.is_alone) = (Step::Due(now), true);
            }
        }
        false
    }

    /// Notes that a request for permissions failed for now.
    pub(super) fn retry_permissions(&mut self, ips: &[IpAddr], now: Instant) {
        for ip in ips {
            if let Some(permission) = self.permissions.get_mut(ip) {
                permission.step = Step::Due(now + RETRY);
            }
        }
    }

    /// Notes that a request for a channel failed for now, or, after a refusal, for as long as a channel is good.
    pub(super) fn retry_channel(&mut self, peer: SocketAddr, is_refused: bool, now: Instant) {
        let pause = if is_refused { CHANNEL_RENEWAL } else { RETRY };
        if let Some(channel) = self.channels.get_mut(&peer) {
            channel.step = Step::Due(now + pause);
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let permissions = self.permissions.values().filter_map(|permission| permission.step.due()).min();
        let channels = self.channels.values().filter_map(|channel| channel.step.due()).min();
        Deadline::earliest([
            permissions.map(|at| Deadline::new(at, "TURN permission")),
            channels.map(|at| Deadline::new(at, "TURN channel")),
        ])
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;

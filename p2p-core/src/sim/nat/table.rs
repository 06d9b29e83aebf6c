//! The mappings and sessions of a NAT, and their expiry.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use super::track::Track;
use crate::nat::{Filtering, Mapping};
use crate::sim::packet::Protocol;

/// The pause between two searches for expired sessions that nobody asks for.
const SWEEP: Duration = Duration::from_secs(30);
/// The pause between two searches of a full table for expired sessions.
const SWEEP_FULL: Duration = Duration::from_millis(100);

/// The key of a session: protocol, external end, remote end.
pub(super) type SessionKey = (Protocol, SocketAddr, SocketAddr);

/// The key of a mapping: protocol, inside end, and as much of the remote end as the mapping depends on.
pub(super) type MappingKey = (Protocol, SocketAddr, SocketAddr);

/// An inside endpoint and the external endpoint that stands for it. It lives while it has a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding {
    pub(super) key: MappingKey,
    pub(super) external: SocketAddr,
    sessions: u32,
}

impl Binding {
    pub(super) fn local(&self) -> SocketAddr {
        self.key.1
    }
}

/// The state of a session's flow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flow {
    Tcp(Track),
    Datagrams { out: bool, inbound: bool },
}

/// The packets between a mapping and one remote end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) binding: u32,
    pub(super) flow: Flow,
    pub(super) expires: Instant,
}

/// All mappings and sessions of one NAT.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    bindings: BTreeMap<u32, Binding>,
    next: u32,
    by_key: BTreeMap<MappingKey, u32>,
    by_external: BTreeSet<(Protocol, SocketAddr, u32)>,
    per_host: BTreeMap<IpAddr, u32>,
    sessions: BTreeMap<SessionKey, Session>,
    /// Sessions that strangers have begun, by protocol, inside end and remote end: answers go through the mapping that let
    /// the stranger in, whatever mapping a packet of our own would get.
    begun_outside: BTreeMap<(Protocol, SocketAddr, SocketAddr), SessionKey>,
    /// The 4-tuples that the NAT itself uses, because it has answered for them.
    held: BTreeMap<SessionKey, Instant>,
    swept_at: Option<Instant>,
}

/// Returns the key of the mapping that `local` uses towards `remote`.
pub(super) fn mapping_key(
    protocol: Protocol,
    local: SocketAddr,
    remote: SocketAddr,
    mapping: Mapping,
) -> MappingKey {
    let scope = match mapping {
        Mapping::EndpointIndependent => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        Mapping::AddressDependent => SocketAddr::new(remote.ip(), 0),
        Mapping::AddressAndPortDependent => remote,
    };
    (protocol, local, scope)
}

const LOWEST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const HIGHEST: SocketAddr = SocketAddr::V6(SocketAddrV6::new(
    Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff),
    u16::MAX,
    u32::MAX,
    u32::MAX,
));

impl Table {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn mappings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.values()
    }

    pub(super) fn mapping_count(&self) -> usize {
        self.bindings.len()
    }

    pub(super) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn mapping_count_of(&self, host: IpAddr) -> u32 {
        self.per_host.get(&host).copied().unwrap_or(0)
    }

    pub(super) fn binding(&self, id: u32) -> Option<&Binding> {
        self.bindings.get(&id)
    }

    /// Returns the session with this key, unless it has expired.
    pub(super) fn session(&mut self, key: SessionKey, now: Instant) -> Option<&mut Session> {
        if self.sessions.get(&key)?.expires <= now {
            self.remove(key);
            return None;
        }
        self.sessions.get_mut(&key)
    }

    /// Returns the mapping with this key and its external endpoint, live or not.
    pub(super) fn find(&self, key: MappingKey) -> Option<(u32, SocketAddr)> {
        let id = *self.by_key.get(&key)?;
        Some((id, self.bindings.get(&id)?.external))
    }

    /// Returns the mapping with this key, if it has a live session.
    pub(super) fn find_live(&mut self, key: MappingKey, now: Instant) -> Option<(u32, SocketAddr)> {
        let (id, external) = self.find(key)?;
        self.purge(key.0, external, now);
        // A session there may belong to another mapping, where ports are overloaded.
        let all = (key.0, external, LOWEST)..=(key.0, external, HIGHEST);
        let mut own = self.sessions.range(all).filter(|(_, session)| session.binding == id);
        if own.any(|(_, session)| session.expires > now) {
            return Some((id, external));
        }
        let all = (key.0, external, LOWEST)..=(key.0, external, HIGHEST);
        let own = self.sessions.range(all).filter(|(_, session)| session.binding == id);
        for key in own.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.remove(key);
        }
        None
    }

    /// Removes expired sessions of one external endpoint, up to the first that lives. A mapping without a live
    /// session is gone afterwards.
    fn purge(&mut self, protocol: Protocol, external: SocketAddr, now: Instant) {
        let all = (protocol, external, LOWEST)..=(protocol, external, HIGHEST);
        while let Some((key, session)) = self.sessions.range(all.clone()).next() {
            if session.expires > now {
                return;
            }
            let key = *key;
            self.remove(key);
        }
    }

    /// Tells whether a new mapping may have this external endpoint.
    pub(super) fn is_free(
        &mut self,
        protocol: Protocol,
        external: SocketAddr,
        remote: SocketAddr,
        overload: bool,
        now: Instant,
    ) -> bool {
        let key = (protocol, external, remote);
        if self.held.get(&key).is_some_and(|until| *until > now) {
            return false;
        }
        if overload {
            return self.session(key, now).is_none();
        }
        if self.at(protocol, external).next().is_none() {
            return true;
        }
        self.purge(protocol, external, now);
        self.at(protocol, external).next().is_none()
    }

    /// Returns the mappings with this external endpoint.
    fn at(&self, protocol: Protocol, external: SocketAddr) -> impl Iterator<Item = u32> {
        let all = (protocol, external, 0)..=(protocol, external, u32::MAX);
        self.by_external.range(all).map(|(_, _, id)| *id)
    }

    /// Makes a mapping, which must be given a session at once.
    pub(super) fn bind(&mut self, key: MappingKey, external: SocketAddr) -> u32 {
        // Numbers come round after 2³² mappings; one that is still in use is skipped.
        while self.bindings.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let binding = Binding { key, external, sessions: 0 };
        self.bindings.insert(id, binding);
        self.by_key.insert(key, id);
        self.by_external.insert((key.0, external, id));
        *self.per_host.entry(key.1.ip()).or_default() += 1;
        id
    }

    /// Adds a session to a mapping.
    pub(super) fn insert(&mut self, key: SessionKey, session: Session) {
        if self.sessions.contains_key(&key) {
            self.remove(key);
        }
        if let Some(binding) = self.bindings.get_mut(&session.binding) {
            binding.sessions += 1;
            self.sessions.insert(key, session);
        }
    }

    /// Adds a session that a stranger has begun to a mapping.
    pub(super) fn insert_begun_outside(&mut self, key: SessionKey, session: Session) {
        let local = self.bindings.get(&session.binding).map(Binding::local);
        self.insert(key, session);
        if let Some(local) = local {
            self.begun_outside.insert((key.0, local, key.2), key);
        }
    }

    /// The session that this stranger has begun with this inside end.
    pub(super) fn begun_outside(
        &self,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Option<SessionKey> {
        self.begun_outside.get(&(protocol, local, remote)).copied()
    }

    /// Removes a session, and its mapping when that was the last one.
    pub(super) fn remove(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.remove(&key) else {
            return;
        };
        let Some(binding) = self.bindings.get_mut(&session.binding) else {
            return;
        };
        let inside = (key.0, binding.local(), key.2);
        if self.begun_outside.get(&inside) == Some(&key) {
            self.begun_outside.remove(&inside);
        }
        binding.sessions -= 1;
        if binding.sessions > 0 {
            return;
        }
        let Binding { key, external, .. } = *binding;
        self.bindings.remove(&session.binding);
        self.by_key.remove(&key);
        self.by_external.remove(&(key.0, external, session.binding));
        if let Some(count) = self.per_host.get_mut(&key.1.ip()) {
            *count -= 1;
            if *count == 0 {
                self.per_host.remove(&key.1.ip());
            }
        }
    }

    /// Returns the mapping behind `external` that may hear from `remote`. The second value is true when there is any
    /// mapping.
    pub(super) fn admit(
        &mut self,
        protocol: Protocol,
        external: SocketAddr,
        remote: SocketAddr,
        filtering: Filtering,
        now: Instant,
    ) -> (Option<u32>, bool) {
        if self.at(protocol, external).next().is_none() {
            return (None, false);
        }
        self.purge(protocol, external, now);
        let Some(id) = self.at(protocol, external).next() else {
            return (None, false);
        };
        let admitted = match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => {
                let lowest = SocketAddr::new(remote.ip(), 0);
                self.sessions
                    .range((protocol, external, lowest)..)
                    .take_while(|((p, e, r), _)| (*p, *e, r.ip()) == (protocol, external, remote.ip()))
                    .any(|(_, session)| session.expires > now)
            }
            Filtering::AddressAndPortDependent => false,
        };
        (admitted.then_some(id), true)
    }

    /// Keeps a 4-tuple busy for the NAT itself.
    pub(super) fn hold(&mut self, key: SessionKey, until: Instant, most: usize) {
        if self.held.len() < most || self.held.contains_key(&key) {
            self.held.insert(key, until);
        }
    }

    /// Removes expired sessions now and then.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.sweep_every(SWEEP, now);
    }

    /// Removes expired sessions because room is needed: often, but not for each packet of a flood.
    pub(super) fn sweep_full(&mut self, now: Instant) {
        self.sweep_every(SWEEP_FULL, now);
    }

    fn sweep_every(&mut self, period: Duration, now: Instant) {
        if self.swept_at.is_some_and(|at| now < at + period) {
            return;
        }
        self.swept_at = Some(now);
        let expired: Vec<SessionKey> =
            self.sessions.iter().filter(|(_, session)| session.expires <= now).map(|(key, _)| *key).collect();
        for key in expired {
            self.remove(key);
        }
        self.held.retain(|_, until| *until > now);
    }
}

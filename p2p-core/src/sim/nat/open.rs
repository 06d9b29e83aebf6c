//! New sessions and mappings, and the limits on them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::ports::Asker;
use super::table::{Flow, Session, SessionKey, mapping_key};
use super::track::{Direction, Step, Track};
use super::{DropReason, Nat, NatConfig, Pooling};
use crate::nat::Mapping;
use crate::sim::packet::{Body, Flags, Header, Protocol};

/// The most sessions for each mapping there may be, as strangers whom the filter lets in make sessions too.
const SESSIONS_PER_MAPPING: usize = 16;

impl Nat {
    /// Checks that a packet without a session may begin one.
    pub(super) fn may_open(&self, header: &Header) -> Result<(), DropReason> {
        match header.body {
            Body::Tcp(tcp) if tcp.flags.is_syn() => Ok(()),
            Body::Tcp(tcp) => {
                let control = Flags::SYN | Flags::RST | Flags::FIN;
                let picks_up = self.config.tcp.loose && tcp.flags.0 & control.0 == 0;
                picks_up.then_some(()).ok_or(DropReason::NoSession)
            }
            Body::Echo { reply: true, .. } => Err(DropReason::NoRequest),
            _ => Ok(()),
        }
    }

    /// Opens a session from inside, in a new mapping if need be, and returns the external endpoint.
    pub(super) fn open_out(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
        header: &Header,
        now: Instant,
    ) -> Result<SocketAddr, DropReason> {
        self.table.sweep(now);
        let overload = self.config.flow(protocol).overload;
        let mut key = mapping_key(protocol, local, remote, self.mapping(protocol));
        let mut found = self.table.find_live(key, now);
        if let Some((_, external)) = found
            && overload
            && !self.table.is_free(protocol, external, remote, overload, now)
        {
            // Another inside end talks to this remote end through the same port, so this one flow is mapped apart.
            key = mapping_key(protocol, local, remote, Mapping::AddressAndPortDependent);
            found = self.table.find_live(key, now);
        }
        let (id, external) = match found {
            Some(found) => {
                self.has_room(now)?;
                found
            }
            None => {
                self.admit_new(local.ip(), now)?;
                let external = self.external_for(protocol, local, remote, now)?;
                (self.table.bind(key, external), external)
            }
        };
        self.open(id, (protocol, external, remote), header, Direction::Out, now);
        Ok(external)
    }

    /// Returns the live session between an inside and a remote end, if they have one.
    pub(super) fn session_out(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Option<SessionKey> {
        let apart = self.config.flow(protocol).overload.then_some(Mapping::AddressAndPortDependent);
        for mapping in [Some(self.mapping(protocol)), apart].into_iter().flatten() {
            let Some((id, external)) = self.table.find(mapping_key(protocol, local, remote, mapping)) else {
                continue;
            };
            let key = (protocol, external, remote);
            if self.table.session(key, now).is_some_and(|session| session.binding == id) {
                return Some(key);
            }
        }
        let key = self.table.begun_outside(protocol, local, remote)?;
        self.table.session(key, now).is_some().then_some(key)
    }

    pub(super) fn open(
        &mut self,
        binding: u32,
        key: SessionKey,
        header: &Header,
        direction: Direction,
        now: Instant,
    ) {
        let flow = match header.body {
            Body::Tcp(tcp) => Flow::Tcp(Track::new(tcp, direction)),
            _ => Flow::Datagrams { out: direction == Direction::Out, inbound: direction == Direction::In },
        };
        let expires = now + timeout(&flow, &self.config);
        let session = Session { binding, flow, expires };
        match direction {
            Direction::Out => self.table.insert(key, session),
            Direction::In => self.table.insert_begun_outside(key, session),
        }
    }

    /// Checks that an existing mapping may have one more session.
    pub(super) fn has_room(&mut self, now: Instant) -> Result<(), DropReason> {
        let most = (self.config.most_mappings as usize).saturating_mul(SESSIONS_PER_MAPPING);
        if self.table.session_count() >= most {
            self.table.sweep_full(now);
        }
        let room = self.table.session_count() < most;
        room.then_some(()).ok_or(DropReason::TableFull)
    }

    /// Checks the limits on new mappings.
    fn admit_new(&mut self, host: IpAddr, now: Instant) -> Result<(), DropReason> {
        let most = self.config.most_mappings as usize;
        if self.table.mapping_count() >= most {
            self.table.sweep_full(now);
        }
        if self.table.mapping_count() >= most {
            return Err(DropReason::TableFull);
        }
        if self.table.mapping_count_of(host) >= self.config.most_mappings_per_host {
            self.table.sweep_full(now);
            if self.table.mapping_count_of(host) >= self.config.most_mappings_per_host {
                return Err(DropReason::HostFull);
            }
        }
        match self.config.most_new_per_second {
            Some(rate) if !self.bucket.take(rate, now) => Err(DropReason::TooFast),
            _ => Ok(()),
        }
    }

    /// Returns the external endpoint of a new mapping.
    fn external_for(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<SocketAddr, DropReason> {
        let pool = &self.config.external;
        if pool.is_empty() {
            return Ok(local);
        }
        let ip = match self.config.pooling {
            Pooling::Paired => {
                let number = match local.ip() {
                    IpAddr::V4(ip) => u128::from(u32::from(ip)),
                    IpAddr::V6(ip) => u128::from(ip),
                };
                Some(pool[(number % pool.len() as u128) as usize])
            }
            Pooling::Arbitrary => self.ports.pick(pool),
        };
        let ip = ip.ok_or(DropReason::NoPort)?;
        let flow = self.config.flow(protocol);
        let asker = Asker { protocol, local, remote, external: ip, flow, block: self.config.block, now };
        let table = &mut self.table;
        let free = |port| table.is_free(protocol, SocketAddr::new(ip, port), remote, flow.overload, now);
        let port = self.ports.choose(&asker, free).ok_or(DropReason::NoPort)?;
        Ok(SocketAddr::new(ip, port))
    }
}

/// Takes a packet into account in its session.
pub(super) fn advance(
    session: &mut Session,
    header: &Header,
    direction: Direction,
    config: &NatConfig,
    now: Instant,
) -> Step {
    match (&mut session.flow, header.body) {
        (Flow::Tcp(track), Body::Tcp(tcp)) => {
            let step = track.step(tcp, direction, &config.tcp);
            if step == Step::Pass {
                session.expires = now + track.timeout(&config.tcp);
            }
            step
        }
        (Flow::Datagrams { out, inbound }, _) => {
            match direction {
                Direction::Out => *out = true,
                Direction::In => *inbound = true,
            }
            if direction == Direction::Out || config.udp.inbound_refreshes {
                session.expires = now + timeout(&session.flow, config);
            }
            Step::Pass
        }
        (Flow::Tcp(_), _) => Step::Invalid(DropReason::OutOfState),
    }
}

fn timeout(flow: &Flow, config: &NatConfig) -> Duration {
    match flow {
        Flow::Tcp(track) => track.timeout(&config.tcp),
        Flow::Datagrams { out: true, inbound: true } => config.udp.timeout_both_ways,
        Flow::Datagrams { .. } => config.udp.timeout,
    }
}

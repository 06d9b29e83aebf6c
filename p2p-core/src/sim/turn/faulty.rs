//! A server that lies, loses and forgets.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use super::config::{FaultyServerConfig, TurnFaults};
use crate::stun::wire::{Algorithm, Ending, Key, Parsed};
use crate::stun::{Attribute, Class, Message, Method, Transport};
use crate::turn::allocation::ConnectionId;
use crate::turn::server::{Act, Event, FiveTuple, NoRelayedAddress, Relayer, RelayerConfig};
use crate::{Family, Machine, Output, Seed, UnixTime};

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultyServerCounters {
    /// Requests but Binding, repetitions included.
    pub requests: u64,
    /// Of these, answered with 438.
    pub stale: u64,
    /// Datagrams relayed, both ways.
    pub relayed: u64,
    /// Datagrams from peers that were not permitted, and for them.
    pub unpermitted: u64,
    /// Allocations made.
    pub allocated: u64,
}

/// A [`Relayer`] with [`TurnFaults`] around it.
///
/// It looks up peers and chooses ports itself, so [`Act::Check`] and [`Act::Bind`] never come out of it: who has sockets
/// opens them when [`Event::Allocated`] says so.
#[derive(Debug)]
pub struct FaultyServer {
    /// What it does wrong from now on.
    pub faults: TurnFaults,
    config: FaultyServerConfig,
    relayer: Relayer,
    seed: Seed,
    next_port: u16,
    /// How the last request of each client was signed.
    signatures: BTreeMap<FiveTuple, (Algorithm, Key)>,
    requests: u64,
    stale: u64,
    /// Of the servers before the last restart.
    before: FaultyServerCounters,
    out: VecDeque<Output<Act, Event>>,
}

impl FaultyServer {
    /// Returns a server without clients.
    pub fn new(config: FaultyServerConfig, mut seed: Seed, now: Instant) -> Self {
        let relayer = Relayer::new(config.relayer.clone(), config.clock, seed.fork("relayer"), now);
        Self {
            faults: config.faults.clone(),
            config,
            relayer,
            seed,
            next_port: 49_152,
            signatures: BTreeMap::new(),
            requests: 0,
            stale: 0,
            before: FaultyServerCounters::default(),
            out: VecDeque::new(),
        }
    }

    /// Returns what happened so far.
    pub fn counters(&self) -> FaultyServerCounters {
        let now = self.relayer.counters();
        FaultyServerCounters {
            requests: self.requests,
            stale: self.stale,
            relayed: self.before.relayed + now.relayed,
            unpermitted: self.before.unpermitted + now.unpermitted,
            allocated: self.before.allocated + now.allocations,
        }
    }

    /// Returns the number of allocations that stand.
    pub fn allocations(&self) -> usize {
        self.relayer.allocations()
    }

    /// Returns the configuration of the server itself, to be changed.
    pub fn config_mut(&mut self) -> &mut RelayerConfig {
        self.relayer.config_mut()
    }

    /// Returns a client's 5-tuple at this server.
    pub fn tuple(&self, transport: Transport, client: SocketAddr) -> FiveTuple {
        FiveTuple { transport, server: self.config.address, client }
    }

    /// Forgets everything, nonces too, as a new process does. Ports go on, so that nobody gets an old address.
    pub fn restart(&mut self, now: Instant) {
        self.before = self.counters();
        self.config.relayer = self.relayer.config().clone();
        self.close(now);
        let config = self.config.relayer.clone();
        self.relayer = Relayer::new(config, self.config.clock, self.seed.fork("relayer"), now);
        self.signatures.clear();
    }

    /// Makes all nonces stale that were given out so far.
    pub fn renew_nonces(&mut self, now: Instant) {
        self.relayer.renew_nonces(now);
    }

    /// Takes a datagram or one whole frame of a client.
    pub fn handle_client(&mut self, client: FiveTuple, bytes: &[u8], now: Instant) {
        let parsed = Parsed::decode(bytes, client.transport).ok();
        let parsed = parsed.filter(|parsed| {
            parsed.message.class == Class::Request && parsed.message.method != Method::BINDING
        });
        if let Some(parsed) = parsed {
            self.requests += 1;
            let unix = self.config.clock.unix(now).since(UnixTime(0)).as_secs();
            let signature = self.relayer.config().signature_of(&parsed, unix);
            if let Some((signature, is_expired)) = signature {
                self.signatures.insert(client, signature);
                if is_expired && self.faults.is_strict {
                    // It hears a wrong signature, and asks for another.
                    let mut bytes = bytes.to_vec();
                    let end = bytes.len() - 1;
                    bytes[end] ^= 1;
                    let _ = self.relayer.handle_data(client, &bytes, now);
                    return self.settle(now);
                }
                if let Some(answer) = self.lie(client, &parsed.message) {
                    return self.send(client, answer.into());
                }
            }
        }
        // What is neither STUN nor ChannelData is dropped, by honest servers as well.
        let _ = self.relayer.handle_data(client, bytes, now);
        self.settle(now);
    }

    /// Ends all that a client had, whose connection has ended.
    pub fn handle_gone(&mut self, client: FiveTuple, now: Instant) {
        self.relayer.handle_gone(client, now);
        self.settle(now);
    }

    /// Takes a datagram that came to a relayed address.
    pub fn handle_peer(&mut self, relayed: SocketAddr, peer: SocketAddr, data: Bytes, now: Instant) {
        self.relayer.handle_peer_data(relayed, peer, data, now);
        self.settle(now);
    }

    /// Takes a connection to a relayed address, and returns its name, or `None` when it is to be reset.
    pub fn handle_accepted(
        &mut self,
        relayed: SocketAddr,
        peer: SocketAddr,
        now: Instant,
    ) -> Option<ConnectionId> {
        let connection = self.relayer.handle_accepted(relayed, peer, now);
        self.settle(now);
        connection
    }

    /// Takes up what became of an [`Act::Dial`].
    pub fn handle_dialled(&mut self, connection: ConnectionId, is_connected: bool, now: Instant) {
        self.relayer.handle_dialled(connection, is_connected, now);
        self.settle(now);
    }

    /// Forgets a connection with a peer that is over.
    pub fn handle_parted(&mut self, connection: ConnectionId) {
        self.relayer.handle_parted(connection);
    }

    /// Gives everything back and hears nothing any more.
    pub fn close(&mut self, now: Instant) {
        self.relayer.close(now);
        self.settle(now);
    }

    /// Does what can be done at once.
    fn settle(&mut self, now: Instant) {
        loop {
            match self.relayer.poll_output() {
                Output::Act(Act::Send { client, bytes }) => self.send(client, bytes),
                Output::Act(Act::Check { client, ips }) => {
                    let ours = self.config.address.ip();
                    let own: Vec<IpAddr> = ips.into_iter().filter(|ip| *ip == ours).collect();
                    self.relayer.handle_checked(client, &own, now);
                }
                Output::Act(Act::Bind { client, family, relaying, .. }) => {
                    let bound = self.bind(family);
                    self.relayer.handle_bound(client, family, relaying, bound, now);
                }
                Output::Wait(_) => return,
                other => self.out.push_back(other),
            }
        }
    }

    /// The answer to a request that is not to be answered honestly.
    fn lie(&self, client: FiveTuple, request: &Message) -> Option<Vec<u8>> {
        let refused = |code| {
            Message::new(Class::Error, request.method, request.transaction)
                .with(Attribute::ErrorCode { code, reason: "refused".into() })
        };
        match (self.faults.refusals.get(&request.method), self.faults.alternate) {
            (Some((code, is_signed)), _) => self.encode(client, &refused(*code), *is_signed),
            (None, Some(to)) if request.method == Method::ALLOCATE => {
                self.encode(client, &refused(300).with(Attribute::AlternateServer(to)), true)
            }
            _ => None,
        }
    }

    /// The bytes of an answer, signed as the client's last request was.
    fn encode(&self, client: FiveTuple, message: &Message, is_signed: bool) -> Option<Vec<u8>> {
        let signature = self.signatures.get(&client).filter(|_| is_signed);
        let signature = signature.map(|(algorithm, key)| (*algorithm, key));
        message.encode_with(client.transport, Ending { signature, fingerprint: false }).ok()
    }

    /// Sends something to a client, unless it gets lost.
    fn send(&mut self, client: FiveTuple, bytes: Bytes) {
        let bytes = match Parsed::decode(&bytes, client.transport) {
            Ok(parsed) => {
                let message = parsed.message;
                self.stale += u64::from(message.error_code().is_some_and(|(code, _)| code == 438));
                if let Some(left) = self.faults.lost.get_mut(&message.method).filter(|left| **left > 0) {
                    *left -= 1;
                    return;
                }
                self.amend(client, message).map_or(bytes, Bytes::from)
            }
            Err(_) => bytes,
        };
        self.out.push_back(Output::Act(Act::Send { client, bytes }));
    }

    /// What is said in place of the truth about an allocation, if anything.
    fn amend(&self, client: FiveTuple, mut message: Message) -> Option<Vec<u8>> {
        let TurnFaults { software, lie, .. } = &self.faults;
        let is_allocation = message.class == Class::Success && message.method == Method::ALLOCATE;
        if !is_allocation || software.is_none() && lie.is_none() {
            return None;
        }
        for attribute in &mut message.attributes {
            if let (Attribute::XorRelayedAddress(relayed), Some(lie)) = (attribute, lie) {
                *relayed = *lie;
            }
        }
        message.attributes.extend(software.clone().map(Attribute::Software));
        self.encode(client, &message, true)
    }

    /// The next port, whatever the client wishes.
    fn bind(&mut self, family: Family) -> Result<SocketAddr, NoRelayedAddress> {
        let mut relays = self.relayer.config().relays.iter();
        let ip = *relays.find(|ip| Family::of(**ip) == family).ok_or(NoRelayedAddress::Family)?;
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(49_152);
        Ok(SocketAddr::new(ip, port))
    }
}

impl Machine for FaultyServer {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        self.relayer.handle_timeout(now);
        self.settle(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        match self.out.pop_front() {
            Some(output) => output,
            None => self.relayer.poll_output(),
        }
    }
}

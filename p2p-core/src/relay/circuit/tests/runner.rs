//! A circuit alone on a simulated host, with nothing of a node but its sockets.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::attempt::AttemptId;
use crate::sim::host::HostEvent;
use crate::sim::node::{CircuitDriver, CircuitNews, HostSockets, Meaning, ReadResult, TcpUse, UdpUse};
use crate::sim::tcp::{TcpEvent, TcpOptions, TcpSocket};
use crate::sim::world::{Context, Program};

/// The only attempt there is.
const ATTEMPT: AttemptId = AttemptId([1; 16]);

/// Turns a [`Circuit`]: the caller from the start, the called one from the first offer. What is to be said is said as soon as
/// there is room, and what comes is read at once.
#[derive(Debug)]
pub(super) struct CircuitRunner {
    config: CircuitConfig,
    seed: Seed,
    /// On which our offers come, and theirs.
    topics: [String; 2],
    driver: Option<CircuitDriver>,
    sockets: HostSockets,
    dialling: BTreeMap<TcpSocket, SocketAddr>,
    /// Said before there was a circuit.
    to_say: Vec<u8>,
    /// What the peer said on the stream.
    pub(super) heard: Vec<u8>,
    /// The peer has said that nothing follows.
    pub(super) is_ended: bool,
    /// Connections: the peer's through our server, and ours through the peer's.
    pub(super) connections: Vec<TcpSocket>,
    /// What the machine told, and when.
    pub(super) events: Vec<(Instant, Event)>,
    /// Offers sent.
    pub(super) said: u32,
}

impl CircuitRunner {
    /// One end. Both ends name each other by `topics`: the own one first.
    pub(super) fn new(config: CircuitConfig, topics: [&str; 2], seed: Seed) -> Self {
        Self {
            config,
            seed,
            topics: topics.map(str::to_owned),
            driver: None,
            sockets: HostSockets::default(),
            dialling: BTreeMap::new(),
            to_say: Vec::new(),
            heard: Vec::new(),
            is_ended: false,
            connections: Vec::new(),
            events: Vec::new(),
            said: 0,
        }
    }

    /// Subscribes, and begins if we are the caller.
    pub(super) fn start(&mut self, context: &mut Context<'_>) {
        context.broker.subscribe(context.id, &self.topics[0]);
        if self.config.role == Role::Caller {
            self.begin(context.now);
            self.turn(context);
        }
    }

    /// Says this on the stream, now or when it is up.
    pub(super) fn say(&mut self, bytes: &[u8], context: &mut Context<'_>) {
        self.to_say.extend(bytes);
        self.turn(context);
    }

    /// Says that nothing follows.
    pub(super) fn finish(&mut self, context: &mut Context<'_>) {
        // On a stream that is over nothing is to be said.
        let _ = self.with(context, |circuit, now| circuit.finish(now));
    }

    /// Has something done by the machine.
    pub(super) fn with<T>(
        &mut self,
        context: &mut Context<'_>,
        act: impl FnOnce(&mut Circuit, Instant) -> T,
    ) -> Option<T> {
        self.turn(context);
        let result = self.driver.as_mut().map(|driver| act(driver.circuit(), context.now));
        self.turn(context);
        result
    }

    /// The machine, once there is one.
    pub(super) fn circuit(&self) -> Option<&Circuit> {
        self.driver.as_ref().map(CircuitDriver::machine)
    }

    /// Whether the stream was told to be up.
    pub(super) fn is_up(&self) -> bool {
        self.events.iter().any(|(_, event)| *event == Event::Up)
    }

    /// Datagrams and dials to this address.
    pub(super) fn sent_to(&self, address: SocketAddr) -> u64 {
        self.sockets.reached().get(&address).copied().unwrap_or_default()
    }

    fn begin(&mut self, now: Instant) {
        let circuit = Circuit::new(self.config.clone(), self.seed.fork("circuit"), now);
        self.driver = Some(CircuitDriver::new(ATTEMPT, circuit));
    }

    fn turn(&mut self, context: &mut Context<'_>) {
        loop {
            let is_up = self.is_up();
            let Some(driver) = &mut self.driver else { return };
            if is_up {
                driver.say(&std::mem::take(&mut self.to_say));
            }
            let news = driver.turn(&mut self.sockets, context);
            let is_quiet = news.is_empty();
            news.into_iter().for_each(|news| self.on_news(news, context));
            self.listen(context);
            if is_quiet {
                return;
            }
        }
    }

    fn listen(&mut self, context: &mut Context<'_>) {
        if !self.is_up() {
            return;
        }
        while let Some(driver) = &mut self.driver {
            match driver.read(4_096, context.now) {
                ReadResult::Bytes(bytes) => self.heard.extend_from_slice(&bytes),
                ReadResult::Nothing => return,
                ReadResult::End => {
                    let is_broken =
                        self.events.iter().any(|(_, event)| matches!(event, Event::Ended(Some(_))));
                    self.is_ended |= !is_broken;
                    return;
                }
            }
        }
    }

    fn on_news(&mut self, news: CircuitNews, context: &mut Context<'_>) {
        let Some(driver) = &mut self.driver else { return };
        match news {
            CircuitNews::Say(offer) => {
                self.said += 1;
                if let Ok(bytes) = postcard::to_stdvec(&offer) {
                    context.broker.publish(&self.topics[1], &Bytes::from(bytes), context.now);
                }
            }
            CircuitNews::Dial(to) => {
                let used = TcpUse::Circuit(ATTEMPT);
                match self.sockets.dial(used, (None, to), TcpOptions::default(), context) {
                    Ok(tcp) => drop(self.dialling.insert(tcp, to)),
                    Err(_) => driver.circuit().handle_dialled(to, false, context.now),
                }
            }
            CircuitNews::Told(event) => {
                if let Event::Arrived { way, peer, .. } = &event {
                    self.connections.extend(driver.take(*way, *peer, context).map(|(tcp, _)| tcp));
                }
                self.events.push((context.now, event));
            }
            CircuitNews::Gone => {}
        }
    }

    fn on_tcp(&mut self, event: TcpEvent, context: &mut Context<'_>) {
        let Some(driver) = &mut self.driver else { return };
        let dialled = match event {
            TcpEvent::Connected(tcp) => self.dialling.remove(&tcp).map(|to| (tcp, to, true)),
            TcpEvent::PeerClosed(tcp) | TcpEvent::Failed(tcp, _) => {
                self.dialling.remove(&tcp).map(|to| (tcp, to, false))
            }
            TcpEvent::Readable(_) | TcpEvent::Accepted { .. } => None,
        };
        if let Some((tcp, to, is_up)) = dialled {
            self.connections.extend(is_up.then_some(tcp));
            return driver.circuit().handle_dialled(to, is_up, context.now);
        }
        if let Meaning::Circuit(_, event) = self.sockets.on_tcp(event, context) {
            let news = driver.on_tcp(event, &mut self.sockets, context);
            news.into_iter().for_each(|news| self.on_news(news, context));
        }
    }

    fn on_signal(&mut self, payload: &[u8], now: Instant) {
        let Ok(offer) = postcard::from_bytes::<RelayOffer>(payload) else { return };
        if self.driver.is_none() {
            self.begin(now);
        }
        let addresses: Vec<IpAddr> = self.config.peer.clone();
        if let Some(driver) = &mut self.driver {
            driver.circuit().handle_offer(&offer, &addresses, now);
        }
    }
}

impl Program for CircuitRunner {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        match event {
            HostEvent::Tcp(event) => self.on_tcp(event, context),
            HostEvent::Signal { topic, payload } if topic == self.topics[0] => {
                self.on_signal(&payload, context.now);
            }
            HostEvent::Datagram { socket, from, payload, .. } => {
                let Some(driver) = self.driver.as_mut() else { return };
                if let Some(UdpUse::Circuit(_)) = self.sockets.use_of(socket) {
                    let news = driver.on_datagram(socket, from, &payload, &mut self.sockets, context);
                    news.into_iter().for_each(|news| self.on_news(news, context));
                }
            }
            HostEvent::Unreachable { socket, .. } => {
                let Some(driver) = self.driver.as_mut() else { return };
                let news = driver.on_unreachable(socket, &mut self.sockets, context);
                news.into_iter().for_each(|news| self.on_news(news, context));
            }
            HostEvent::Signal { .. } | HostEvent::EchoReply { .. } => {}
        }
        self.turn(context);
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver {
            driver.circuit().handle_timeout(context.now);
        }
        self.turn(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.driver.as_ref().and_then(CircuitDriver::wait)
    }
}

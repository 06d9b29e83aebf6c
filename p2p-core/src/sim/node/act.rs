//! What the node wants done.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::channel::{BrokerChannel, ChannelNews};
use super::circuit::{CircuitDriver, CircuitNews};
use super::connection::{ConnectionLine, DrivenConnection, KeptPipe, ReadResult, read_tcp};
use super::sockets::{TcpUse, local_error};
use super::time::{TimeClient, TimeNews};
use super::{DelayedInput, NodeInput, NodeRunner, clock, nics};
use crate::attempt::{AttemptId, DialError, Role};
use crate::clock::ntp::{Client, ClientConfig};
use crate::node::{
    Act, ChannelId, CircuitAct, CircuitEvent, ConnectionId, Established, Owner, RouterAct, SocketAct,
    SocketEvent, TurnServer,
};
use crate::relay::{Circuit, circuit};
use crate::signal::link::{Config as LinkConfig, Link};
use crate::sim::tcp::{TcpOptions, TcpSocket};
use crate::sim::world::Context;
use crate::turn::client::Place;
use crate::turn::{Credentials, Server as TurnRelay};
use crate::{Clock, Family};

/// Bytes taken at once from a pipe that its user reads.
const PIPE_READ: usize = 16 * 1024;

impl NodeRunner {
    pub(super) fn act(&mut self, act: Act, context: &mut Context<'_>) {
        match act {
            Act::Begin(_) => {}
            Act::End(owner) => self.end(owner, context),
            Act::Socket(owner, act) => self.act_socket(owner, act, context),
            Act::Channel(act) => self.act_channel(act, context),
            Act::Circuit(attempt, act) => self.act_circuit(attempt, act, context),
            Act::Resolve(nic, server) => {
                let (takes, found) = self.surroundings.names.look_up(&server.host, server.port);
                self.after(takes, DelayedInput::Input(NodeInput::Resolved(nic, server, found)), context);
            }
            Act::ResolveTurn => {
                let configured = self.node.config().turn.clone();
                let (takes, servers, useless) = self.turn_servers(&configured);
                self.after(takes, DelayedInput::Input(NodeInput::TurnServers(servers, useless)), context);
            }
            Act::ReadNics => self.inputs.push_back(NodeInput::Nics(nics(context))),
            Act::ReadClock => self.inputs.push_back(NodeInput::Clock(clock(&self.surroundings, context.now))),
            Act::MeasureTime(clock) => self.measure(clock, context),
        }
    }

    /// What takes no time is there at the next turn.
    pub(super) fn after(&mut self, takes: Duration, what: DelayedInput, context: &Context<'_>) {
        match what {
            DelayedInput::Input(input) if takes.is_zero() => self.inputs.push_back(input),
            what => self.later(context.now + takes, what),
        }
    }

    fn end(&mut self, owner: Owner, context: &mut Context<'_>) {
        self.sockets.end(owner, context);
        let is_its = |connection: &DrivenConnection| connection.owner == Some(owner);
        let its: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| is_its(connection))
            .map(|(number, _)| *number)
            .collect();
        its.into_iter().for_each(|connection| self.let_go(connection, context));
    }

    fn act_socket(&mut self, owner: Owner, act: SocketAct, context: &mut Context<'_>) {
        match act {
            SocketAct::Dial { connection, from, to, ttl } => {
                self.dial(owner, connection, (from, to), ttl, context);
            }
            SocketAct::Read { connection, at_most } => {
                if let Some(known) = self.connections.get_mut(&connection) {
                    known.wanted = Some(at_most);
                }
                self.hear(connection, context);
            }
            SocketAct::Write { connection, bytes } => self.write(connection, &bytes, context),
            SocketAct::Close { connection } => self.let_go(connection, context),
            act => {
                let told = self.sockets.perform(owner, act, context);
                self.inputs.extend(told.map(|event| NodeInput::Socket(owner, event)));
            }
        }
    }

    fn dial(
        &mut self,
        owner: Owner,
        connection: ConnectionId,
        (from, to): (Option<SocketAddr>, SocketAddr),
        ttl: Option<u8>,
        context: &mut Context<'_>,
    ) {
        let usual = if from.is_some() { TcpOptions::shared() } else { TcpOptions::default() };
        let options = TcpOptions { ttl: ttl.unwrap_or(usual.ttl), ..usual };
        let dialled = match from == Some(to) {
            true => Err(DialError::Refused),
            false => self
                .sockets
                .dial(TcpUse::Connection(connection), (from, to), options, context)
                .map_err(local_error),
        };
        match dialled {
            Ok(socket) => {
                if ttl.is_some() {
                    // The first SYN alone is to die: it has left. The socket was made a line ago.
                    let _ = context.host.tcp_mut().set_ttl(socket, usual.ttl);
                }
                self.sockets.set_use(socket, TcpUse::Connection(connection));
                let line = ConnectionLine::Tcp { socket, early: Bytes::new() };
                self.connections.insert(connection, DrivenConnection::new(owner, line, false));
            }
            Err(error) => {
                let failed = SocketEvent::DialFailed { connection, error };
                self.inputs.push_back(NodeInput::Socket(owner, failed));
            }
        }
    }

    /// Takes in a connection that somebody else made.
    pub(super) fn take_in(&mut self, owner: Owner, socket: TcpSocket, early: Bytes) -> ConnectionId {
        let number = self.number();
        self.sockets.set_use(socket, TcpUse::Connection(number));
        self.connections
            .insert(number, DrivenConnection::new(owner, ConnectionLine::Tcp { socket, early }, true));
        number
    }

    /// Returns the number for a connection that somebody else made.
    fn number(&mut self) -> ConnectionId {
        let number = ConnectionId(self.next_connection);
        self.next_connection += 2;
        number
    }

    pub(super) fn write(&mut self, number: ConnectionId, bytes: &[u8], context: &mut Context<'_>) {
        match self.connections.get(&number).map(|connection| connection.line.clone()) {
            Some(ConnectionLine::Tcp { socket, .. }) => {
                // A connection that cannot take it breaks, which is told as an event.
                let _ = context.host.tcp_mut().send(socket, bytes, context.now);
            }
            Some(ConnectionLine::Stream(attempt)) => {
                self.with_circuit(attempt, context, |circuit, _| circuit.say(bytes));
            }
            None => {}
        }
    }

    /// Closes a connection, whoever has it.
    pub(super) fn let_go(&mut self, number: ConnectionId, context: &mut Context<'_>) {
        let Some(connection) = self.connections.remove(&number) else { return };
        if let ConnectionLine::Tcp { socket, .. } = connection.line {
            self.sockets.close(socket, context);
        }
        let pipe = self.pipes.iter().find(|pipe| pipe.connection == number);
        if let Some(claim) = pipe.map(|pipe| pipe.session.claim).filter(|claim| claim.role == Role::Answerer)
        {
            self.inputs.push_back(NodeInput::PipeClosed(claim.peer));
        }
        // A circuit lives for as long as the connection that its user has.
        if let (None, Some(attempt)) = (connection.owner, self.attempt_of(number)) {
            self.with_circuit(attempt, context, |circuit, now| circuit.circuit().release(now));
        }
    }

    fn attempt_of(&self, number: ConnectionId) -> Option<AttemptId> {
        let pipe = self.pipes.iter().find(|pipe| pipe.connection == number)?;
        Some(pipe.session.claim.attempt)
    }

    /// Gives a connection that is kept to the user, who reads from now on.
    pub(super) fn hand_over(&mut self, established: Established, context: &mut Context<'_>) {
        let number = established.connection;
        self.pipes.push(KeptPipe::new(established, context.now));
        if let Some(connection) = self.connections.get_mut(&number) {
            (connection.owner, connection.wanted) = (None, None);
        }
        self.hear(number, context);
    }

    /// Reads for whoever wants to read.
    pub(super) fn hear(&mut self, number: ConnectionId, context: &mut Context<'_>) {
        let Some(connection) = self.connections.get(&number) else { return };
        match (connection.owner, connection.wanted) {
            (None, _) => loop {
                let heard = self.read(number, PIPE_READ, context);
                let Some(pipe) = self.pipes.iter_mut().find(|pipe| pipe.connection == number) else { return };
                match heard {
                    ReadResult::Bytes(bytes) => pipe.heard.extend_from_slice(&bytes),
                    ReadResult::Nothing => return,
                    ReadResult::End => {
                        pipe.is_ended = true;
                        return;
                    }
                }
            },
            (Some(owner), Some(at_most)) => {
                let event = match self.read(number, at_most, context) {
                    ReadResult::Bytes(bytes) => SocketEvent::Bytes { connection: number, bytes },
                    ReadResult::Nothing => return,
                    ReadResult::End => SocketEvent::Lost { connection: number },
                };
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.wanted = None;
                }
                self.inputs.push_back(NodeInput::Socket(owner, event));
            }
            (Some(_), None) => {}
        }
    }

    fn read(&mut self, number: ConnectionId, at_most: usize, context: &mut Context<'_>) -> ReadResult {
        let attempt = match self.connections.get_mut(&number).map(|connection| &mut connection.line) {
            Some(ConnectionLine::Tcp { socket, early }) => return read_tcp(*socket, early, at_most, context),
            Some(ConnectionLine::Stream(attempt)) => *attempt,
            None => return ReadResult::End,
        };
        // What is told of reading must not lead to reading: it is taken up when this is over.
        let Some(circuit) = self.circuits.get_mut(&attempt) else { return ReadResult::End };
        let heard = circuit.read(at_most, context.now);
        let news = circuit.turn(&mut self.sockets, context);
        let is_new = |news: &CircuitNews| !matches!(news, CircuitNews::Told(circuit::Event::Readable));
        let news = news.into_iter().filter(is_new);
        news.for_each(|news| self.on_circuit(attempt, news, context));
        heard
    }

    fn act_channel(&mut self, act: RouterAct, context: &mut Context<'_>) {
        match act {
            RouterAct::Open { channel, url, .. } => {
                let topic = self.node.config().identity.id().topic();
                let config = LinkConfig { topic, login: None, protocol: url.version() };
                let link = Link::new(config, self.seed.fork("link"), context.now);
                self.channels.insert(channel, (BrokerChannel::new(channel, link), url));
                self.with_channel(channel, context, |_, _| {});
            }
            RouterAct::Publish { channel, ticket, topic, payload, until } => {
                let mut refused = None;
                self.with_channel(channel, context, |link, now| {
                    refused = link.publish(ticket, topic, payload, until, now);
                });
                self.inputs.extend(refused.map(|event| NodeInput::Channel(channel, event)));
            }
            RouterAct::Check { channel } => {
                self.with_channel(channel, context, |link, now| link.handle_network_changed(now));
            }
            RouterAct::Close { channel } => {
                self.with_channel(channel, context, |link, now| link.close(now));
                self.channels.remove(&channel);
                self.inputs.push_back(NodeInput::ChannelClosed(channel));
            }
        }
    }

    pub(super) fn with_channel(
        &mut self,
        id: ChannelId,
        context: &mut Context<'_>,
        act: impl FnOnce(&mut BrokerChannel, std::time::Instant),
    ) {
        let Some((channel, _)) = self.channels.get_mut(&id) else { return };
        act(channel, context.now);
        let news = channel.turn(&mut self.sockets, context);
        self.on_channel(id, news, context);
    }

    pub(super) fn on_channel(&mut self, id: ChannelId, news: Vec<ChannelNews>, context: &mut Context<'_>) {
        for news in news {
            match news {
                ChannelNews::Event(event) => self.inputs.push_back(NodeInput::Channel(id, event)),
                ChannelNews::LookUp => {
                    let Some((_, url)) = self.channels.get(&id) else { return };
                    let (host, port) = (url.host().to_string(), url.port().unwrap_or_default());
                    let (takes, found) = self.surroundings.names.look_up(&host, port);
                    self.later(context.now + takes, DelayedInput::Channel(id, found));
                }
            }
        }
    }

    fn act_circuit(&mut self, attempt: AttemptId, act: CircuitAct, context: &mut Context<'_>) {
        if let CircuitAct::Begin(begun) = act {
            let (config, seed) = *begun;
            let circuit = Circuit::new(config, seed, context.now);
            self.circuits.insert(attempt, CircuitDriver::new(attempt, circuit));
            return self.with_circuit(attempt, context, |_, _| {});
        }
        self.with_circuit(attempt, context, |circuit, now| match act {
            CircuitAct::Begin(..) => {}
            CircuitAct::Hear(offer, sources) => circuit.circuit().handle_offer(&offer, &sources, now),
            CircuitAct::Dialled { to, is_up } => circuit.circuit().handle_dialled(to, is_up, now),
            CircuitAct::ConnectionFailed => circuit.circuit().handle_connection_failed(now),
            CircuitAct::Keep(kind) => circuit.circuit().keep(kind, now),
            CircuitAct::End => circuit.circuit().close(now),
        });
    }

    pub(super) fn with_circuit(
        &mut self,
        attempt: AttemptId,
        context: &mut Context<'_>,
        act: impl FnOnce(&mut CircuitDriver, std::time::Instant),
    ) {
        let Some(circuit) = self.circuits.get_mut(&attempt) else { return };
        act(circuit, context.now);
        let news = circuit.turn(&mut self.sockets, context);
        news.into_iter().for_each(|news| self.on_circuit(attempt, news, context));
    }

    pub(super) fn on_circuit(&mut self, attempt: AttemptId, news: CircuitNews, context: &mut Context<'_>) {
        let event = match news {
            CircuitNews::Dial(to) => Some(CircuitEvent::Dial(to)),
            CircuitNews::Say(offer) => Some(CircuitEvent::Say(offer)),
            CircuitNews::Told(event) => self.on_circuit_event(attempt, event, context),
            CircuitNews::Gone => {
                self.circuits.remove(&attempt);
                Some(CircuitEvent::Gone)
            }
        };
        self.inputs.extend(event.map(|event| NodeInput::Circuit(attempt, event)));
    }

    fn on_circuit_event(
        &mut self,
        attempt: AttemptId,
        event: circuit::Event,
        context: &mut Context<'_>,
    ) -> Option<CircuitEvent> {
        let owner = Owner::Attempt(attempt);
        match event {
            circuit::Event::Up => {
                let (local, remote) = self.circuits.get(&attempt)?.ends(context)?;
                let connection = self.number();
                let stream = DrivenConnection::new(owner, ConnectionLine::Stream(attempt), true);
                self.connections.insert(connection, stream);
                Some(CircuitEvent::Up { connection, local, remote })
            }
            circuit::Event::Arrived { way, peer, early } => {
                let (socket, local) = self.circuits.get_mut(&attempt)?.take(way, peer, context)?;
                let connection = self.take_in(owner, socket, early);
                Some(CircuitEvent::Arrived { connection, local, remote: peer })
            }
            circuit::Event::Readable | circuit::Event::Ended(_) => {
                let is_its =
                    |line: &ConnectionLine| matches!(line, ConnectionLine::Stream(of) if *of == attempt);
                let its = self.connections.iter().find(|(_, connection)| is_its(&connection.line));
                if let Some(number) = its.map(|(number, _)| *number) {
                    self.hear(number, context);
                }
                None
            }
            circuit::Event::Failed(failure) => Some(CircuitEvent::Failed(failure)),
            // What is to be said is tried at every turn.
            circuit::Event::Writable | circuit::Event::Closed => None,
        }
    }

    fn measure(&mut self, clock: Clock, context: &mut Context<'_>) {
        match &mut self.time {
            Some(time) => time.measure(clock, context.now),
            None => {
                let servers = self.node.config().ntp.len();
                let config = ClientConfig { servers, ..ClientConfig::default() };
                let client = Client::new(config, clock, self.seed.fork("ntp"), context.now);
                let client = client.expect("a configuration that was checked names few servers");
                self.time = Some(TimeClient::new(client, clock));
            }
        }
        self.turn_time(context);
    }

    pub(super) fn turn_time(&mut self, context: &mut Context<'_>) {
        let Some(time) = &mut self.time else { return };
        for news in time.turn(&mut self.sockets, context) {
            match news {
                TimeNews::Report(report) => self.inputs.push_back(NodeInput::Ntp(report)),
                TimeNews::LookUp(server) => {
                    let Some(named) = self.node.config().ntp.get(server) else { continue };
                    let (takes, found) = self.surroundings.names.look_up(&named.host, named.port);
                    let families = &self.node.config().families;
                    let found = found.map(|mut found| {
                        found.retain(|address| families.contains(&Family::of(address.ip())));
                        found
                    });
                    self.later(context.now + takes, DelayedInput::Ntp(server, found));
                }
            }
        }
    }

    /// Returns the TURN servers that can be asked, those whose first address it is before the others; and why the rest
    /// cannot.
    fn turn_servers(&self, configured: &[TurnServer]) -> (Duration, Vec<TurnRelay>, Vec<String>) {
        let (mut takes, mut ranked, mut useless) = (Duration::ZERO, Vec::new(), Vec::new());
        for server in configured {
            let (took, found) = self.surroundings.names.look_up(&server.host, server.port);
            takes = takes.max(took);
            let credentials = Credentials::new(&server.user, &server.password);
            match (found, credentials) {
                (Ok(found), Ok(credentials)) => {
                    ranked.extend(found.into_iter().enumerate().map(|(rank, address)| {
                        let place = Place { address, carrier: server.carrier, host: None };
                        (rank, TurnRelay { place, credentials: credentials.clone() })
                    }));
                }
                (Err(why), _) => useless.push(format!("{server}: {why}")),
                (_, Err(why)) => useless.push(format!("{server}: {why}")),
            }
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        (takes, ranked.into_iter().map(|(_, server)| server).collect(), useless)
    }
}

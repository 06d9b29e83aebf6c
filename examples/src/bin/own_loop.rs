//! A node without a runtime: the core's one machine, turned by hand with the sockets of the standard library.
//!
//! `own_loop listen` prints an address and says what it hears; `own_loop connect p2p1…`, in another process of this
//! machine, says hello and prints the answer. Feed what happened, drain what is wanted, come back at the deadline: that
//! is all there is to driving a node.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use p2p_core::attempt::DialError;
use p2p_core::node::{
    Act, ConnectOptions, ConnectionId, Event, ListenError, Nic, NicAddress, Node, NodeConfig, Owner,
    SocketAct, SocketEvent,
};
use p2p_core::peer::Identity;
use p2p_core::{Clock, Machine, Output, Seed, UnixTime};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    match (words.next().as_deref(), words.next()) {
        (Some("listen"), None) => OwnLoop::new()?.listen(),
        (Some("connect"), Some(address)) => OwnLoop::new()?.connect(&address),
        _ => bail!("say `listen`, or `connect` and the address that `listen` printed"),
    }
}

/// A node, and the sockets it asked for.
struct OwnLoop {
    node: Node,
    listeners: BTreeMap<SocketAddr, (Owner, TcpListener)>,
    streams: BTreeMap<ConnectionId, (Owner, TcpStream)>,
    /// Reads that were asked for, and the bytes each may take.
    reads: BTreeMap<ConnectionId, usize>,
    deadline: Option<Instant>,
    /// The number of the next connection that arrives.
    next: u64,
}

impl OwnLoop {
    fn new() -> Result<Self> {
        // A program that is called again and again keeps its identity; one that is run once needs none.
        let mut seed = Seed::new(entropy()?);
        let mut config = NodeConfig::new(Identity::generate(&mut seed));
        config.plain = true;
        // Loopback is dialled only for a peer that proves to be on this machine.
        config.machine_id = b"this machine".to_vec();
        let addresses = vec![NicAddress { ip: [127, 0, 0, 1].into(), prefix: 8, scope: 0 }];
        let (name, gateways) = ("loopback".into(), Vec::new());
        let nic = Nic { name, index: 1, addresses, is_loopback: true, is_up: true, gateways };
        let node = Node::new(config, &[nic], clock(), seed, Instant::now())?;
        let (listeners, streams, reads) = Default::default();
        Ok(Self { node, listeners, streams, reads, deadline: None, next: 1 })
    }

    fn listen(&mut self) -> Result<()> {
        let mut is_told = false;
        loop {
            let event = self.turn();
            if let Some(address) =
                self.node.status().address.as_ref().filter(|_| self.node.status().listening)
                && !std::mem::replace(&mut is_told, true)
            {
                println!("{address}");
            }
            if let Some(Event::Accepted { established, .. }) = event {
                let mut stream = self.take(established.connection)?;
                let mut heard = [0; 5];
                stream.read_exact(&mut heard)?;
                println!(
                    "{} says {}",
                    established.session.claim.peer.short(),
                    String::from_utf8_lossy(&heard)
                );
                stream.write_all(b"hello yourself")?;
                return Ok(());
            }
        }
    }

    fn connect(&mut self, address: &str) -> Result<()> {
        // Both ends wish a plain connection, so the socket is the pipe.
        let options = ConnectOptions { plain: true, ..ConnectOptions::default() };
        while !self.node.status().listening {
            self.turn();
        }
        self.node.connect(address.parse()?, options, Instant::now())?;
        loop {
            match self.turn() {
                Some(Event::Connected { established, .. }) => {
                    let mut stream = self.take(established.connection)?;
                    stream.write_all(b"hello")?;
                    let mut heard = String::new();
                    stream.read_to_string(&mut heard)?;
                    println!("{heard}, by the {} way", established.info.way);
                    return Ok(());
                }
                Some(Event::Failed { error, .. }) => bail!(error),
                _ => {}
            }
        }
    }

    /// Drains the node up to its next event, or feeds it what has happened meanwhile.
    fn turn(&mut self) -> Option<Event> {
        loop {
            match self.node.poll_output() {
                Output::Act(Act::Socket(owner, act)) => self.perform(owner, act),
                Output::Act(Act::ReadClock) => self.node.handle_clock(clock(), Instant::now()),
                // There are no brokers and no servers here, and the one interface does not change.
                Output::Act(_) => {}
                Output::Event(event) => return Some(event),
                Output::Wait(deadline) => {
                    self.deadline = deadline.map(|deadline| deadline.at);
                    break;
                }
            }
        }
        self.feed();
        if self.deadline.is_some_and(|at| at <= Instant::now()) {
            self.node.handle_timeout(Instant::now());
        }
        // The standard library can wait for one socket, not for several.
        std::thread::sleep(Duration::from_millis(1));
        None
    }

    fn perform(&mut self, owner: Owner, act: SocketAct) {
        match act {
            SocketAct::Listen { at, .. } => {
                let bound = TcpListener::bind(at).and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    Ok((listener.local_addr()?, listener))
                });
                let outcome = match bound {
                    Ok((local, listener)) => {
                        self.listeners.insert(local, (owner, listener));
                        Ok(local)
                    }
                    Err(error) => Err(ListenError {
                        kind: error.kind(),
                        reason: error.to_string(),
                        is_exhausted: false,
                    }),
                };
                self.node.handle_socket(owner, SocketEvent::Listening { at, outcome }, Instant::now());
            }
            SocketAct::Unlisten { at } => drop(self.listeners.remove(&at)),
            SocketAct::Dial { connection, to, .. } => {
                let dialled = TcpStream::connect(to).and_then(|stream| {
                    stream.set_nonblocking(true)?;
                    Ok((stream.local_addr()?, stream.peer_addr()?, stream))
                });
                let event = match dialled {
                    Ok((local, remote, stream)) => {
                        self.streams.insert(connection, (owner, stream));
                        SocketEvent::Connected { connection, local, remote }
                    }
                    Err(error) => {
                        SocketEvent::DialFailed { connection, error: DialError::Local(error.to_string()) }
                    }
                };
                self.node.handle_socket(owner, event, Instant::now());
            }
            SocketAct::Read { connection, at_most } => drop(self.reads.insert(connection, at_most)),
            SocketAct::Write { connection, bytes } => {
                let written = self.streams.get_mut(&connection).map(|(_, stream)| stream.write_all(&bytes));
                if !matches!(written, Some(Ok(()))) {
                    self.node.handle_socket(owner, SocketEvent::Lost { connection }, Instant::now());
                }
            }
            SocketAct::Close { connection } => {
                self.reads.remove(&connection);
                self.streams.remove(&connection);
            }
            // Without STUN servers there is nothing to ask.
            _ => {}
        }
    }

    fn feed(&mut self) {
        let mut events = Vec::new();
        for (at, (owner, listener)) in &self.listeners {
            while let Ok((stream, remote)) = listener.accept() {
                let connection = ConnectionId(self.next);
                self.next += 2;
                if stream.set_nonblocking(true).is_ok() {
                    self.streams.insert(connection, (*owner, stream));
                    events.push((*owner, SocketEvent::Accepted { connection, at: *at, remote }));
                }
            }
        }
        for (connection, at_most) in std::mem::take(&mut self.reads) {
            let Some((owner, stream)) = self.streams.get_mut(&connection) else { continue };
            let mut buffer = vec![0; at_most];
            match stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.reads.insert(connection, at_most);
                }
                Ok(length @ 1..) => {
                    let bytes = buffer[..length].to_vec().into();
                    events.push((*owner, SocketEvent::Bytes { connection, bytes }));
                }
                Ok(_) | Err(_) => events.push((*owner, SocketEvent::Lost { connection })),
            }
        }
        for (owner, event) in events {
            self.node.handle_socket(owner, event, Instant::now());
        }
    }

    /// Takes a connection that both ends keep out of the loop: it is the program's from now on.
    fn take(&mut self, connection: ConnectionId) -> Result<TcpStream> {
        let (_, stream) = self.streams.remove(&connection).context("a connection that was kept is open")?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

fn clock() -> Clock {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Clock::new(Instant::now(), UnixTime::default().after(unix))
}

/// Returns randomness of the operating system.
fn entropy() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

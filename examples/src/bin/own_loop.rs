//! A node without a runtime: the core's one machine, turned by hand with the sockets of the standard library.
//!
//! `own_loop listen` prints an address; `own_loop connect p2p1…`, in another process of this machine, connects to it. Each
//! says hello, and prints what it hears. Feed what happened, drain what is wanted, come back at the deadline: that
//! is all there is to driving a node.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use p2p_core::attempt::DialError;
use p2p_core::node::{
    Act, ConnectOptions, ConnectionId, Event, Nic, Node, NodeConfig, Owner, SocketAct, SocketEvent,
};
use p2p_core::peer::{Identity, PeerAddr};
use p2p_core::{Clock, Machine, Output, Seed};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let peer = match (words.next().as_deref(), words.next()) {
        (Some("listen"), None) => None,
        (Some("connect"), Some(address)) => Some(address.parse()?),
        _ => bail!("say `listen`, or `connect` and the address that `listen` printed"),
    };
    OwnLoop::new()?.run(peer)
}

/// A node, and the sockets it asked for.
struct OwnLoop {
    node: Node,
    listeners: BTreeMap<SocketAddr, (Owner, TcpListener)>,
    streams: BTreeMap<ConnectionId, Stream>,
    /// The number of the next connection that arrives.
    next: u64,
}

struct Stream {
    owner: Owner,
    tcp: TcpStream,
    /// The most bytes that are wanted of it now.
    wanted: usize,
}

impl OwnLoop {
    fn new() -> Result<Self> {
        // A program that is called again and again keeps its identity; one that is run once needs none.
        let mut seed = Seed::new(entropy()?);
        // Loopback is dialled only for a peer that proves to be on this machine.
        let config = NodeConfig::new(Identity::generate(&mut seed)).with_machine_id(*b"this machine");
        let config = config.with_plain(true);
        let node = Node::new(config, &[Nic::loopback()], clock(), seed, Instant::now())?;
        Ok(Self { node, listeners: BTreeMap::new(), streams: BTreeMap::new(), next: 1 })
    }

    /// Calls a peer and says hello, or waits to be called.
    fn run(mut self, peer: Option<PeerAddr>) -> Result<()> {
        while !self.node.status().listening {
            self.turn()?;
        }
        match peer {
            // Both ends wish a plain connection, so the socket is the pipe.
            Some(peer) => {
                self.node.connect(peer, ConnectOptions::new().with_plain(true), Instant::now())?;
            }
            None => println!("{}", self.node.status().address.as_ref().context("it listens")?),
        }
        loop {
            match self.turn()? {
                Some(Event::Connected { established, .. } | Event::Accepted { established, .. }) => {
                    let mut stream = self.take(established.connection)?;
                    stream.write_all(b"hello")?;
                    stream.shutdown(Shutdown::Write)?;
                    let mut heard = String::new();
                    stream.read_to_string(&mut heard)?;
                    let (peer, way) = (established.session.claim.peer.short(), established.info.way);
                    println!("{peer} says {heard}, by the {way} way");
                    return Ok(());
                }
                Some(Event::Failed { error, .. }) => bail!(error),
                _ => {}
            }
        }
    }

    /// Drains the node up to its next event, or feeds it what has happened meanwhile.
    fn turn(&mut self) -> Result<Option<Event>> {
        let deadline = loop {
            match self.node.poll_output() {
                Output::Act(Act::Socket(owner, act)) => self.perform(owner, act)?,
                Output::Act(Act::ReadClock) => self.node.handle_clock(clock(), Instant::now()),
                // There are no brokers and no servers here, and the one interface does not change.
                Output::Act(_) => {}
                Output::Event(event) => return Ok(Some(event)),
                Output::Wait(deadline) => break deadline,
            }
        };
        self.feed();
        if deadline.is_some_and(|deadline| deadline.at <= Instant::now()) {
            self.node.handle_timeout(Instant::now());
        }
        // The standard library can wait for one socket, not for several.
        std::thread::sleep(Duration::from_millis(1));
        Ok(None)
    }

    /// Does what the node wants of a socket.
    fn perform(&mut self, owner: Owner, act: SocketAct) -> Result<()> {
        match act {
            SocketAct::Listen { at, .. } => {
                let listener = TcpListener::bind(at)?;
                listener.set_nonblocking(true)?;
                let local = listener.local_addr()?;
                self.listeners.insert(local, (owner, listener));
                self.tell(owner, SocketEvent::Listening { at, outcome: Ok(local) });
            }
            SocketAct::Dial { connection, to, .. } => match dial(to) {
                Ok((tcp, local)) => {
                    self.streams.insert(connection, Stream { owner, tcp, wanted: 0 });
                    self.tell(owner, SocketEvent::Connected { connection, local, remote: to });
                }
                Err(error) => {
                    let error = DialError::Local(error.to_string());
                    self.tell(owner, SocketEvent::DialFailed { connection, error });
                }
            },
            SocketAct::Read { connection, at_most } => {
                self.streams.entry(connection).and_modify(|stream| stream.wanted = at_most);
            }
            SocketAct::Write { connection, bytes } => {
                let written = self.streams.get_mut(&connection).map(|stream| stream.tcp.write_all(&bytes));
                if !matches!(written, Some(Ok(()))) {
                    self.tell(owner, SocketEvent::Lost { connection });
                }
            }
            SocketAct::Close { connection } => drop(self.streams.remove(&connection)),
            // The one listener stays, and without STUN servers there is nothing to ask.
            _ => {}
        }
        Ok(())
    }

    /// Tells the node what has happened to its sockets.
    fn feed(&mut self) {
        let mut events = Vec::new();
        for (&at, &(owner, ref listener)) in &self.listeners {
            while let Ok((tcp, remote)) = listener.accept() {
                let connection = ConnectionId(self.next);
                self.next += 2;
                if tcp.set_nonblocking(true).is_ok() {
                    self.streams.insert(connection, Stream { owner, tcp, wanted: 0 });
                    events.push((owner, SocketEvent::Accepted { connection, at, remote }));
                }
            }
        }
        for (&connection, stream) in self.streams.iter_mut().filter(|(_, stream)| stream.wanted > 0) {
            let mut buffer = vec![0; stream.wanted];
            let event = match stream.tcp.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(length @ 1..) => {
                    SocketEvent::Bytes { connection, bytes: buffer[..length].to_vec().into() }
                }
                Ok(_) | Err(_) => SocketEvent::Lost { connection },
            };
            stream.wanted = 0;
            events.push((stream.owner, event));
        }
        events.into_iter().for_each(|(owner, event)| self.tell(owner, event));
    }

    fn tell(&mut self, owner: Owner, event: SocketEvent) {
        self.node.handle_socket(owner, event, Instant::now());
    }

    /// Takes a connection that both ends keep out of the loop: it is the program's from now on.
    fn take(&mut self, connection: ConnectionId) -> Result<TcpStream> {
        let stream = self.streams.remove(&connection).context("a connection that was kept is open")?;
        stream.tcp.set_nonblocking(false)?;
        Ok(stream.tcp)
    }
}

fn dial(to: SocketAddr) -> std::io::Result<(TcpStream, SocketAddr)> {
    let stream = TcpStream::connect(to)?;
    stream.set_nonblocking(true)?;
    let local = stream.local_addr()?;
    Ok((stream, local))
}

fn clock() -> Clock {
    Clock::new(Instant::now(), SystemTime::now().into())
}

/// Returns randomness of the operating system.
fn entropy() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

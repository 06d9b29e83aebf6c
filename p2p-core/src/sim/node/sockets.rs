//! The sockets of a simulated host, and what each of them is for.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use crate::attempt::{AttemptId, DialError};
use crate::node::{ChannelId, ConnectionId, ListenError, Owner, SocketAct, SocketEvent, StunLink};
use crate::sim::host::HostEvent;
use crate::sim::packet::IcmpKind;
use crate::sim::tcp::{Failure, SocketError, TcpEvent, TcpOptions, TcpSocket};
use crate::sim::udp::UdpSocket;
use crate::sim::world::Context;

/// The use of a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TcpUse {
    Listener { owner: Owner, asked: SocketAddr, at: SocketAddr, is_throwaway: bool },
    Connection(ConnectionId),
    Link { owner: Owner, link: StunLink, since: Instant },
    Hop { owner: Owner, syn: u8, from: SocketAddr },
    Channel(ChannelId),
    Circuit(AttemptId),
}

/// The use of a UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UdpUse {
    Datagrams { owner: Owner, at: SocketAddr },
    Circuit(AttemptId),
    Ntp(usize),
}

/// All sockets of a node, by their uses, and all targets that anything was ever sent to.
#[derive(Debug, Default)]
pub(crate) struct HostSockets {
    tcp: BTreeMap<TcpSocket, TcpUse>,
    udp: BTreeMap<UdpSocket, UdpUse>,
    reached: BTreeMap<SocketAddr, u64>,
}

/// What an event of the host means to the node, or to one of the machines beside it.
#[derive(Debug)]
pub(crate) enum Meaning {
    Node(Owner, SocketEvent),
    /// A connection that a proof runs on, or the user's.
    Connection(ConnectionId, TcpEvent),
    /// Somebody came to a listener of this owner.
    Arrived {
        owner: Owner,
        at: SocketAddr,
        socket: TcpSocket,
        remote: SocketAddr,
    },
    Channel(ChannelId, TcpEvent),
    Circuit(AttemptId, TcpEvent),
    Nothing,
}

impl HostSockets {
    /// Returns every target of dials and datagrams, and how many there were.
    pub(crate) fn reached(&self) -> &BTreeMap<SocketAddr, u64> {
        &self.reached
    }

    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        self.tcp.len() + self.udp.len()
    }

    pub(crate) fn use_of(&self, socket: UdpSocket) -> Option<UdpUse> {
        self.udp.get(&socket).copied()
    }

    pub(crate) fn set_use(&mut self, socket: TcpSocket, used: TcpUse) {
        self.tcp.insert(socket, used);
    }

    /// Dials for a use.
    pub(crate) fn dial(
        &mut self,
        used: TcpUse,
        (from, to): (Option<SocketAddr>, SocketAddr),
        options: TcpOptions,
        context: &mut Context<'_>,
    ) -> Result<TcpSocket, SocketError> {
        *self.reached.entry(to).or_default() += 1;
        let socket = context.host.tcp_dial(from, options, to, context.now)?;
        self.tcp.insert(socket, used);
        Ok(socket)
    }

    /// Binds a port for datagrams; port 0 stands for any.
    pub(crate) fn bind(
        &mut self,
        used: UdpUse,
        at: SocketAddr,
        context: &mut Context<'_>,
    ) -> Result<UdpSocket, SocketError> {
        let socket = context.host.udp_bind(at)?;
        self.udp.insert(socket, used);
        Ok(socket)
    }

    pub(crate) fn send(
        &mut self,
        socket: UdpSocket,
        to: SocketAddr,
        bytes: Bytes,
        context: &mut Context<'_>,
    ) -> Result<(), SocketError> {
        *self.reached.entry(to).or_default() += 1;
        context.host.udp_send(socket, to, bytes)
    }

    /// Lets go of a TCP socket.
    pub(crate) fn close(&mut self, socket: TcpSocket, context: &mut Context<'_>) {
        self.tcp.remove(&socket);
        context.host.tcp_mut().close(socket, context.now);
    }

    pub(crate) fn close_udp(&mut self, socket: UdpSocket, context: &mut Context<'_>) {
        self.udp.remove(&socket);
        context.host.udp_close(socket);
    }

    /// Ends everything of an owner that is no connection.
    pub(crate) fn end(&mut self, owner: Owner, context: &mut Context<'_>) {
        let is_its = |used: &TcpUse| match used {
            TcpUse::Listener { owner: known, .. }
            | TcpUse::Link { owner: known, .. }
            | TcpUse::Hop { owner: known, .. } => *known == owner,
            TcpUse::Connection(_) | TcpUse::Channel(_) | TcpUse::Circuit(_) => false,
        };
        for (socket, used) in self.tcp.extract_if(.., |_, used| is_its(used)) {
            match used {
                TcpUse::Link { .. } => context.host.tcp_mut().abort(socket),
                _ => context.host.tcp_mut().close(socket, context.now),
            }
        }
        let is_its =
            |used: &UdpUse| matches!(used, UdpUse::Datagrams { owner: known, .. } if *known == owner);
        for (socket, _) in self.udp.extract_if(.., |_, used| is_its(used)) {
            context.host.udp_close(socket);
        }
    }

    /// Performs an act that is not about a connection. Returns what is to be told at once.
    pub(crate) fn perform(
        &mut self,
        owner: Owner,
        act: SocketAct,
        context: &mut Context<'_>,
    ) -> Option<SocketEvent> {
        let now = context.now;
        match act {
            SocketAct::Listen { at, is_throwaway } => self.listen(owner, at, is_throwaway, context),
            SocketAct::Unlisten { at } => {
                let is_it = |used: &TcpUse| {
                    matches!(used, TcpUse::Listener { owner: known, asked, at: bound, .. }
                        if *known == owner && (*bound == at || *asked == at))
                };
                if let Some(socket) = self.find(is_it) {
                    self.close(socket, context);
                }
                None
            }
            SocketAct::OpenLink { link } => {
                let used = TcpUse::Link { owner, link, since: now };
                let ends = (Some(link.from), link.to);
                match self.dial(used, ends, TcpOptions::shared(), context) {
                    Ok(_) => None,
                    Err(error) => Some(SocketEvent::LinkDown { link, why: Some(cause(error)) }),
                }
            }
            SocketAct::WriteLink { link, bytes } => {
                if let Some(socket) = self.link(owner, link) {
                    // A connection that cannot take it breaks, which is told as an event.
                    let _ = context.host.tcp_mut().send(socket, &bytes, now);
                }
                None
            }
            SocketAct::CloseLink { link } => {
                if let Some(socket) = self.link(owner, link) {
                    self.tcp.remove(&socket);
                    context.host.tcp_mut().abort(socket);
                }
                None
            }
            SocketAct::SendDatagram { from, to, bytes } => {
                let used = UdpUse::Datagrams { owner, at: from };
                let known = self.udp.iter().find(|(_, known)| **known == used).map(|(socket, _)| *socket);
                let bound = known.map_or_else(|| self.bind(used, from, context), Ok);
                let sent = bound.and_then(|socket| self.send(socket, to, Bytes::from(bytes), context));
                let why = sent.err().map(cause)?;
                Some(SocketEvent::Unreachable { at: from, to, why })
            }
            SocketAct::CloseDatagrams { from } => {
                let used = UdpUse::Datagrams { owner, at: from };
                let known = self.udp.iter().find(|(_, known)| **known == used).map(|(socket, _)| *socket);
                if let Some(socket) = known {
                    self.close_udp(socket, context);
                }
                None
            }
            SocketAct::DialHop { syn, from, to, ttl } => {
                let used = TcpUse::Hop { owner, syn, from };
                let options = TcpOptions { ttl, ..TcpOptions::default() };
                match self.dial(used, (Some(from), to), options, context) {
                    Ok(_) => None,
                    Err(_) => Some(SocketEvent::SynUnsent { syn, from }),
                }
            }
            SocketAct::DropHop { syn, from } => {
                if let Some(socket) = self.find(|used| *used == TcpUse::Hop { owner, syn, from }) {
                    self.tcp.remove(&socket);
                    context.host.tcp_mut().abort(socket);
                }
                None
            }
            SocketAct::Dial { .. }
            | SocketAct::Read { .. }
            | SocketAct::Write { .. }
            | SocketAct::Close { .. } => unreachable!("acts on connections are performed elsewhere"),
        }
    }

    /// As programs do that share the port with their own dials and with no other listener.
    fn listen(
        &mut self,
        owner: Owner,
        asked: SocketAddr,
        is_throwaway: bool,
        context: &mut Context<'_>,
    ) -> Option<SocketEvent> {
        let options = TcpOptions { reuse_port: false, ..TcpOptions::shared() };
        let listened = context.host.tcp_listen(asked, options).and_then(|socket| {
            context.host.tcp_mut().share_port(socket)?;
            Ok((socket, context.host.tcp().local(socket).unwrap_or(asked)))
        });
        let outcome = match listened {
            Ok((socket, at)) => {
                self.tcp.insert(socket, TcpUse::Listener { owner, asked, at, is_throwaway });
                Ok(at)
            }
            Err(error) => {
                Err(ListenError { kind: kind(error), reason: error.to_string(), is_exhausted: false })
            }
        };
        (!is_throwaway).then_some(SocketEvent::Listening { at: asked, outcome })
    }

    fn find(&self, is_it: impl Fn(&TcpUse) -> bool) -> Option<TcpSocket> {
        self.tcp.iter().find(|(_, used)| is_it(used)).map(|(socket, _)| *socket)
    }

    fn link(&self, owner: Owner, wanted: StunLink) -> Option<TcpSocket> {
        self.find(|used| {
            matches!(used, TcpUse::Link { owner: known, link, .. } if *known == owner && *link == wanted)
        })
    }

    /// Returns what an event of the host means to an owner, where no machine beside the node has sockets.
    pub(crate) fn on_event(
        &mut self,
        event: HostEvent,
        context: &mut Context<'_>,
    ) -> Option<(Owner, SocketEvent)> {
        match event {
            HostEvent::Tcp(event) => match self.on_tcp(event, context) {
                Meaning::Node(owner, event) => Some((owner, event)),
                _ => None,
            },
            HostEvent::Datagram { socket, from, payload, .. } => match self.use_of(socket)? {
                UdpUse::Datagrams { owner, at } => {
                    Some((owner, SocketEvent::Datagram { at, from, bytes: payload }))
                }
                UdpUse::Circuit(_) | UdpUse::Ntp(_) => None,
            },
            HostEvent::Unreachable { socket, to, kind } => match self.use_of(socket)? {
                UdpUse::Datagrams { owner, at } if kind != IcmpKind::TooBig => {
                    let why = io::ErrorKind::HostUnreachable;
                    Some((owner, SocketEvent::Unreachable { at, to, why }))
                }
                _ => None,
            },
            HostEvent::Signal { .. } | HostEvent::EchoReply { .. } => None,
        }
    }

    /// Returns what an event means.
    pub(crate) fn on_tcp(&mut self, event: TcpEvent, context: &mut Context<'_>) -> Meaning {
        let socket = match event {
            TcpEvent::Accepted { listener, socket } => return self.on_accepted(listener, socket, context),
            TcpEvent::Connected(socket)
            | TcpEvent::Failed(socket, _)
            | TcpEvent::Readable(socket)
            | TcpEvent::PeerClosed(socket) => socket,
        };
        match self.tcp.get(&socket).copied() {
            Some(TcpUse::Connection(connection)) => Meaning::Connection(connection, event),
            Some(TcpUse::Channel(channel)) => Meaning::Channel(channel, event),
            Some(TcpUse::Circuit(attempt)) => Meaning::Circuit(attempt, event),
            Some(TcpUse::Link { owner, link, since }) => {
                self.on_link(socket, owner, link, since, event, context)
            }
            Some(TcpUse::Hop { owner, syn, from }) => {
                let by = context.host.tcp().accused_by(socket);
                self.tcp.remove(&socket);
                context.host.tcp_mut().abort(socket);
                let event = match (event, by) {
                    (TcpEvent::Failed(_, Failure::Unreachable(IcmpKind::TimeExceeded)), Some(by)) => {
                        SocketEvent::SynExpired { syn, from, by }
                    }
                    _ => SocketEvent::SynAnswered { syn, from },
                };
                Meaning::Node(owner, event)
            }
            Some(TcpUse::Listener { .. }) | None => Meaning::Nothing,
        }
    }

    fn on_accepted(&mut self, listener: TcpSocket, socket: TcpSocket, context: &mut Context<'_>) -> Meaning {
        let remote = context.host.tcp().remote(socket);
        match (self.tcp.get(&listener).copied(), remote) {
            (Some(TcpUse::Listener { owner, at, is_throwaway: false, .. }), Some(remote)) => {
                Meaning::Arrived { owner, at, socket, remote }
            }
            (Some(TcpUse::Listener { .. }), _) => {
                context.host.tcp_mut().abort(socket);
                Meaning::Nothing
            }
            _ => Meaning::Nothing,
        }
    }

    fn on_link(
        &mut self,
        socket: TcpSocket,
        owner: Owner,
        link: StunLink,
        since: Instant,
        event: TcpEvent,
        context: &mut Context<'_>,
    ) -> Meaning {
        let event = match event {
            TcpEvent::Connected(_) => SocketEvent::LinkUp { link, since },
            TcpEvent::Readable(_) => match context.host.tcp_mut().read(socket) {
                Ok(bytes) => SocketEvent::LinkBytes { link, bytes },
                Err(_) => return Meaning::Nothing,
            },
            TcpEvent::PeerClosed(_) | TcpEvent::Failed(..) => {
                self.tcp.remove(&socket);
                context.host.tcp_mut().abort(socket);
                let why = match event {
                    TcpEvent::Failed(_, failure) => Some(kind_of(failure)),
                    _ => None,
                };
                SocketEvent::LinkDown { link, why }
            }
            TcpEvent::Accepted { .. } => return Meaning::Nothing,
        };
        Meaning::Node(owner, event)
    }
}

/// Returns the kind of error that a system has for this.
pub(crate) fn kind(error: SocketError) -> io::ErrorKind {
    match error {
        SocketError::AddressInUse => io::ErrorKind::AddrInUse,
        SocketError::AddressNotAvailable => io::ErrorKind::AddrNotAvailable,
        SocketError::NoRoute => io::ErrorKind::NetworkUnreachable,
        _ => io::ErrorKind::Other,
    }
}

/// Returns the same as those who ask STUN servers want it: a port that cannot be used is in use.
fn cause(error: SocketError) -> io::ErrorKind {
    match kind(error) {
        io::ErrorKind::AddrNotAvailable => io::ErrorKind::AddrInUse,
        other => other,
    }
}

/// Returns the kind of error by which a system tells of this.
pub(crate) fn kind_of(failure: Failure) -> io::ErrorKind {
    match failure {
        Failure::Refused => io::ErrorKind::ConnectionRefused,
        Failure::Reset => io::ErrorKind::ConnectionReset,
        Failure::Unreachable(_) => io::ErrorKind::HostUnreachable,
        Failure::TimedOut => io::ErrorKind::TimedOut,
    }
}

/// Returns the reason for which a dial that got out came to nothing.
pub(crate) fn dial_error(failure: Failure) -> DialError {
    match failure {
        Failure::Refused | Failure::Reset => DialError::Refused,
        Failure::Unreachable(kind) => DialError::Unreachable(kind.to_string()),
        Failure::TimedOut => DialError::TimedOut,
    }
}

/// Returns the reason for which a dial did not even get out.
pub(crate) fn local_error(error: SocketError) -> DialError {
    match error {
        SocketError::NoRoute => DialError::Unreachable(error.to_string()),
        _ => DialError::Local(error.to_string()),
    }
}

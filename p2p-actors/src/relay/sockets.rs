//! The sockets of one circuit: its ways to TURN servers, and its own.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use p2p_core::Family;
use p2p_core::relay::circuit::{Via, Way};
use p2p_core::turn::client::Place;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::runtime::Handle;

use super::link::{Link, Rested};
use crate::bind;
use crate::tls::CaFiles;

/// Bytes that wait for room in one connection to a server; with more it is useless.
const MOST_UNSENT: usize = 256 * 1024;

type Opening = Pin<Box<dyn Future<Output = io::Result<Link>> + Send>>;

enum Wire {
    Opening(Opening),
    Open(Line),
}

/// An open way, and what of a stream has found no room yet.
struct Line {
    link: Link,
    unsent: BytesMut,
}

/// Sockets at work on a runtime.
pub(super) struct CircuitSockets {
    ca_files: CaFiles,
    /// Whoever has something sent may be on another one, or on none.
    runtime: Handle,
    ways: BTreeMap<Way, Wire>,
    bare: BTreeMap<Family, UdpSocket>,
}

/// Sockets at rest.
pub(super) struct RestedSockets {
    ca_files: CaFiles,
    ways: BTreeMap<Way, (Rested, BytesMut)>,
    bare: BTreeMap<Family, std::net::UdpSocket>,
    /// Those that were not open yet, and will not be.
    lost: Vec<Way>,
}

/// Something came.
pub(super) enum Came {
    Opened(Way),
    /// So many bytes: a datagram.
    Datagram(Way, usize),
    /// So many bytes: a piece of a stream.
    Piece(Way, usize),
    /// So many bytes, to a socket of our own.
    Bare(SocketAddr, usize),
    /// It broke or ended; over UDP ICMP says so, and it goes on.
    Closed(Way, Option<io::ErrorKind>),
}

impl CircuitSockets {
    pub(super) fn new(ca_files: CaFiles) -> Self {
        Self { ca_files, runtime: Handle::current(), ways: BTreeMap::new(), bare: BTreeMap::new() }
    }

    /// Begins to open a way; [`poll_receive`](Self::poll_receive) tells what comes of it.
    pub(super) fn open(&mut self, way: Way, place: Place) {
        let ca_files = self.ca_files.clone();
        let opening = Box::pin(async move { Link::open(&place, &ca_files).await });
        self.ways.insert(way, Wire::Opening(opening));
    }

    pub(super) fn close(&mut self, way: Way) {
        self.ways.remove(&way);
    }

    /// Gives a connection away.
    pub(super) fn take(&mut self, way: Way) -> Option<Link> {
        match self.ways.remove(&way)? {
            Wire::Open(line) => Some(line.link),
            Wire::Opening(_) => None,
        }
    }

    /// The local address that datagrams to `remote` leave from.
    pub(super) fn local(&self, remote: SocketAddr) -> io::Result<SocketAddr> {
        let socket = self.bare.get(&Family::of(remote.ip())).ok_or(io::ErrorKind::NotConnected)?;
        let port = socket.local_addr()?.port();
        // Nothing is sent: the system only says which address it would choose.
        let scout = std::net::UdpSocket::bind(any(Family::of(remote.ip())))?;
        scout.connect(remote)?;
        Ok(SocketAddr::new(scout.local_addr()?.ip(), port))
    }

    /// Sends a datagram, or nothing when there is no room.
    pub(super) fn poll_send(
        &mut self,
        via: Via,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), (Way, io::ErrorKind)>> {
        match via {
            Via::Bare(to) => self.poll_send_bare(to, bytes, cx).map(Ok),
            Via::Server(way) => {
                let Some(Wire::Open(line)) = self.ways.get_mut(&way) else { return Poll::Ready(Ok(())) };
                if !line.unsent.is_empty() {
                    ready!(line.poll_unsent(cx)).map_err(|error| (way, error.kind()))?;
                }
                line.poll_send(bytes, cx).map_err(|error| (way, error.kind()))
            }
        }
    }

    fn poll_send_bare(&mut self, to: SocketAddr, bytes: &[u8], cx: &mut Context<'_>) -> Poll<()> {
        let family = Family::of(to.ip());
        let socket = match self.bare.entry(family) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => match bind_on(&self.runtime, family) {
                Ok(socket) => entry.insert(socket),
                Err(error) => {
                    tracing::debug!(%error, "no socket for datagrams");
                    return Poll::Ready(());
                }
            },
        };
        match socket.try_send_to(bytes, to) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // What cannot be sent is lost, as on the network.
                socket.poll_send_to(cx, bytes, to).map(drop)
            }
            _ => Poll::Ready(()),
        }
    }

    /// Sends what cannot be sent again: it waits for room if it must.
    pub(super) fn send(
        &mut self,
        way: Way,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), (Way, io::ErrorKind)> {
        let Some(Wire::Open(line)) = self.ways.get_mut(&way) else { return Ok(()) };
        if line.unsent.is_empty() {
            match line.poll_send(bytes, cx) {
                Poll::Ready(sent) => return sent.map_err(|error| (way, error.kind())),
                // A datagram that finds no room is lost; the machine says it again.
                Poll::Pending if matches!(line.link, Link::Udp(_)) => return Ok(()),
                Poll::Pending => {}
            }
        }
        if line.unsent.len() + bytes.len() > MOST_UNSENT {
            return Err((way, io::ErrorKind::WriteZero));
        }
        line.unsent.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether something waits for room.
    pub(super) fn has_unsent(&self) -> bool {
        self.ways.values().any(|wire| matches!(wire, Wire::Open(line) if !line.unsent.is_empty()))
    }

    /// Sends what waited for room.
    pub(super) fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Vec<(Way, io::ErrorKind)> {
        let mut broken = Vec::new();
        for (way, wire) in &mut self.ways {
            if let Wire::Open(line) = wire
                && let Poll::Ready(Err(error)) = line.poll_unsent(cx)
            {
                broken.push((*way, error.kind()));
            }
        }
        broken
    }

    /// The next thing that has come; bytes are in `buf`.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Came> {
        for (way, wire) in &mut self.ways {
            let way = *way;
            match wire {
                Wire::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(link)) => {
                        *wire = Wire::Open(Line { link, unsent: BytesMut::new() });
                        return Poll::Ready(Came::Opened(way));
                    }
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(%error, "no way to a TURN server");
                        self.ways.remove(&way);
                        return Poll::Ready(Came::Closed(way, Some(error.kind())));
                    }
                },
                Wire::Open(line) => {
                    let is_udp = matches!(line.link, Link::Udp(_));
                    match line.link.poll_recv(cx, buf) {
                        Poll::Pending => {}
                        Poll::Ready(Ok(length)) if is_udp => {
                            return Poll::Ready(Came::Datagram(way, length));
                        }
                        Poll::Ready(Ok(length @ 1..)) => return Poll::Ready(Came::Piece(way, length)),
                        Poll::Ready(end) => {
                            if !is_udp {
                                self.ways.remove(&way);
                            }
                            return Poll::Ready(Came::Closed(way, end.err().map(|error| error.kind())));
                        }
                    }
                }
            }
        }
        for socket in self.bare.values() {
            let mut room = ReadBuf::new(buf);
            // Errors of a socket that is connected to nobody are about datagrams that are lost anyway.
            if let Poll::Ready(Ok(from)) = socket.poll_recv_from(cx, &mut room) {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                return Poll::Ready(Came::Bare(from, room.filled().len()));
            }
        }
        Poll::Pending
    }

    /// Off the runtime. What cannot leave it is lost.
    pub(super) fn rest(self) -> RestedSockets {
        let mut rested = RestedSockets {
            ca_files: self.ca_files,
            ways: BTreeMap::new(),
            bare: BTreeMap::new(),
            lost: Vec::new(),
        };
        for (way, wire) in self.ways {
            match wire {
                Wire::Open(Line { link, unsent }) => match link.rest() {
                    Ok(link) => drop(rested.ways.insert(way, (link, unsent))),
                    Err(_) => rested.lost.push(way),
                },
                Wire::Opening(_) => rested.lost.push(way),
            }
        }
        for (family, socket) in self.bare {
            if let Ok(socket) = socket.into_std() {
                rested.bare.insert(family, socket);
            }
        }
        rested
    }
}

impl Line {
    /// Datagrams go whole or not at all; of a stream's bytes the rest waits.
    fn poll_send(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = ready!(self.link.poll_send(cx, bytes));
        match (&self.link, sent) {
            (Link::Udp(_), Ok(_)) => {}
            // ICMP says something; anything else is a datagram that is lost.
            (Link::Udp(_), Err(error)) if error.kind() != io::ErrorKind::ConnectionRefused => {}
            (_, Err(error)) => return Poll::Ready(Err(error)),
            (_, Ok(sent)) => {
                self.unsent.extend_from_slice(&bytes[sent..]);
                let _ = self.poll_unsent(cx)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(self.link.poll_send(cx, &self.unsent))?;
            self.unsent.advance(sent);
        }
        // An empty buffer costs nothing while nothing is sent.
        self.unsent = BytesMut::new();
        self.link.poll_flush(cx)
    }
}

impl RestedSockets {
    /// Sends one packet of a last word, if there is room for it.
    pub(super) fn send(&self, way: Way, bytes: &[u8]) {
        if let Some((Rested::Udp(socket), _)) = self.ways.get(&way) {
            // Nobody stays to see what becomes of it.
            let _ = socket.send(bytes);
        }
    }

    /// Onto the current runtime, and which ways were lost.
    pub(super) fn wake(self) -> io::Result<(CircuitSockets, Vec<Way>)> {
        let mut sockets = CircuitSockets::new(self.ca_files);
        for (way, (link, unsent)) in self.ways {
            sockets.ways.insert(way, Wire::Open(Line { link: link.wake()?, unsent }));
        }
        for (family, socket) in self.bare {
            sockets.bare.insert(family, UdpSocket::from_std(socket)?);
        }
        Ok((sockets, self.lost))
    }
}

fn bind_on(runtime: &Handle, family: Family) -> io::Result<UdpSocket> {
    let _there = runtime.enter();
    bind::datagrams(any(family))
}

fn any(family: Family) -> SocketAddr {
    match family {
        Family::V4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        Family::V6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

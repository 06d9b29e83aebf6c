//! A STUN server for simulated hosts: the real [`Responder`] behind simulated sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::host::{Host, HostEvent};
use super::tcp::{Failure, SocketError, TcpEvent, TcpOptions, TcpSocket};
use super::udp::UdpSocket;
use super::world::{Context, Program};
use crate::nat::SynAnswer;
use crate::stun::dial_back::SynOutcome;
use crate::stun::frame::Framer;
use crate::stun::responder::{Reply, Silence};
use crate::stun::{Responder, Transport};

/// The most TCP connections at a time; more are reset.
const MOST_CONNECTIONS: usize = 4_096;

/// A STUN server over UDP and TCP, with a second address where its responder has one.
#[derive(Debug)]
pub struct StunServer {
    responder: Responder,
    sockets: Vec<(SocketAddr, UdpSocket)>,
    connections: BTreeMap<TcpSocket, Framer>,
    /// The clients that are being dialled back.
    dials: Vec<PendingDial>,
    answered: u64,
    ignored: u64,
}

/// A client that is being dialled back, from near and from far.
#[derive(Debug)]
struct PendingDial {
    /// The connection that the client asked over, and its request.
    connection: TcpSocket,
    request: Vec<u8>,
    tries: [Try; 2],
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Try {
    Dialling(TcpSocket),
    Ended(SynOutcome),
}

impl Try {
    fn outcome(self) -> SynOutcome {
        match self {
            Self::Dialling(_) => SynOutcome::Kept(SynAnswer::Silence),
            Self::Ended(outcome) => outcome,
        }
    }
}

/// Returns what the end of a dial tells of the dialled end's answer.
pub(super) fn answer(why: Failure) -> SynAnswer {
    match why {
        Failure::Refused | Failure::Reset => SynAnswer::Reset,
        Failure::Unreachable(_) => SynAnswer::Icmp,
        Failure::TimedOut => SynAnswer::Silence,
    }
}

impl StunServer {
    /// Binds all addresses of `responder` on `host`, which must have them.
    ///
    /// # Errors
    /// [`SocketError`] when one of them is not the host's, or is in use.
    pub fn bind(host: &mut Host, responder: Responder) -> Result<Self, SocketError> {
        let mut sockets = Vec::new();
        for address in responder.sockets() {
            sockets.push((address, host.udp_bind(address)?));
            host.tcp_listen(address, TcpOptions::shared())?;
        }
        Ok(Self {
            responder,
            sockets,
            connections: BTreeMap::new(),
            dials: Vec::new(),
            answered: 0,
            ignored: 0,
        })
    }

    /// Returns the number of requests that were answered, refusals included.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Returns the number of messages that deserved no answer.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn on_datagram(&mut self, bytes: &[u8], from: SocketAddr, to: SocketAddr, context: &mut Context<'_>) {
        let Ok(reply) = self.responder.respond(bytes, from, to, Transport::Udp) else {
            self.ignored += 1;
            return;
        };
        let Some((_, socket)) = self.sockets.iter().find(|(address, _)| *address == reply.from) else {
            return;
        };
        self.answered += 1;
        // An answer that cannot be sent is lost, and the client asks again.
        let _ = context.host.udp_send(*socket, reply.to, Bytes::from(reply.bytes));
    }

    fn on_bytes(&mut self, socket: TcpSocket, context: &mut Context<'_>) {
        let tcp = context.host.tcp_mut();
        let (Some(local), Some(remote)) = (tcp.local(socket), tcp.remote(socket)) else { return };
        let Some(framer) = self.connections.get_mut(&socket) else { return };
        let Ok(bytes) = tcp.read(socket) else { return };
        let mut rest = &bytes[..];
        let mut messages = Vec::new();
        let is_broken = loop {
            match framer.feed(&mut rest) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        for message in messages {
            match self.responder.dial_wish(&message) {
                Some(patience) => self.dial(socket, message, (remote, local), patience, context),
                None => {
                    let reply = self.responder.respond(&message, remote, local, Transport::Tcp);
                    self.reply(socket, reply, context);
                }
            }
        }
        if is_broken {
            self.ignored += 1;
            self.connections.remove(&socket);
            context.host.tcp_mut().abort(socket);
        }
    }

    fn reply(&mut self, socket: TcpSocket, reply: Result<Reply, Silence>, context: &mut Context<'_>) {
        match reply {
            Ok(reply) => {
                self.answered += 1;
                // A client that does not read its answers loses them.
                let _ = context.host.tcp_mut().send(socket, &reply.bytes, context.now);
            }
            Err(_) => self.ignored += 1,
        }
    }

    /// Dials the client at the source of its connection.
    fn dial(
        &mut self,
        connection: TcpSocket,
        request: Vec<u8>,
        (remote, local): (SocketAddr, SocketAddr),
        patience: Duration,
        context: &mut Context<'_>,
    ) {
        let tries = [Some(local.ip()), self.responder.other_ip(local)].map(|ip| {
            let from = ip.map(|ip| SocketAddr::new(ip, 0));
            let dialled = from
                .map(|from| context.host.tcp_dial(Some(from), TcpOptions::default(), remote, context.now));
            match dialled {
                Some(Ok(socket)) => Try::Dialling(socket),
                _ => Try::Ended(SynOutcome::Unavailable),
            }
        });
        self.dials.push(PendingDial { connection, request, tries, until: context.now + patience });
        self.settle(context);
    }

    /// Handles the end of one of our dials. Returns true when the event was about one.
    fn on_dialled(&mut self, socket: TcpSocket, outcome: SynOutcome, context: &mut Context<'_>) -> bool {
        let mut tries = self.dials.iter_mut().flat_map(|dial| &mut dial.tries);
        let Some(tried) = tries.find(|tried| **tried == Try::Dialling(socket)) else { return false };
        *tried = Try::Ended(outcome);
        context.host.tcp_mut().abort(socket);
        self.settle(context);
        true
    }

    /// Answers clients whose dials have ended or taken too long.
    fn settle(&mut self, context: &mut Context<'_>) {
        let is_over = |dial: &PendingDial| {
            dial.until <= context.now || dial.tries.iter().all(|tried| matches!(tried, Try::Ended(_)))
        };
        let (over, left) = std::mem::take(&mut self.dials).into_iter().partition(is_over);
        self.dials = left;
        let over: Vec<PendingDial> = over;
        for PendingDial { connection, request, tries, .. } in over {
            let tcp = context.host.tcp_mut();
            for tried in tries {
                if let Try::Dialling(socket) = tried {
                    tcp.abort(socket);
                }
            }
            let (Some(local), Some(remote)) = (tcp.local(connection), tcp.remote(connection)) else {
                continue;
            };
            let outcomes = (tries[0].outcome(), tries[1].outcome());
            let reply = self.responder.respond_dialled(&request, remote, local, outcomes);
            self.reply(connection, reply, context);
        }
    }
}

impl Program for StunServer {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        let dialled = match event {
            HostEvent::Tcp(TcpEvent::Connected(socket)) => Some((socket, SynOutcome::Connected)),
            HostEvent::Tcp(TcpEvent::Failed(socket, why)) => Some((socket, SynOutcome::Kept(answer(why)))),
            _ => None,
        };
        if dialled.is_some_and(|(socket, outcome)| self.on_dialled(socket, outcome, context)) {
            return;
        }
        match event {
            HostEvent::Datagram { from, to, payload, .. } => self.on_datagram(&payload, from, to, context),
            HostEvent::Tcp(TcpEvent::Accepted { socket, .. }) => {
                if self.connections.len() < MOST_CONNECTIONS {
                    self.connections.insert(socket, Framer::default());
                } else {
                    context.host.tcp_mut().abort(socket);
                }
            }
            HostEvent::Tcp(TcpEvent::Readable(socket)) => self.on_bytes(socket, context),
            HostEvent::Tcp(TcpEvent::PeerClosed(socket) | TcpEvent::Failed(socket, _)) => {
                self.connections.remove(&socket);
                context.host.tcp_mut().close(socket, context.now);
            }
            _ => (),
        }
    }

    fn handle_timeout(&mut self, context: &mut Context<'_>) {
        self.settle(context);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.dials.iter().map(|dial| dial.until).min()
    }
}

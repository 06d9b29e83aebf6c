//! A STUN server for simulated hosts: the real [`Responder`] behind simulated sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;

use super::host::{Host, HostEvent};
use super::tcp::{SocketError, TcpEvent, TcpOptions, TcpSocket};
use super::udp::UdpSocket;
use super::world::{Context, Program};
use crate::stun::frame::Framer;
use crate::stun::{Responder, Transport};

/// Most TCP connections at a time; more are reset.
const MOST_CONNECTIONS: usize = 4_096;

/// A STUN server over UDP and TCP, with a second address where its responder has one.
#[derive(Debug)]
pub struct StunServer {
    responder: Responder,
    sockets: Vec<(SocketAddr, UdpSocket)>,
    connections: BTreeMap<TcpSocket, Framer>,
    answered: u64,
    ignored: u64,
}

impl StunServer {
    /// Binds all addresses of `responder` on `host`, which must have them.
    ///
    /// # Errors
    /// When one of them is not the host's, or in use.
    pub fn bind(host: &mut Host, responder: Responder) -> Result<Self, SocketError> {
        let mut sockets = Vec::new();
        for address in responder.sockets() {
            sockets.push((address, host.udp_bind(address)?));
            host.tcp_listen(address, TcpOptions::shared())?;
        }
        Ok(Self { responder, sockets, connections: BTreeMap::new(), answered: 0, ignored: 0 })
    }

    /// Requests that were answered, refusals included.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Messages that deserved no answer.
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
        // An answer that cannot be sent is a lost one: the client asks again.
        let _ = context.host.udp_send(*socket, reply.to, Bytes::from(reply.bytes));
    }

    fn on_bytes(&mut self, socket: TcpSocket, context: &mut Context<'_>) {
        let tcp = context.host.tcp_mut();
        let (Some(local), Some(remote)) = (tcp.local(socket), tcp.remote(socket)) else { return };
        let Some(framer) = self.connections.get_mut(&socket) else { return };
        let Ok(bytes) = tcp.read(socket) else { return };
        let mut rest = &bytes[..];
        loop {
            match framer.feed(&mut rest) {
                Ok(Some(message)) => match self.responder.respond(&message, remote, local, Transport::Tcp) {
                    Ok(reply) => {
                        self.answered += 1;
                        // A client that does not read its answers loses them.
                        let _ = tcp.send(socket, &reply.bytes, context.now);
                    }
                    Err(_) => self.ignored += 1,
                },
                Ok(None) => return,
                Err(_) => {
                    self.ignored += 1;
                    self.connections.remove(&socket);
                    tcp.abort(socket);
                    return;
                }
            }
        }
    }
}

impl Program for StunServer {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
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
}

//! The NTP client of a simulated host.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::sockets::{HostSockets, UdpUse, kind};
use crate::clock::ntp::{Act, Client, Report};
use crate::sim::packet::unspecified;
use crate::sim::udp::UdpSocket;
use crate::sim::world::Context;
use crate::{Clock, Machine, Output};

/// A [`Client`], and its socket for each server.
#[derive(Debug)]
pub(super) struct TimeClient {
    client: Client,
    clock: Clock,
    lines: BTreeMap<usize, (UdpSocket, SocketAddr)>,
    wait: Option<Instant>,
}

/// Tells what a client wants of its owner.
#[derive(Debug)]
pub(super) enum TimeNews {
    /// Tell the node.
    Report(Report),
    /// Look up the name of this server, and call [`TimeClient::handle_resolved`].
    LookUp(usize),
}

impl TimeClient {
    pub(super) fn new(client: Client, clock: Clock) -> Self {
        Self { client, clock, lines: BTreeMap::new(), wait: None }
    }

    pub(super) fn wait(&self) -> Option<Instant> {
        self.wait
    }

    /// Asks about this clock: anew if it is another, else as soon as that is polite.
    pub(super) fn measure(&mut self, clock: Clock, now: Instant) {
        if self.clock == clock {
            self.client.handle_again(now);
        } else {
            self.clock = clock;
            self.client.handle_clock(clock, now);
        }
    }

    pub(super) fn handle_resolved(
        &mut self,
        server: usize,
        found: Result<Vec<SocketAddr>, String>,
        now: Instant,
    ) {
        self.client.handle_resolved(server, found, now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.client.handle_timeout(now);
    }

    /// A datagram came to the socket of a server. A connected socket hears nobody else.
    pub(super) fn on_datagram(&mut self, server: usize, from: SocketAddr, payload: &Bytes, now: Instant) {
        if self.lines.get(&server).is_some_and(|(_, to)| *to == from) {
            self.client.handle_datagram(server, from, payload, now);
        }
    }

    /// An ICMP error came about a datagram.
    pub(super) fn on_unreachable(&mut self, server: usize, now: Instant) {
        self.client.handle_unreachable(server, std::io::ErrorKind::ConnectionRefused, now);
    }

    /// Performs what the client wants until it rests, and returns what it tells.
    pub(super) fn turn(&mut self, sockets: &mut HostSockets, context: &mut Context<'_>) -> Vec<TimeNews> {
        let mut news = Vec::new();
        loop {
            match self.client.poll_output() {
                Output::Act(Act::Resolve { server }) => news.push(TimeNews::LookUp(server)),
                Output::Act(Act::Send { server, to, bytes }) => {
                    self.send(server, to, &bytes, sockets, context)
                }
                Output::Act(Act::Release { server }) => self.release(server, sockets, context),
                Output::Event(report) => news.push(TimeNews::Report(report)),
                Output::Wait(wait) => {
                    self.wait = wait.map(|deadline| deadline.at);
                    return news;
                }
            }
        }
    }

    fn send(
        &mut self,
        server: usize,
        to: SocketAddr,
        bytes: &[u8],
        sockets: &mut HostSockets,
        context: &mut Context<'_>,
    ) {
        if self.lines.get(&server).is_none_or(|(_, known)| *known != to) {
            self.release(server, sockets, context);
            let any = SocketAddr::new(unspecified(to.ip()), 0);
            match sockets.bind(UdpUse::Ntp(server), any, context) {
                Ok(socket) => drop(self.lines.insert(server, (socket, to))),
                Err(error) => return self.client.handle_unreachable(server, kind(error), context.now),
            }
        }
        let Some((socket, _)) = self.lines.get(&server) else { return };
        if let Err(error) = sockets.send(*socket, to, Bytes::copy_from_slice(bytes), context) {
            self.client.handle_unreachable(server, kind(error), context.now);
        }
    }

    fn release(&mut self, server: usize, sockets: &mut HostSockets, context: &mut Context<'_>) {
        if let Some((socket, _)) = self.lines.remove(&server) {
            sockets.close_udp(socket, context);
        }
    }

    /// Ends it.
    pub(super) fn close(&mut self, sockets: &mut HostSockets, context: &mut Context<'_>) {
        self.client.close(context.now);
        self.turn(sockets, context);
        for (socket, _) in std::mem::take(&mut self.lines).into_values() {
            sockets.close_udp(socket, context);
        }
    }
}

//! What the parts of a circuit say, and what follows from it.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Act, Circuit, Datagrams, Event, State, Way};
use crate::relay::route::End;
use crate::transport;
use crate::transport::{Read, TransportError};
use crate::turn::Relaying;
use crate::turn::client::{self, Client};
use crate::{Machine, Output};

impl Circuit {
    /// Takes all parts as far as they go.
    pub(super) fn drain(&mut self, now: Instant) {
        self.now = now;
        if self.state == State::Over {
            return;
        }
        loop {
            self.drain_clients(now);
            self.drain_stream(now);
            let due = self.routes.due(now);
            if due.is_empty() {
                break;
            }
            due.into_iter().for_each(|route| self.challenge(route, now));
        }
        self.say(now);
        self.check(now);
        if self.state == State::Closing
            && self.clients.iter().all(|relay_client| relay_client.client.is_none())
        {
            self.state = State::Over;
            self.tell(Event::Closed);
        }
    }

    fn drain_clients(&mut self, now: Instant) {
        for relaying in [Relaying::Udp, Relaying::Tcp] {
            while let Some(client) = &mut self.clients[super::index(relaying)].client {
                match client.poll_output() {
                    Output::Act(act) => self.out.push_back(Output::Act(of_client(act, relaying))),
                    Output::Event(event) => self.on_client(relaying, event, now),
                    Output::Wait(_) => break,
                }
            }
        }
    }

    /// The acts that a client has, and no more: it was only told to send.
    pub(super) fn drain_acts(
        client: &mut Client,
        relaying: Relaying,
        out: &mut VecDeque<Output<Act, Event>>,
    ) {
        client.drain_acts(|act| out.push_back(Output::Act(of_client(act, relaying))));
    }

    fn on_client(&mut self, relaying: Relaying, event: client::Event, now: Instant) {
        use client::Event as Of;
        let relay_client = &mut self.clients[super::index(relaying)];
        match event {
            Of::Ready { lease, .. } => {
                if relaying == Relaying::Tcp && !self.config.connections.trusts(lease.software.as_deref()) {
                    return self.distrust(now);
                }
                relay_client.has_relayed = true;
                self.find_routes(now);
            }
            Of::Moved { .. } => {
                (relay_client.has_relayed, self.trouble) = (true, None);
                self.find_routes(now);
                if relaying == Relaying::Udp {
                    self.move_on(now);
                }
            }
            Of::Permitted(ip) => match self.routes.current() {
                None if self.routes.leads_to(ip) => self.routes.reopen(now),
                None => {}
                Some(route) if route.from == End::Relayed && route.to.ip() == ip => {
                    self.stream.iter_mut().for_each(|stream| stream.handle_path_changed(now));
                }
                Some(_) => {}
            },
            Of::Refused(ip, failure) => self.refused = Some(format!("{ip}: {failure}")),
            Of::Bound(_) | Of::NotConnected { .. } => {}
            Of::Data { peer, data } => {
                self.on_datagram(crate::relay::Route { from: End::Relayed, to: peer }, &data, now);
            }
            Of::Stream { conn, peer, early } => self.on_connection(Way { relaying, conn }, peer, early),
            Of::Trouble(failure) => self.trouble = Some(failure.to_string()),
            Of::Recovered => self.trouble = None,
            Of::Failed(report) => {
                relay_client.client = None;
                relay_client.failed = Some(report.to_string());
                self.on_client_lost(relaying, now);
            }
            Of::Closed => relay_client.client = None,
        }
    }

    /// This server is better not asked to relay connections.
    fn distrust(&mut self, now: Instant) {
        tracing::debug!("the TURN server is not trusted with connections");
        self.end_client(Relaying::Tcp, now);
        self.on_client_lost(Relaying::Tcp, now);
    }

    fn on_connection(&mut self, way: Way, peer: std::net::SocketAddr, early: bytes::Bytes) {
        if matches!(self.state, State::Meeting { .. } | State::Met) {
            self.connections += 1;
            self.tell(Event::Arrived { way, peer, early });
        } else {
            self.act(Act::Close { way });
        }
    }

    /// Our end of the route is another one: what was on its way is lost.
    fn move_on(&mut self, now: Instant) {
        if self.routes.current().is_some_and(|route| route.from == End::Relayed) {
            self.routes.reopen(now);
            self.stream.iter_mut().for_each(|stream| stream.handle_path_changed(now));
        }
    }

    /// No server lends us anything any more.
    fn on_client_lost(&mut self, relaying: Relaying, now: Instant) {
        self.find_routes(now);
        match (relaying, self.routes.current()) {
            (Relaying::Udp, Some(route)) if route.from == End::Relayed => {
                self.trouble = self.clients[0].failed.clone();
                self.routes.reopen(now);
                if !self.routes.has_candidates() && self.stream.take().is_some() {
                    self.tell(Event::Ended(Some(TransportError::Silent)));
                }
            }
            (Relaying::Tcp, _)
                if matches!(self.datagrams, Datagrams::Held { .. }) && !self.hopes_for_connection() =>
            {
                self.go_up();
            }
            _ => {}
        }
    }

    pub(super) fn drain_stream(&mut self, now: Instant) {
        while let Some(event) = self.stream.as_mut().and_then(|stream| stream.poll_event()) {
            match event {
                transport::Event::Readable => self.tell(Event::Readable),
                transport::Event::Writable => self.tell(Event::Writable),
                transport::Event::PathDead => self.on_path_dead(now),
                transport::Event::Ended(error) => {
                    if matches!(self.state, State::Lingering { .. }) {
                        return self.close(now);
                    }
                    self.tell(Event::Ended(error));
                }
            }
        }
        if matches!(self.state, State::Lingering { .. }) {
            self.discard(now);
        }
    }

    /// Nobody reads any more; the peer shall not wait for room.
    fn discard(&mut self, now: Instant) {
        let mut out = [0; 1_024];
        while let Some(Ok(Read::Bytes(1..))) = self.stream.as_mut().map(|stream| stream.read(&mut out, now)) {
        }
    }

    fn on_path_dead(&mut self, now: Instant) {
        self.routes.reopen(now);
        if let Some(client) = &mut self.clients[0].client {
            client.handle_doubt(now);
        }
        // The peer may have missed where we are.
        self.saying.again = Some((0, now));
        self.say_again(now);
        self.drain_clients(now);
    }
}

fn of_client(act: client::Act, relaying: Relaying) -> Act {
    match act {
        client::Act::Open { conn, place } => Act::Open { way: Way { relaying, conn }, place },
        client::Act::Transmit { conn, packet } => Act::Transmit { way: Way { relaying, conn }, packet },
        client::Act::Close { conn } => Act::Close { way: Way { relaying, conn } },
    }
}

//! The stream of a circuit, and the datagrams it is made of.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::{Act, Circuit, DEAD_AFTER, Datagrams, GIVE_UP_AFTER, GRACE, MOVE_PAUSE, State, Via, Way};
use crate::attempt::Role;
use crate::relay::route::{CHALLENGE_LENGTH, End, Nonce, PathChallenge, Route};
use crate::transport::{Read, Stream, Tokens, TransportConfig, TransportError};
use crate::turn::Relaying;
use crate::turn::channel::CHANNEL_HEADER;

/// The token in a datagram of the stream; see `frame.rs`.
const TOKEN: std::ops::Range<usize> = 1..9;
/// Datagrams that still go out when the user closes: what is left of an answer, and the word that it is over.
const LAST_DATAGRAMS: usize = 16;

/// A datagram that was written into a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where it is to be sent from.
    pub via: Via,
    /// How long it is.
    pub length: usize,
}

impl Circuit {
    /// A way to a server is open.
    pub fn handle_opened(&mut self, way: Way, now: Instant) {
        if let Some(client) = self.client(way) {
            client.handle_opened(way.conn, now);
            self.drain(now);
        }
    }

    /// It could not be opened, broke, or was closed by the server.
    pub fn handle_closed(&mut self, way: Way, why: Option<std::io::ErrorKind>, now: Instant) {
        if let Some(client) = self.client(way) {
            client.handle_closed(way.conn, why, now);
            self.drain(now);
        }
    }

    /// A datagram came on it, or a piece of its stream.
    pub fn handle_data(&mut self, way: Way, bytes: Bytes, now: Instant) {
        if let Some(client) = self.client(way) {
            client.handle_data(way.conn, bytes, now);
            self.drain(now);
        }
    }

    /// As [`handle_data`](Self::handle_data), for a datagram that lies in a buffer of the driver's. Call
    /// [`settle`](Self::settle) when all that have come are handed in.
    pub fn handle_slice(&mut self, way: Way, datagram: &[u8], now: Instant) {
        let peeked = match &self.clients[super::index(way.relaying)].client {
            Some(client) if client.lease().is_some_and(|(_, conn, _)| conn == way.conn) => {
                client.peek(datagram)
            }
            _ => None,
        };
        match peeked {
            Some((peer, payload)) => self.on_datagram(Route { from: End::Relayed, to: peer }, payload, now),
            None => self.handle_data(way, Bytes::copy_from_slice(datagram), now),
        }
    }

    /// A datagram came to a socket of our own. Call [`settle`](Self::settle) when all that have come are handed in.
    pub fn handle_bare(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.on_datagram(Route { from: End::Bare, to: from }, datagram, now);
    }

    /// After a batch of [`handle_slice`](Self::handle_slice) and [`handle_bare`](Self::handle_bare).
    pub fn settle(&mut self, now: Instant) {
        self.drain(now);
    }

    fn client(&mut self, way: Way) -> Option<&mut crate::turn::Client> {
        self.clients[super::index(way.relaying)].client.as_mut()
    }

    pub(super) fn on_datagram(&mut self, route: Route, bytes: &[u8], now: Instant) {
        if matches!(self.state, State::Closing | State::Over) {
            return;
        }
        self.now = now;
        if bytes.len() == CHALLENGE_LENGTH
            && let Some((challenge, nonce)) = PathChallenge::parse(bytes, self.token)
        {
            return self.on_challenge(route, challenge, nonce, now);
        }
        if bytes.get(TOKEN) != Some(&self.token.0) || self.theirs.is_none() {
            return;
        }
        if self.routes.current() != Some(route) {
            self.ask_for_proof(route, now);
            // The caller chooses, by sending; and it hears the called one wherever that sends from.
            let is_news = match self.config.role {
                Role::Caller => self.routes.on_heard(route),
                Role::Answerer => self.routes.on_chosen(route),
            };
            self.on_route(is_news, now);
            if matches!(self.state, State::Meeting { .. }) {
                // What comes before its route is proven is not lost.
                self.begin_stream(now);
            }
        }
        if let Some(stream) = &mut self.stream {
            stream.handle_datagram(bytes, now);
        }
    }

    pub(super) fn on_challenge(
        &mut self,
        route: Route,
        challenge: PathChallenge,
        nonce: Nonce,
        now: Instant,
    ) {
        if self.theirs.is_none() {
            // It has overtaken the offer, without which there is no answer.
            self.early = Some((route, nonce)).filter(|_| challenge == PathChallenge::Question);
            return;
        }
        match challenge {
            // A stranger's is answered by one of ours, which tells it as much: see `ask_for_proof`.
            PathChallenge::Question if self.routes.is_unproven(route) => {}
            PathChallenge::Question => self.say_challenge(route, PathChallenge::Answer, nonce, now),
            PathChallenge::Answer if !self.routes.on_answered(route, nonce) => return,
            PathChallenge::Answer => {}
        }
        self.ask_for_proof(route, now);
        let is_news = self.routes.on_heard(route);
        self.on_route(is_news, now);
    }

    /// There is a route, perhaps another than before.
    fn on_route(&mut self, is_news: bool, now: Instant) {
        let Some(route) = self.routes.current().filter(|_| self.theirs.is_some()) else { return };
        if is_news {
            self.named.on_met();
            if route.from == End::Relayed
                && let Some(client) = &mut self.clients[0].client
            {
                // Without a channel it works as well, by indications.
                let _ = client.bind(route.to, now);
            }
            // The old path's state may go once in a while. A peer that is elsewhere with each datagram would otherwise get a
            // first window for each of them.
            let is_calm = self.moved.is_none_or(|moved| moved + MOVE_PAUSE <= now);
            match &mut self.stream {
                Some(stream) if is_calm => {
                    self.moved = Some(now);
                    stream.handle_path_changed(now);
                }
                Some(_) => {}
                None => self.begin_stream(now),
            }
        }
        if self.datagrams == Datagrams::Waiting {
            if self.config.role == Role::Caller && self.hopes_for_connection() {
                let grace = now.saturating_duration_since(self.began).clamp(GRACE.0, GRACE.1);
                self.datagrams = Datagrams::Held { until: now + grace };
            } else {
                self.go_up();
            }
        }
    }

    fn begin_stream(&mut self, now: Instant) {
        let Some(theirs) = self.theirs.as_ref().filter(|_| self.stream.is_none()) else { return };
        let tokens = Tokens { ours: self.token, theirs: theirs.token };
        let config = TransportConfig {
            dead_after: DEAD_AFTER,
            give_up_after: GIVE_UP_AFTER,
            ..TransportConfig::new(tokens)
        };
        self.stream = Some(Box::new(Stream::new(config, self.seed.fork("stream"), now)));
    }

    /// Challenges.
    pub(super) fn challenge(&mut self, route: Route, now: Instant) {
        self.say_challenge(route, PathChallenge::Question, self.routes.nonce(route), now);
    }

    /// Somebody was heard there.
    fn ask_for_proof(&mut self, route: Route, now: Instant) {
        if self.routes.wants_proof(route, now) {
            self.challenge(route, now);
        }
    }

    fn say_challenge(&mut self, route: Route, challenge: PathChallenge, nonce: Nonce, now: Instant) {
        let Some(token) = self.theirs.as_ref().map(|theirs| theirs.token) else { return };
        let bytes = Bytes::copy_from_slice(&challenge.to_bytes(token, nonce));
        match route.from {
            End::Bare => self.act(Act::Datagram { via: Via::Bare(route.to), bytes }),
            End::Relayed => {
                if let Some(client) = &mut self.clients[0].client {
                    // Not permitted yet: then it is challenged again when it is.
                    let _ = client.send(route.to, bytes, now);
                }
            }
        }
    }

    /// Writes the next datagram of the stream into `out` and tells where it goes; `None` when there is none. `out` has
    /// room for 1,212 bytes. [`Machine::poll_output`](crate::Machine::poll_output) does the same where speed does not
    /// matter; what it answers after this is still to be done.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<Transmit> {
        let now = self.now;
        let route = self.routes.current()?;
        let stream = self.stream.as_mut()?;
        if route.from == End::Bare {
            let length = stream.poll_transmit(out)?;
            return Some(Transmit { via: Via::Bare(route.to), length });
        }
        loop {
            let length = stream.poll_transmit(out.get_mut(CHANNEL_HEADER..)?)?;
            let Some(client) = &mut self.clients[0].client else { continue };
            let end = CHANNEL_HEADER + length;
            if let (Some(header), Some((place, conn, _))) =
                (client.header(route.to, length, now), client.lease())
            {
                out[..CHANNEL_HEADER].copy_from_slice(&header);
                let via = Via::Server(Way { relaying: Relaying::Udp, conn });
                let padded = if place.carrier.is_stream() { end.next_multiple_of(4) } else { end };
                let Some(padding) = out.get_mut(end..padded) else { continue };
                padding.fill(0);
                return Some(Transmit { via, length: padded });
            }
            // No channel yet. What cannot be sent at all is sent again by the stream.
            let _ = client.send(route.to, Bytes::copy_from_slice(&out[CHANNEL_HEADER..end]), now);
            Self::drain_acts(client, Relaying::Udp, &mut self.out);
        }
    }

    /// Has what is ready to go sent, as acts.
    pub(super) fn flush_stream(&mut self, now: Instant) {
        self.now = now;
        for _ in 0..LAST_DATAGRAMS {
            let Some(act) = self.next_datagram() else { return };
            self.act(act);
        }
    }

    pub(super) fn next_datagram(&mut self) -> Option<Act> {
        self.stream.as_ref()?;
        let mut bytes = vec![0; 1_212];
        let Transmit { via, length } = self.poll_transmit(&mut bytes)?;
        bytes.truncate(length);
        Some(Act::Datagram { via, bytes: bytes.into() })
    }

    /// As [`Stream::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&mut self, bytes: &[u8], now: Instant) -> Result<usize, TransportError> {
        self.with(now, |stream| stream.write(bytes, now))
    }

    /// As [`Stream::is_done`].
    pub fn is_done(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.is_done())
    }

    /// As [`Stream::has_room`].
    pub fn has_room(&mut self, now: Instant) -> bool {
        self.with(now, |stream| Ok(stream.has_room())).unwrap_or(false)
    }

    /// As [`Stream::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&mut self, out: &mut [u8], now: Instant) -> Result<Read, TransportError> {
        self.with(now, |stream| stream.read(out, now))
    }

    /// As [`Stream::finish`].
    ///
    /// # Errors
    /// As there.
    pub fn finish(&mut self, now: Instant) -> Result<(), TransportError> {
        self.with(now, |stream| stream.finish(now))
    }

    fn with<T>(
        &mut self,
        now: Instant,
        act: impl FnOnce(&mut Stream) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        self.now = now;
        let stream = self.stream.as_mut().ok_or(TransportError::Closed)?;
        let result = act(stream);
        self.drain_stream(now);
        result
    }
}

//! An MQTT server before clients that say anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use p2p_core::rate::{Rate, Source};
use p2p_core::signal::link::{Login, MAX_PACKET};
use p2p_core::signal::mqtt_server::{
    Act, ClientNumber, Config, Event, MOST_WAITING_BYTES, MqttServer, Reading,
};
use p2p_core::sim::epoch;
use p2p_core::sim::laws::drain;
use p2p_core::{Machine, Seed};

/// Clients at once.
const MOST: usize = 8;

/// No bytes of any clients panic or are kept beyond the bounds; what is answered is MQTT; and it is the same in whatever
/// pieces they come. A step is a byte that says what, a length, and so many bytes.
pub fn broker(data: &[u8]) {
    assert_eq!(tell(data, 1), tell(data, usize::MAX));
}

/// Lives through `data` in pieces of so many bytes; returns all that was written, by client.
fn tell(data: &[u8], piece: usize) -> BTreeMap<ClientNumber, Vec<u8>> {
    let Some((first, mut steps)) = data.split_first() else { return BTreeMap::new() };
    let mut story = Story::new(*first, piece);
    while let [what, length, rest @ ..] = steps {
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        story.step(*what, *length, bytes);
        steps = rest;
    }
    story.server.close(story.now);
    story.drain();
    let clients: Vec<_> = story.buffers.keys().copied().collect();
    clients.into_iter().for_each(|client| story.read(client));
    assert_eq!((story.server.waiting_bytes(), drain(&mut story.server).wait), (0, None), "closed, it rests");
    story.written.values().for_each(|bytes| is_mqtt(bytes));
    story.written
}

struct Story {
    server: MqttServer,
    now: Instant,
    piece: usize,
    /// What each client has sent and is not served yet.
    buffers: BTreeMap<ClientNumber, BytesMut>,
    written: BTreeMap<ClientNumber, Vec<u8>>,
    wait: Option<Instant>,
}

impl Story {
    fn new(first: u8, piece: usize) -> Self {
        let mut config = Config::default();
        config.login = (first & 1 != 0).then(|| Login { user: "u".to_owned(), password: "p".to_owned() });
        config.publishes = Rate { per_second: 5, burst: 20 };
        let server = MqttServer::new(config, Seed::from_u64(first.into()), epoch());
        Self { server, now: epoch(), piece, buffers: BTreeMap::new(), written: BTreeMap::new(), wait: None }
    }

    fn step(&mut self, what: u8, with: u8, bytes: &[u8]) {
        let client = self.buffers.keys().nth(usize::from(what >> 4) % MOST).copied();
        match (what & 15, client) {
            (0, _) if self.buffers.len() < MOST => {
                let source = Source::of([127, 0, 0, with & 3].into());
                let client = self.server.handle_accepted(source, self.now);
                self.buffers.insert(client, BytesMut::new());
            }
            (1, Some(client)) => {
                self.server.handle_gone(client, self.now);
                self.buffers.remove(&client);
            }
            (2, Some(client)) => self.read(client),
            (3, _) => self.now += Duration::from_millis(u64::from(with) * 100),
            (4, _) => self.on_deadline(),
            (_, Some(client)) => {
                for piece in bytes.chunks(self.piece.min(bytes.len().max(1))) {
                    self.say(client, piece);
                }
            }
            _ => {}
        }
        self.drain();
    }

    fn say(&mut self, client: ClientNumber, bytes: &[u8]) {
        let Some(buffer) = self.buffers.get_mut(&client) else { return };
        buffer.extend_from_slice(bytes);
        match self.server.handle_bytes(client, buffer, self.now) {
            Reading::More => assert!(buffer.len() < MAX_PACKET as usize),
            // It would not be read any more.
            Reading::Over => buffer.clear(),
            Reading::Later(_) | Reading::Full => {}
        }
    }

    fn read(&mut self, client: ClientNumber) {
        loop {
            let mut out = BytesMut::new();
            self.server.take_outgoing(client, &mut out);
            if out.is_empty() {
                return;
            }
            assert!(out.len() <= 3 * MAX_PACKET as usize);
            self.written.entry(client).or_default().extend_from_slice(&out);
        }
    }

    fn drain(&mut self) {
        let drained = drain(&mut self.server);
        for act in drained.acts {
            let (Act::Write(client) | Act::HangUp(client)) = act;
            assert!(self.buffers.contains_key(&client), "an act for nobody");
        }
        for Event::Connected(client) in drained.events {
            assert!(self.buffers.contains_key(&client));
        }
        assert_eq!(self.server.connections(), self.buffers.len());
        assert!(self.server.waiting_bytes() <= self.buffers.len() * MOST_WAITING_BYTES);
        self.wait = drained.wait.map(|deadline| deadline.at);
    }

    fn on_deadline(&mut self) {
        let Some(due) = self.wait else { return };
        self.now = self.now.max(due);
        self.server.handle_timeout(self.now);
        self.drain();
        assert!(self.wait.is_none_or(|wait| wait > self.now), "a deadline that was met is over");
    }
}

/// Whole packets of a server, one after the other.
fn is_mqtt(mut bytes: &[u8]) {
    while let Some((first, mut rest)) = bytes.split_first() {
        assert!([2, 3, 4, 9, 11, 13, 14].contains(&(first >> 4)), "{first:#x}");
        let (mut length, mut shift) = (0, 0);
        loop {
            let (byte, more) = rest.split_first().expect("a length");
            length |= usize::from(byte & 0x7f) << shift;
            (rest, shift) = (more, shift + 7);
            if byte & 0x80 == 0 {
                break;
            }
        }
        bytes = rest.get(length..).expect("all of the packet");
    }
}

//! Stories of clients, fair and foul, in virtual time.

mod floods;

use super::*;
use crate::rate::Rate;
use crate::signal::link::Login;
use crate::sim::epoch;
use crate::sim::laws::{Drained, drain};

const SECOND: Duration = Duration::from_secs(1);
const V3: MqttVersion = MqttVersion::V3;
const V5: MqttVersion = MqttVersion::V5;

struct Story {
    server: MqttServer,
    now: Instant,
    hung_up: BTreeSet<ClientNumber>,
}

impl Story {
    fn new(config: Config) -> Self {
        let server = MqttServer::new(config, Seed::from_u64(1), epoch());
        Self { server, now: epoch(), hung_up: BTreeSet::new() }
    }

    fn source(number: u32) -> Source {
        Source::of(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into())
    }

    fn accept(&mut self, source: u32) -> ClientNumber {
        let client = self.server.handle_accepted(Self::source(source), self.now);
        self.drain();
        client
    }

    /// A client that has connected, from a source of its own.
    fn client(&mut self, protocol: MqttVersion, id: &str) -> ClientNumber {
        let client = self.accept(self.server.arrivals as u32);
        let answer = self.asks(client, &say::connect(protocol, id, 30));
        assert_eq!((answer[0], answer[3]), (0x20, 0), "{answer:02x?}");
        client
    }

    /// The same, and it listens.
    fn listener(&mut self, protocol: MqttVersion, topic: &str) -> ClientNumber {
        let client = self.client(protocol, topic);
        let answer = self.asks(client, &say::subscribe(protocol, topic));
        assert_eq!((answer[0], answer.last()), (0x90, Some(&1)));
        client
    }

    fn drain(&mut self) -> Drained<Act, Event> {
        let drained = drain(&mut self.server);
        for act in &drained.acts {
            if let Act::HangUp(client) = act {
                self.hung_up.insert(*client);
            }
        }
        drained
    }

    fn says(&mut self, client: ClientNumber, bytes: &[u8]) -> Reading {
        let reading = self.server.handle_bytes(client, &mut BytesMut::from(bytes), self.now);
        self.drain();
        reading
    }

    /// Everything there is to read for a client.
    fn reads(&mut self, client: ClientNumber) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut out = BytesMut::new();
            self.server.take_outgoing(client, &mut out);
            if out.is_empty() {
                return all;
            }
            all.extend_from_slice(&out);
        }
    }

    fn asks(&mut self, client: ClientNumber, bytes: &[u8]) -> Vec<u8> {
        self.says(client, bytes);
        self.reads(client)
    }

    /// Publishes at QoS 1 and returns the reason of the answer.
    fn publishes(&mut self, client: ClientNumber, topic: &str, payload: &[u8]) -> u8 {
        let answer = self.asks(client, &say::publish(V5, topic, Some(7), payload));
        assert_eq!(&answer[..4], [0x40, answer[1], 0, 7], "{answer:02x?}");
        answer.get(4).copied().unwrap_or(0)
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
        self.server.handle_timeout(self.now);
        self.drain();
    }
}

#[test]
fn two_talk_and_nothing_of_the_publisher_is_passed_on() {
    for (theirs, ours) in [(V3, V5), (V5, V3), (V5, V5), (V3, V3)] {
        let mut story = Story::new(Config::default());
        let (alice, bob) = (story.client(ours, "alice"), story.listener(theirs, "p2p/bob"));
        let acknowledged = story.asks(alice, &say::publish(ours, "p2p/bob", Some(3), b"hello"));
        assert_eq!(acknowledged, b"\x40\x02\x00\x03");
        assert_eq!(story.reads(bob), say::publish(theirs, "p2p/bob", Some(1), b"hello"));
        assert_eq!(story.asks(alice, &say::publish(ours, "p2p/bob", None, b"and again")), b"");
        assert_eq!(story.reads(bob), say::publish(theirs, "p2p/bob", None, b"and again"));
        assert_eq!(story.asks(bob, &[&say::pub_ack(1), say::PING].concat()), b"\xd0\x00");
        assert!(!story.asks(bob, &say::unsubscribe(theirs, "p2p/bob")).is_empty());
        story.says(alice, &say::publish(ours, "p2p/bob", None, b"?"));
        assert_eq!(story.reads(bob), b"");
    }
}

#[test]
fn nobody_listens_is_said_at_once_and_in_5_only() {
    let mut story = Story::new(Config::default());
    let alice = story.client(V5, "alice");
    assert_eq!(story.publishes(alice, "p2p/bob", b"?"), 0x10);
    let bob = story.listener(V3, "p2p/bob");
    assert_eq!(story.publishes(alice, "p2p/bob", b"!"), 0);
    story.server.handle_gone(bob, story.now);
    assert_eq!(story.publishes(alice, "p2p/bob", b"?"), 0x10);
    let carol = story.client(V3, "carol");
    assert_eq!(story.asks(carol, &say::publish(V3, "p2p/bob", Some(1), b"?")), b"\x40\x02\x00\x01");
    assert_eq!(story.server.counters().unheard, 3);
}

#[test]
fn only_the_right_password_opens() {
    let login = Login { user: "u".into(), password: "right".into() };
    let mut story = Story::new(Config { login: Some(login), ..Config::default() });
    for wrong in [None, Some(("u", "wrong")), Some(("", "right")), Some(("uright", "")), Some(("u", ""))] {
        for (protocol, refusal) in [(V3, b"\x20\x02\x00\x04".as_slice()), (V5, b"\x20\x03\x00\x86\x00")] {
            let client = story.accept(1);
            assert_eq!(story.asks(client, &say::with_login(protocol, "x", 9, wrong)), refusal);
            assert!(story.hung_up.contains(&client));
            assert_eq!(story.says(client, say::PING), Reading::Over);
        }
    }
    let client = story.accept(1);
    let connected = story.server.handle_bytes(
        client,
        &mut BytesMut::from(say::with_login(V3, "x", 9, Some(("u", "right"))).as_slice()),
        story.now,
    );
    assert_eq!((connected, story.drain().events), (Reading::More, vec![Event::Connected(client)]));
    assert_eq!(story.server.counters().refused, 10);
}

#[test]
fn what_is_not_served_is_refused_and_not_ignored() {
    let mut story = Story::new(Config::default());
    let will = b"\x10\x13\x00\x04MQTT\x05\x06\x00\x1e\x00\x00\x00\x00\x00\x01t\x00\x00";
    let client = story.accept(1);
    assert_eq!(story.asks(client, will), b"\x20\x03\x00\x83\x00");
    let old = story.accept(1);
    assert_eq!(story.asks(old, b"\x10\x12\x00\x06MQIsdp\x03\x02\x00\x1e\x00\x04abcd"), b"\x20\x02\x00\x01");
    let bob = story.client(V5, "bob");
    let filters = [("#", 0xa2), ("p2p/+", 0xa2), ("$share/g/p2p/a", 0x9e), ("$SYS/x", 0x8f), ("", 0x8f)];
    for (filter, code) in filters {
        assert_eq!(story.asks(bob, &say::subscribe(V5, filter)).last(), Some(&code), "{filter}");
    }
    for number in 0..MOST_SUBSCRIPTIONS {
        assert_eq!(story.asks(bob, &say::subscribe(V5, &format!("t{number}"))).last(), Some(&1));
    }
    assert_eq!(story.asks(bob, &say::subscribe(V5, "one more")).last(), Some(&0x97));
    assert_eq!(story.asks(bob, &say::subscribe(V5, "t0")).last(), Some(&1), "that one it has");
    assert_eq!(story.publishes(bob, "$SYS/x", b""), 0x90);
    assert_eq!(story.publishes(bob, &"x".repeat(MOST_TOPIC + 1), b""), 0x90);
    // QoS 2 ends the session, with a word.
    assert_eq!(story.asks(bob, b"\x34\x06\x00\x01t\x00\x07\x00"), b"\xe0\x01\x9b");
    assert!(story.hung_up.contains(&bob));
}

#[test]
fn an_identifier_is_taken_over() {
    let mut story = Story::new(Config::default());
    let old = story.listener(V5, "p2p/bob");
    let new = story.listener(V5, "p2p/bob");
    assert_eq!(story.reads(old), b"\xe0\x01\x8e");
    assert!(story.hung_up.contains(&old) && !story.hung_up.contains(&new));
    story.server.handle_gone(old, story.now);
    let alice = story.client(V5, "alice");
    assert_eq!(story.publishes(alice, "p2p/bob", b"hello"), 0);
    assert!(!story.reads(new).is_empty());
    // Whoever names none is given one.
    let nameless = story.accept(9);
    let answer = story.asks(nameless, &say::connect(V5, "", 30));
    assert!(answer.windows(3).any(|bytes| bytes == [0x12, 0, 20]), "{answer:02x?}");
}

#[test]
fn silence_ends_a_session_whatever_keep_alive_it_wished() {
    for (protocol, wished, silence) in
        [(V5, 30, 45), (V3, 30, 45), (V5, 0, 180), (V3, 0, 180), (V3, 9_999, 180)]
    {
        let mut story = Story::new(Config::default());
        let client = story.accept(1);
        let answer = story.asks(client, &say::connect(protocol, "x", wished));
        let imposed = answer.windows(3).any(|bytes| bytes == [0x13, 0, 120]);
        assert_eq!(imposed, protocol == V5 && wished != 30, "{answer:02x?}");
        for _ in 0..5 {
            story.later(SECOND * (silence - 1));
            assert_eq!(story.asks(client, say::PING), b"\xd0\x00");
        }
        story.later(SECOND * (silence - 1));
        assert!(!story.hung_up.contains(&client));
        story.later(SECOND);
        assert!(story.hung_up.contains(&client), "{protocol} {wished}");
        let farewell: &[u8] = if protocol == V5 { b"\xe0\x01\x8d" } else { b"" };
        assert_eq!((story.reads(client), story.server.counters().silent), (farewell.to_vec(), 1));
    }
}

#[test]
fn a_subscriber_that_does_not_read_costs_so_much_and_its_publishers_are_told() {
    let rate = Rate { per_second: 1_000_000, burst: 1_000_000 };
    let mut story = Story::new(Config { publishes: rate, source_publishes: rate, ..Config::default() });
    let (alice, bob) = (story.client(V5, "alice"), story.listener(V5, "p2p/bob"));
    let codes: Vec<u8> = (0..200).map(|_| story.publishes(alice, "p2p/bob", b"small")).collect();
    assert!(codes[..MOST_WAITING].iter().all(|code| *code == 0));
    assert!(codes[MOST_WAITING..].iter().all(|code| *code == 0x97));
    assert_eq!(story.server.counters().lost, 200 - MOST_WAITING as u64);
    // What it reads and does not acknowledge comes to an end too.
    let mut read = story.reads(bob).len();
    for _ in 0..10 {
        for _ in 0..100 {
            story.publishes(alice, "p2p/bob", b"small");
        }
        read += story.reads(bob).len();
    }
    assert_eq!(read / say::publish(V5, "p2p/bob", Some(1), b"small").len(), 64);
    // The largest ones: bytes are bounded as well.
    let mut story = Story::new(Config { publishes: rate, source_publishes: rate, ..Config::default() });
    let (alice, bob) = (story.client(V5, "alice"), story.listener(V5, "p2p/bob"));
    for second in 0..100 {
        story.now = epoch() + SECOND / 4 * second;
        story.publishes(alice, "p2p/bob", &[7; 16_300]);
    }
    let waiting = story.server.waiting_bytes();
    assert!(waiting <= MOST_WAITING_BYTES && waiting > MOST_WAITING_BYTES / 2, "{waiting}");
    story.server.handle_gone(bob, story.now);
    assert_eq!(story.server.waiting_bytes(), 0);
}

#[test]
fn when_too_much_waits_in_all_those_who_hoard_it_go() {
    let rate = Rate { per_second: 1_000_000, burst: 1_000_000 };
    let mut story = Story::new(Config { publishes: rate, source_publishes: rate, ..Config::default() });
    let good = story.listener(V5, "p2p/good");
    let topics: Vec<String> = (0..80).map(|number| format!("p2p/{number}")).collect();
    let hoarders: Vec<_> = topics.iter().map(|topic| story.listener(V5, topic)).collect();
    for topic in &topics {
        // A publisher for each, as one source may only send so many bytes.
        let mallory = story.client(V5, "mallory");
        for _ in 0..70 {
            story.publishes(mallory, topic, &[7; 16_200]);
        }
        assert!(story.server.waiting_bytes() <= MOST_WAITING_IN_ALL);
    }
    let gone = hoarders.iter().filter(|client| story.hung_up.contains(client)).count();
    assert!((10..30).contains(&gone), "{gone}");
    let alice = story.client(V5, "alice");
    assert_eq!(story.publishes(alice, "p2p/good", b"hello"), 0);
    assert_eq!(story.reads(good), say::publish(V5, "p2p/good", Some(1), b"hello"));
}

#[test]
fn a_client_identifier_has_so_many_bytes() {
    let mut story = Story::new(Config::default());
    let [long, longer] = [MOST_CLIENT_ID, MOST_CLIENT_ID + 1].map(|length| "x".repeat(length));
    let client = story.accept(1);
    assert_eq!(story.asks(client, &say::connect(V3, &long, 30)), b"\x20\x02\x00\x00");
    let client = story.accept(1);
    assert_eq!(story.asks(client, &say::connect(V5, &longer, 30)), b"\x20\x03\x00\x85\x00");
    assert!(story.hung_up.contains(&client));
}

#[test]
fn closed_it_says_farewell_and_takes_nobody() {
    let mut story = Story::new(Config::default());
    let (alice, greeting) = (story.listener(V5, "alice"), story.accept(2));
    story.server.close(story.now);
    let drained = story.drain();
    assert_eq!(drained.wait, None);
    assert_eq!((story.reads(alice), story.reads(greeting)), (b"\xe0\x01\x8b".to_vec(), vec![]));
    let late = story.accept(3);
    assert!([alice, greeting].iter().all(|client| story.hung_up.contains(client)));
    assert_eq!(story.says(late, &say::connect(V5, "late", 1)), Reading::Over);
}

//! Stories of a link and its broker, in virtual time.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
mod line;

use crate::sim::epoch;
use crate::sim::laws::{Drained, drain};

const SECOND: Duration = Duration::from_secs(1);

fn config() -> Config {
    Config { topic: "p2p/me".into(), login: None, protocol: None }
}

fn conn_ack(code: ConnectCode) -> Packet {
    Packet::ConnAck(ConnAck {
        code,
        session_present: false,
        receive_max: None,
        max_packet: None,
        keep_alive: None,
    })
}

/// A link with a clock.
struct Story {
    link: Link,
    now: Instant,
}

impl Story {
    fn new(config: Config) -> (Self, Drained<Act, Event>) {
        let now = epoch() + Duration::from_secs(3_600);
        let mut link = Link::new(config, Seed::from_u64(1), now);
        let first = drain(&mut link);
        (Self { link, now }, first)
    }

    /// Returns a story that starts in a good session.
    fn up(ack: ConnAck) -> Self {
        let (mut story, _) = Self::new(config());
        story.connect();
        story.packet(Packet::ConnAck(ack));
        let up = story.packet(Packet::SubAck { id: 1, code: 1 });
        assert_eq!(up.events, [Event::Up]);
        story
    }

    fn connect(&mut self) -> Drained<Act, Event> {
        self.link.handle_connected(self.now);
        drain(&mut self.link)
    }

    fn packet(&mut self, packet: Packet) -> Drained<Act, Event> {
        self.link.handle_packet(packet, self.now);
        drain(&mut self.link)
    }

    fn lost(&mut self) -> Drained<Act, Event> {
        self.link.handle_lost(LinkError::Lost("reset".into()), self.now);
        drain(&mut self.link)
    }

    fn publish(&mut self, ticket: u64, lives: Duration) -> Drained<Act, Event> {
        let until = self.now + lives;
        let taken = self.link.publish(ticket, "p2p/you".into(), Bytes::from_static(b"hi"), until, self.now);
        assert_eq!(taken, Ok(()));
        drain(&mut self.link)
    }

    /// Goes on to the next deadline.
    fn wake(&mut self) -> Drained<Act, Event> {
        if let Some(deadline) = drain(&mut self.link).wait {
            self.now = deadline.at;
            self.link.handle_timeout(self.now);
        }
        drain(&mut self.link)
    }
}

fn accepted() -> ConnAck {
    ConnAck {
        code: ConnectCode::Accepted,
        session_present: false,
        receive_max: None,
        max_packet: None,
        keep_alive: None,
    }
}

fn published(drained: &Drained<Act, Event>) -> Vec<(u16, bool)> {
    let ids = drained.acts.iter().filter_map(|act| match act {
        Act::Send(Packet::Publish { id: Some(id), dup, .. }) => Some((*id, *dup)),
        _ => None,
    });
    ids.collect()
}

fn down(drained: &Drained<Act, Event>) -> (LinkError, Duration) {
    match &drained.events[..] {
        [.., Event::Down { reason, retry_in }] => (reason.clone(), *retry_in),
        other => panic!("not down: {other:?}"),
    }
}

#[test]
fn it_dials_greets_subscribes_and_is_up() {
    let login = Login { user: "u".into(), password: "secret".into() };
    let (mut story, first) = Story::new(Config { login: Some(login.clone()), ..config() });
    assert_eq!(first.acts, [Act::Dial(MqttVersion::V5)]);
    let hello = story.connect();
    let [Act::Send(Packet::Connect(connect))] = &hello.acts[..] else {
        panic!("{hello:?}");
    };
    assert_eq!(connect.login, Some(login));
    assert!((1..=23).contains(&connect.client_id.len()));
    assert!(!format!("{connect:?}").contains("secret"), "a password shows");
    let subscribing = story.packet(conn_ack(ConnectCode::Accepted));
    let subscribe = Packet::Subscribe { id: 1, topic: "p2p/me".into() };
    assert_eq!(subscribing.acts, [Act::Send(subscribe)]);
    assert!(!story.link.is_up());
    assert_eq!(story.packet(Packet::SubAck { id: 1, code: 1 }).events, [Event::Up]);
    assert!(story.link.is_up());
}

#[test]
fn it_learns_whether_the_broker_tells_that_nobody_listens() {
    let mut story = Story::up(accepted());
    let told = [(0, Subscribers::Unknown), (0x10, Subscribers::Nobody), (0, Subscribers::Someone)];
    for (ticket, (reason, subscribers)) in (1..).zip(told) {
        let [(id, false)] = published(&story.publish(ticket, SECOND))[..] else {
            panic!("not sent at once");
        };
        let delivered = story.packet(Packet::PubAck { id, reason }).events;
        assert_eq!(delivered, [Event::Delivered { ticket, subscribers }]);
    }
    story.publish(9, SECOND);
    let refused = Event::Failed { ticket: 9, reason: FailReason::Refused(0x87) };
    assert_eq!(story.packet(Packet::PubAck { id: 5, reason: 0x87 }).events, [refused]);
}

#[test]
fn a_broker_that_restarts_in_mid_publish_gets_it_again() {
    let mut story = Story::up(accepted());
    let [(id, false)] = published(&story.publish(7, 60 * SECOND))[..] else {
        panic!("not sent at once");
    };
    let lost = story.lost();
    assert!(lost.acts.is_empty(), "there is nothing to hang up: {lost:?}");
    let (reason, retry_in) = down(&lost);
    assert_eq!(reason, LinkError::Lost("reset".into()));
    assert!(retry_in <= Duration::from_millis(500));
    assert_eq!(story.wake().acts, [Act::Dial(MqttVersion::V5)]);
    story.connect();
    let again = story.packet(conn_ack(ConnectCode::Accepted));
    assert!(matches!(again.acts[0], Act::Send(Packet::Subscribe { .. })), "{again:?}");
    assert_eq!(published(&again), [(id, true)]);
    let delivered = story.packet(Packet::PubAck { id, reason: 0 });
    assert!(matches!(delivered.events[..], [Event::Delivered { ticket: 7, .. }]));
    assert!(story.packet(Packet::PubAck { id, reason: 0 }).is_quiet(), "a repeated acknowledgement");
    assert_eq!(story.link.counters().strange, 1);
}

#[test]
fn a_broker_that_says_nothing_is_given_up_in_time() {
    let (mut story, _) = Story::new(config());
    story.connect();
    let asked = story.now;
    let gone = story.wake();
    assert_eq!(story.now - asked, ANSWER_TIMEOUT);
    assert_eq!(gone.acts, [Act::HangUp]);
    assert_eq!(down(&gone).0, LinkError::Silent);
    // The same holds for a broker that stops after CONNACK, and for a dial that nobody answers.
    story.wake();
    story.connect();
    story.packet(conn_ack(ConnectCode::Accepted));
    assert_eq!(down(&story.wake()).0, LinkError::Silent);
    story.wake();
    assert_eq!(down(&story.wake()).0, LinkError::DialTimeout);
}

#[test]
fn pauses_grow_and_a_steady_session_makes_them_short_again() {
    let (mut story, _) = Story::new(config());
    let mut longest = Duration::ZERO;
    for _ in 0..12 {
        longest = down(&story.lost()).1;
        story.wake();
    }
    assert!(longest >= 30 * SECOND && longest <= 60 * SECOND, "{longest:?}");
    story.connect();
    story.packet(conn_ack(ConnectCode::Accepted));
    let id = 1;
    story.packet(Packet::SubAck { id, code: 0 });
    let short_lived = down(&story.lost()).1;
    assert!(short_lived >= 30 * SECOND, "a session that falls at once proves nothing");
    story.wake();
    story.connect();
    story.packet(conn_ack(ConnectCode::Accepted));
    story.packet(Packet::SubAck { id: 2, code: 0 });
    story.now += STEADY;
    assert!(down(&story.lost()).1 <= SECOND / 2);
}

#[test]
fn a_broker_of_the_old_version_is_asked_in_its_own_and_remembered() {
    let (mut story, _) = Story::new(config());
    story.connect();
    let refused = story.packet(conn_ack(ConnectCode::BadProtocol));
    assert_eq!(refused.acts, [Act::HangUp, Act::Dial(MqttVersion::V3)]);
    assert!(refused.events.is_empty(), "falling back is not a failure");
    story.connect();
    story.packet(conn_ack(ConnectCode::Accepted));
    story.lost();
    assert_eq!(story.wake().acts, [Act::Dial(MqttVersion::V3)]);
    // The broker was upgraded meanwhile.
    story.connect();
    let refused = story.packet(conn_ack(ConnectCode::BadProtocol));
    assert_eq!(down(&refused).0, LinkError::BadProtocol(MqttVersion::V3));
    assert_eq!(story.wake().acts, [Act::Dial(MqttVersion::V5)]);
}

#[test]
fn a_hello_answered_by_a_hang_up_is_tried_once_in_the_old_version() {
    let (mut story, _) = Story::new(config());
    story.connect();
    let dropped = story.lost();
    assert_eq!(dropped.acts, [Act::Dial(MqttVersion::V3)]);
    story.connect();
    assert!(matches!(down(&story.lost()).0, LinkError::Lost(_)));
    assert_eq!(story.wake().acts, [Act::Dial(MqttVersion::V5)], "it was not the version");
}

#[test]
fn a_pinned_version_never_falls_back() {
    for protocol in [MqttVersion::V5, MqttVersion::V3] {
        let (mut story, first) = Story::new(Config { protocol: Some(protocol), ..config() });
        assert_eq!(first.acts, [Act::Dial(protocol)]);
        story.connect();
        let refused = story.packet(conn_ack(ConnectCode::BadProtocol));
        assert_eq!(down(&refused).0, LinkError::BadProtocol(protocol));
        assert_eq!(story.wake().acts, [Act::Dial(protocol)]);
        story.connect();
        assert!(matches!(down(&story.lost()).0, LinkError::Lost(_)));
    }
}

#[test]
fn what_only_a_person_can_mend_is_told_at_once_and_tried_seldom() {
    for (code, error) in
        [(ConnectCode::BadLogin, LinkError::BadLogin), (ConnectCode::NotAuthorised, LinkError::NotAuthorised)]
    {
        let (mut story, _) = Story::new(config());
        story.connect();
        let refused = story.packet(conn_ack(code));
        assert_eq!(refused.acts, [Act::HangUp]);
        let (reason, retry_in) = down(&refused);
        assert_eq!(reason, error);
        assert!(retry_in >= 30 * SECOND);
    }
    let (mut story, _) = Story::new(config());
    story.connect();
    story.packet(conn_ack(ConnectCode::Accepted));
    let refused = story.packet(Packet::SubAck { id: 1, code: 0x87 });
    assert_eq!(down(&refused).0, LinkError::SubscriptionRefused(0x87));
}

#[test]
fn an_absurd_receive_maximum_means_one_at_a_time() {
    let mut story = Story::up(ConnAck { receive_max: Some(0), ..accepted() });
    assert_eq!(published(&story.publish(1, SECOND)), [(2, false)]);
    assert!(story.publish(2, SECOND).is_quiet());
    let next = story.packet(Packet::PubAck { id: 2, reason: 0 });
    assert_eq!(published(&next), [(3, false)]);
    let many = Story::up(ConnAck { receive_max: Some(u16::MAX), ..accepted() });
    let mut story = many;
    let sent: usize = (0..40).map(|ticket| published(&story.publish(ticket, SECOND)).len()).sum();
    assert_eq!(sent, usize::from(WINDOW));
}

#[test]
fn every_message_has_an_end() {
    let (mut story, _) = Story::new(config());
    story.publish(1, SECOND);
    let failed = story.wake().events;
    let reason = FailReason::NoConnection;
    assert_eq!(failed, [Event::Failed { ticket: 1, reason }]);

    let mut story = Story::up(accepted());
    story.publish(2, SECOND);
    let failed = story.wake().events;
    let reason = FailReason::NoAnswer;
    assert_eq!(failed, [Event::Failed { ticket: 2, reason }]);
    // The late answer is credited to no other message, as the identifier was not given away meanwhile.
    assert_eq!(published(&story.publish(3, SECOND)), [(3, false)]);
    assert!(story.packet(Packet::PubAck { id: 2, reason: 0 }).is_quiet());

    story.link.close(story.now);
    let reason = FailReason::Closed;
    let closed = drain(&mut story.link);
    assert_eq!(closed.events, [Event::Failed { ticket: 3, reason }]);
    assert_eq!(closed.acts, [Act::Send(Packet::Disconnect { reason: 0 }), Act::HangUp]);
}

#[test]
fn a_broker_that_stops_acknowledging_is_left() {
    let mut story = Story::up(accepted());
    story.publish(1, 60 * SECOND);
    let sent = story.now;
    assert_eq!(down(&story.wake()).0, LinkError::Mute);
    assert_eq!(story.now - sent, MUTE_TIMEOUT);
}

#[test]
fn the_heart_beats_and_stops() {
    let mut story = Story::up(ConnAck { keep_alive: Some(20), ..accepted() });
    let start = story.now;
    assert_eq!(story.wake().acts, [Act::Send(Packet::PingReq)]);
    assert_eq!(story.now - start, 15 * SECOND);
    assert!(story.packet(Packet::PingResp).is_quiet());
    assert_eq!(story.wake().acts, [Act::Send(Packet::PingReq)]);
    assert_eq!(story.now - start, 30 * SECOND);
    let silent = story.wake();
    assert_eq!(silent.acts, [Act::HangUp]);
    assert_eq!(down(&silent).0, LinkError::Mute);
}

#[test]
fn the_door_is_bounded() {
    let (mut story, _) = Story::new(config());
    let now = story.now;
    let mut publish = |ticket, topic: &str, size: usize, until| {
        story.link.publish(ticket, topic.into(), vec![0; size].into(), until, now)
    };
    for topic in ["", "a/+", "#", "a\0"] {
        assert_eq!(publish(0, topic, 1, now + SECOND), Err(PublishError::BadTopic));
    }
    let most = MAX_PACKET as usize;
    let size = most + 11;
    assert_eq!(publish(0, "t", most, now + SECOND), Err(PublishError::TooLarge { size, most }));
    assert_eq!(publish(0, "t", 1, now), Err(PublishError::TooLate));
    for ticket in 0..MAX_QUEUED as u64 {
        assert_eq!(publish(ticket, "t", 1, now + SECOND), Ok(()));
        let again = publish(ticket, "t", 1, now + SECOND);
        assert!(matches!(again, Err(PublishError::TicketInUse | PublishError::QueueFull)));
    }
    assert_eq!(publish(99, "t", 1, now + SECOND), Err(PublishError::QueueFull));
    story.link.close(now);
    assert_eq!(story.link.publish(1, "t".into(), Bytes::new(), now + SECOND, now), Err(PublishError::Closed));

    let (mut story, _) = Story::new(config());
    let big = Bytes::from(vec![0; 16_000]);
    let taken = (0..64).take_while(|ticket| {
        let publish = story.link.publish(*ticket, "t".into(), big.clone(), now + SECOND, now);
        publish == Ok(())
    });
    assert_eq!(taken.count(), MAX_QUEUED_BYTES / 16_001, "bytes are bounded too");
}

#[test]
fn what_the_broker_finds_too_large_is_never_sent() {
    let (mut story, _) = Story::new(config());
    story.publish(1, SECOND);
    story.connect();
    let ack = ConnAck { max_packet: Some(12), ..accepted() };
    let begun = story.packet(Packet::ConnAck(ack));
    let reason = FailReason::TooLarge;
    assert_eq!(begun.events, [Event::Failed { ticket: 1, reason }]);
    assert!(published(&begun).is_empty());
    let again =
        story.link.publish(2, "p2p/you".into(), Bytes::from_static(b"hi"), story.now + SECOND, story.now);
    assert_eq!(again, Err(PublishError::TooLarge { size: 19, most: 12 }));
}

#[test]
fn a_flood_is_acknowledged_counted_and_dropped() {
    let mut story = Story::up(accepted());
    let message = |id| Packet::Publish {
        topic: "p2p/me".into(),
        payload: Bytes::from_static(b"spam"),
        id: Some(id),
        dup: false,
    };
    let mut passed = 0;
    for id in 1..=1_000 {
        let drained = story.packet(message(id));
        assert_eq!(drained.acts, [Act::Send(Packet::PubAck { id, reason: 0 })]);
        passed += drained.events.len();
    }
    assert_eq!(passed, RECEIVE.burst as usize);
    assert_eq!(story.link.counters().flooded, u64::from(1_000 - RECEIVE.burst));
    story.now += SECOND;
    let after: usize = (1..=500).map(|id| story.packet(message(id)).events.len()).sum();
    assert_eq!(after, RECEIVE.per_second as usize);
}

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use p2p_core::signal::link::{
    Act, Config, ConnAck, ConnectCode, Event, Link, LinkError, MAX_QUEUED, MqttVersion, Packet, WINDOW,
};
use p2p_core::sim::epoch;
use p2p_core::sim::laws::drain;
use p2p_core::{Machine, Seed};

/// Does anything that a broker, a network and an owner can do to the session with a broker. Two bytes are a step.
pub fn mqtt_link(data: &[u8]) {
    let Some((first, steps)) = data.split_first() else { return };
    let mut story = Story::new(*first);
    for step in steps.chunks_exact(2) {
        story.step(step[0], step[1]);
    }
    story.link.close(story.now);
    story.drain();
    assert!(story.open.is_empty(), "every message has an end");
    assert_eq!(drain(&mut story.link).wait, None, "a closed link rests");
}

struct Story {
    link: Link,
    now: Instant,
    /// The messages that were taken and have not ended.
    open: BTreeSet<u64>,
    /// The packet identifiers that are on their way.
    sent: BTreeSet<u16>,
    wait: Option<Instant>,
}

impl Story {
    fn new(first: u8) -> Self {
        let protocol = [None, Some(MqttVersion::V5), Some(MqttVersion::V3)][usize::from(first) % 3];
        let config = Config { topic: "p2p/me".into(), login: None, protocol };
        let link = Link::new(config, Seed::from_u64(first.into()), epoch());
        let mut story = Self { link, now: epoch(), open: BTreeSet::new(), sent: BTreeSet::new(), wait: None };
        story.drain();
        story
    }

    fn drain(&mut self) {
        let drained = drain(&mut self.link);
        for act in drained.acts {
            match act {
                Act::Send(Packet::Publish { id: Some(id), .. }) => drop(self.sent.insert(id)),
                Act::Send(_) => {}
                Act::Dial(_) | Act::HangUp => self.sent.clear(),
            }
        }
        for event in drained.events {
            match event {
                Event::Delivered { ticket, .. } | Event::Failed { ticket, .. } => {
                    assert!(self.open.remove(&ticket), "an end without a beginning, or a second one");
                }
                Event::Down { .. } => self.sent.clear(),
                Event::Up => assert!(self.link.is_up()),
                Event::Received { .. } => {}
            }
        }
        assert!(self.open.len() <= MAX_QUEUED && self.sent.len() <= usize::from(WINDOW));
        self.wait = drained.wait.map(|deadline| deadline.at);
    }

    fn step(&mut self, what: u8, with: u8) {
        let (now, id) = (self.now, u16::from(with % 20));
        match what % 12 {
            0 => self.link.handle_connected(now),
            1 => {
                let reasons = [LinkError::Lost("reset".into()), LinkError::BadLogin, LinkError::Silent];
                self.link.handle_lost(reasons[usize::from(with) % 3].clone(), now);
                self.sent.clear();
            }
            2 => self.link.handle_packet(Packet::ConnAck(conn_ack(with)), now),
            3 => self.link.handle_packet(Packet::SubAck { id, code: with & 0x81 }, now),
            4 => {
                self.sent.remove(&id);
                let reason = [0, 0x10, 0x80, 0x97][usize::from(with / 20) % 4];
                self.link.handle_packet(Packet::PubAck { id, reason }, now);
            }
            5 => {
                let (payload, id) = (vec![with; with.into()].into(), Some(id).filter(|id| *id != 0));
                self.link
                    .handle_packet(Packet::Publish { topic: "p2p/me".into(), payload, id, dup: false }, now);
            }
            6 => self.link.handle_packet(Packet::PingResp, now),
            7 => self.link.handle_packet(Packet::Disconnect { reason: with }, now),
            8 | 9 => {
                let (ticket, until) = (u64::from(with), now + Duration::from_millis(u64::from(what) * 100));
                let payload = vec![0; usize::from(with) * 70].into();
                if self.link.publish(ticket, "p2p/you".into(), payload, until, now).is_ok() {
                    assert!(self.open.insert(ticket), "a ticket was taken twice");
                }
            }
            10 => self.now += Duration::from_millis(u64::from(with) * 40),
            _ => self.on_deadline(),
        }
        self.drain();
    }

    /// Lets time pass until something is due.
    fn on_deadline(&mut self) {
        let Some(due) = self.wait else { return };
        self.now = self.now.max(due);
        self.link.handle_timeout(self.now);
        self.drain();
        assert!(self.wait.is_none_or(|wait| wait > self.now), "a deadline that was met is over");
    }
}

fn conn_ack(with: u8) -> ConnAck {
    let codes = [
        ConnectCode::Accepted,
        ConnectCode::BadProtocol,
        ConnectCode::BadClientId,
        ConnectCode::BadLogin,
        ConnectCode::Other(with),
    ];
    // Most answers accept.
    let code = codes[usize::from(with.saturating_sub(200)) % codes.len()];
    let some = |value: u16| (with & 1 != 0).then_some(value);
    ConnAck {
        code,
        session_present: with & 2 != 0,
        receive_max: some(u16::from(with) % 40),
        max_packet: some(u16::from(with) * 64).map(u32::from),
        keep_alive: (with & 4 != 0).then_some(u16::from(with)),
    }
}

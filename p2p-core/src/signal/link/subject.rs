//! A [`Link`] for the laws and the fuzzer.

use super::*;
use crate::sim::laws::{Dice, Subject};

/// A [`Link`] and all that brokers and users can do to it.
#[derive(Debug)]
pub struct LinkSubject(Link);

impl Subject for LinkSubject {
    type Machine = Link;

    const KEEPS_ALIVE: Option<Duration> = Some(Duration::from_secs(5));

    fn new(mut seed: Seed, now: Instant) -> Self {
        let protocol = seed.pick(&[None, Some(MqttVersion::V5), Some(MqttVersion::V3)]).copied().flatten();
        let config = Config { topic: "p2p/me".into(), login: None, protocol };
        let mut link = Link::new(config, seed.fork("link"), now);
        if seed.chance(0.7) {
            link.handle_connected(now);
            let ack = ConnAck {
                code: ConnectCode::Accepted,
                session_present: false,
                receive_max: None,
                max_packet: None,
                keep_alive: None,
            };
            link.handle_packet(Packet::ConnAck(ack), now);
        }
        if seed.chance(0.5) {
            link.handle_packet(Packet::SubAck { id: 1, code: 1 }, now);
        }
        Self(link)
    }

    fn machine(&mut self) -> &mut Link {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let link = &mut self.0;
        let small = |dice: &mut Dice<'_>| dice.below(4) as u16;
        let code =
            |dice: &mut Dice<'_>| dice.pick(&[0, 1, 0x10, 0x80, 0x87, 0x8e, 255]).copied().unwrap_or(0);
        match dice.below(12) {
            0 => link.handle_connected(now),
            1 if dice.chance(0.1) => link.handle_network_changed(now),
            1 if dice.chance(0.3) => link.handle_lost(LinkError::Lost("reset".into()), now),
            2 => {
                let codes = [
                    ConnectCode::Accepted,
                    ConnectCode::Accepted,
                    ConnectCode::BadProtocol,
                    ConnectCode::BadClientId,
                    ConnectCode::BadLogin,
                    ConnectCode::Other(0x97),
                ];
                let ack = ConnAck {
                    code: dice.pick(&codes).copied().unwrap_or(ConnectCode::NotAuthorised),
                    session_present: dice.chance(0.5),
                    receive_max: dice.pick(&[None, Some(0), Some(1), Some(u16::MAX)]).copied().flatten(),
                    max_packet: dice.pick(&[None, Some(0), Some(40), Some(u32::MAX)]).copied().flatten(),
                    keep_alive: dice.pick(&[None, Some(0), Some(5), Some(u16::MAX)]).copied().flatten(),
                };
                link.handle_packet(Packet::ConnAck(ack), now);
            }
            3 => link.handle_packet(Packet::SubAck { id: small(dice), code: code(dice) }, now),
            4 => link.handle_packet(Packet::PubAck { id: small(dice), reason: code(dice) }, now),
            5 if dice.chance(0.1) => link.handle_packet(Packet::Disconnect { reason: code(dice) }, now),
            6 => link.handle_packet(Packet::PingResp, now),
            7 => link.handle_packet(Packet::PingReq, now),
            8 | 9 => {
                let packet = Packet::Publish {
                    topic: "p2p/me".into(),
                    payload: Bytes::from(vec![0; dice.below(100) as usize]),
                    id: Some(small(dice)).filter(|id| *id != 0),
                    dup: dice.chance(0.5),
                };
                link.handle_packet(packet, now);
            }
            _ => {
                let topic = *dice.pick(&["p2p/you", "", "#", "a\0b"]).unwrap_or(&"x");
                let payload = vec![0; dice.below(20_000) as usize];
                let until = now + dice.up_to(Duration::from_secs(30));
                let _ = link.publish(dice.below(200), topic.into(), payload.into(), until, now);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

//! An [`MqttServer`] for the laws and the fuzzer.

use super::*;
use crate::rate::Rate;
use crate::sim::laws::{Dice, Subject};

/// An [`MqttServer`] and all that clients can do to it.
#[derive(Debug)]
pub struct MqttServerSubject(MqttServer);

impl Subject for MqttServerSubject {
    type Machine = MqttServer;

    fn new(seed: Seed, now: Instant) -> Self {
        let rate = Rate { per_second: 50, burst: 50 };
        let keep_alive = Duration::from_secs(20);
        let config = Config { source_publishes: rate, keep_alive, ..Config::default() };
        Self(MqttServer::new(config, seed, now))
    }

    fn machine(&mut self) -> &mut MqttServer {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let server = &mut self.0;
        let client = ClientNumber(dice.below(server.arrivals + 1));
        let protocol = if dice.chance(0.5) { MqttVersion::V5 } else { MqttVersion::V3 };
        let topic = *dice.pick(&["a", "b", "c", "#", ""]).unwrap_or(&"a");
        let id = Some(dice.below(4) as u16).filter(|id| *id != 3);
        let bytes = match dice.below(12) {
            0 | 1 => {
                let host = std::net::Ipv4Addr::new(192, 0, 2, dice.below(3) as u8);
                server.handle_accepted(Source::of(host.into()), now);
                return;
            }
            2 => return server.handle_gone(client, now),
            3 | 4 => return server.take_outgoing(client, &mut BytesMut::new()),
            5 | 6 => say::connect(protocol, topic, dice.below(60) as u16),
            7 => say::subscribe(protocol, topic),
            8 => say::unsubscribe(protocol, topic),
            9 => say::publish(protocol, topic, id, &vec![1; dice.below(20_000) as usize]),
            10 => say::pub_ack(dice.below(70) as u16),
            _ => (0..dice.below(30)).map(|_| dice.below(256) as u8).collect(),
        };
        server.handle_bytes(client, &mut BytesMut::from(bytes.as_slice()), now);
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

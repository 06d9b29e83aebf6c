//! A [`Probe`] for the laws and the fuzzer.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::sim::laws::{Dice, Subject};
use crate::stun::query::Server;
use crate::stun::{Attribute, Message};

/// A [`Probe`] and all that servers, networks and helpers can tell it.
#[derive(Debug)]
pub struct ProbeSubject(Probe);

fn server(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 3_478))
}

impl Subject for ProbeSubject {
    type Machine = Probe;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let mut config = ProbeConfig::new(IpAddr::from([192, 168, 1, 2]));
        for last in 1..=seed.below(5) as u8 {
            for transport in [Transport::Udp, Transport::Tcp] {
                config.servers.push(Server { address: server(last), transport });
            }
        }
        config.helpers = vec![server(1).ip(), server(9).ip()];
        config.gap = seed.up_to(Duration::from_millis(3));
        config.names = seed.below(3) as usize;
        Self(Probe::new(config, seed, now).expect("few servers of one family"))
    }

    fn machine(&mut self) -> &mut Probe {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let probe = &mut self.0;
        let asked: Vec<_> = probe
            .asks
            .iter()
            .filter(|ask| !ask.is_over())
            .map(|ask| {
                let id = match &ask.state {
                    State::Asked(asked) => Some(asked.0.id()),
                    _ => None,
                };
                (ask.local, ask.server, id)
            })
            .collect();
        let nobody = (Local(SocketAddr::from(([192, 168, 1, 2], 40_000))), server(1), None);
        let (local, server_at, id) = dice.pick(&asked).copied().unwrap_or(nobody);
        let mut answer = vec![0; dice.below(60) as usize];
        dice.fill(&mut answer);
        if let Some(id) = id.filter(|_| dice.chance(0.7)) {
            let port = if dice.chance(0.5) { local.0.port() } else { dice.below(0x1_0000) as u16 };
            let mapped = SocketAddr::new(IpAddr::from([198, 51, 100, dice.below(3) as u8]), port);
            let message = Message::new(Class::Success, crate::stun::Method::BINDING, id)
                .with(Attribute::XorMappedAddress(mapped))
                .with(Attribute::OtherAddress(SocketAddr::from(([192, 0, 2, 77], 3_479))))
                .with(Attribute::DialBack(dice.below(0x1_0000) as u16));
            answer = message.encode(Transport::Udp).unwrap_or_default();
        }
        let why = match dice.below(3) {
            0 => io::ErrorKind::AddrInUse,
            1 => io::ErrorKind::ConnectionRefused,
            _ => io::ErrorKind::Other,
        };
        match dice.below(10) {
            8 => {
                let address = server(dice.below(256) as u8);
                let found = [Transport::Udp, Transport::Tcp].map(|transport| Server { address, transport });
                let _ = probe.handle_resolved(&found, now);
            }
            9 => probe.handle_unresolved("stun.example".to_owned(), "no such name".to_owned(), now),
            0 | 1 => probe.handle_datagram(local, server_at, &answer, now),
            2 => probe.handle_tcp_open(local, server_at, now),
            3 | 4 => probe.handle_tcp_data(local, server_at, &answer, now),
            5 => probe.handle_tcp_closed(local, server_at, dice.chance(0.5).then_some(why), now),
            6 => probe.handle_unreachable(local, server_at, why, now),
            _ => probe.handle_syn_probe(server(9).ip(), SynOutcome::Connected, now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

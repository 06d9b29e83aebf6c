//! The laws of every machine, for probes.

use super::*;
use crate::sim::laws::Subject;

struct Probing;

impl Subject for Probing {
    type Machine = Probe;

    fn new(mut seed: Seed, now: Instant) -> Probe {
        let mut config = ProbeConfig::new(ip(INSIDE));
        for host in 1..=seed.below(5) as u8 {
            let address = SocketAddr::new(IpAddr::from([192, 0, 2, host]), 3_478);
            for transport in [Transport::Udp, Transport::Tcp] {
                config.servers.push(Server { address, transport });
            }
        }
        config.helpers = vec![ip("192.0.2.1"), ip("192.0.2.9")];
        config.gap = seed.up_to(ms(3));
        config.names = seed.below(3) as usize;
        Probe::new(config, seed, now).unwrap()
    }

    fn disturb(probe: &mut Probe, dice: &mut Seed, now: Instant) {
        let asked: Vec<_> = probe
            .asks
            .iter()
            .filter(|ask| !ask.is_over())
            .map(|ask| {
                let bytes = match &ask.state {
                    State::Asked(asked) => Some(asked.0.id()),
                    _ => None,
                };
                (ask.local, ask.server, bytes)
            })
            .collect();
        let nobody = (Local(at("192.168.1.2:40000")), at("192.0.2.1:3478"), None);
        let (local, server, id) = dice.pick(&asked).copied().unwrap_or(nobody);
        let mut answer = vec![0; dice.below(60) as usize];
        dice.fill(&mut answer);
        if let Some(id) = id.filter(|_| dice.chance(0.7)) {
            let port = if dice.chance(0.5) { local.0.port() } else { dice.number() as u16 };
            let mapped = SocketAddr::new(IpAddr::from([198, 51, 100, dice.below(3) as u8]), port);
            let message = Message::new(Class::Success, crate::stun::Method::BINDING, id)
                .with(Attribute::XorMappedAddress(mapped))
                .with(Attribute::OtherAddress(at("192.0.2.77:3479")))
                .with(Attribute::DialBack(dice.number() as u16));
            answer = message.encode(Transport::Udp).unwrap();
        }
        let why = *dice
            .pick(&[io::ErrorKind::AddrInUse, io::ErrorKind::ConnectionRefused, io::ErrorKind::Other])
            .unwrap();
        match dice.below(10) {
            8 => {
                let address = SocketAddr::new(IpAddr::from([192, 0, 2, dice.number() as u8]), 3_478);
                let found = [Transport::Udp, Transport::Tcp].map(|transport| Server { address, transport });
                let _ = probe.handle_resolved(&found, now);
            }
            9 => probe.handle_unresolved("stun.example".to_owned(), "no such name".to_owned(), now),
            0 | 1 => probe.handle_datagram(local, server, &answer, now),
            2 => probe.handle_tcp_open(local, server, now),
            3 | 4 => probe.handle_tcp_data(local, server, &answer, now),
            5 => probe.handle_tcp_closed(local, server, dice.chance(0.5).then_some(why), now),
            6 => probe.handle_unreachable(local, server, why, now),
            _ => probe.handle_syn_probe(ip("192.0.2.9"), SynOutcome::Connected, now),
        }
    }

    fn close(probe: &mut Probe, now: Instant) {
        probe.close(now);
    }
}

crate::machine_laws!(laws: Probing);

//! An [`Interface`] for the laws and the fuzzer.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::*;
use crate::node::io::StunLink;
use crate::sim::laws::{Dice, Subject};

/// An [`Interface`], and all that its sockets, servers and the system can tell it.
#[derive(Debug)]
pub struct InterfaceSubject(Interface);

impl Subject for InterfaceSubject {
    type Machine = Interface;

    const KEEPS_ALIVE: Option<Duration> = Some(Duration::from_secs(5));

    fn new(mut seed: Seed, now: Instant) -> Self {
        let some = &ADDRESSES[..seed.below(5) as usize];
        let servers = if seed.chance(0.8) { 2 } else { 0 };
        let config = InterfaceConfig {
            families: [Family::V4, Family::V6].into(),
            listen_port: 0,
            last_port: 0,
            stun: (0..servers).map(stun_server).collect(),
            refresh: REFRESH,
            can_see_hops: seed.chance(0.5),
        };
        Self(Interface::new(config, nic(some), seed, now))
    }

    fn machine(&mut self) -> &mut Interface {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let interface = &mut self.0;
        let ip = dice.pick(&ADDRESSES).map_or(SERVER.ip(), |ip| ip.parse().expect("an address"));
        let at = SocketAddr::new(ip, *dice.pick(&[0, 4_711, 40_001]).unwrap_or(&0));
        let link = StunLink { from: at, to: SERVER };
        let name = stun_server(dice.below(3));
        let event = match dice.below(16) {
            0..3 => SocketEvent::Listening { at, outcome: Ok(SocketAddr::new(at.ip(), 4_711)) },
            3 => {
                let is_exhausted = dice.chance(0.3);
                let error = ListenError { kind: ErrorKind::AddrInUse, reason: "no".into(), is_exhausted };
                SocketEvent::Listening { at, outcome: Err(error) }
            }
            4 => return interface.handle_resolved(name, Err("no".into()), now),
            5 => return interface.handle_resolved(name, Ok(vec![SERVER]), now),
            6 => SocketEvent::LinkUp { link, since: now },
            7 => SocketEvent::LinkBytes { link, bytes: dice.array::<32>().to_vec().into() },
            8 => {
                let why = dice.chance(0.5).then_some(ErrorKind::ConnectionRefused);
                SocketEvent::LinkDown { link, why }
            }
            9 => return interface.handle_nic(nic(&["10.0.0.2", "10.0.0.9"][..dice.below(3) as usize]), now),
            10 => return interface.handle_refresh(now),
            11 => {
                let bytes = dice.array::<32>().to_vec().into();
                SocketEvent::Datagram { at, from: SERVER, bytes }
            }
            12 => {
                let by = [198, 51, 100, 1].into();
                SocketEvent::SynExpired { syn: dice.below(8) as u8, from: at, by }
            }
            13 => SocketEvent::SynAnswered { syn: dice.below(8) as u8, from: at },
            14 => SocketEvent::SynUnsent { syn: dice.below(8) as u8, from: at },
            _ => SocketEvent::Unreachable { at, to: SERVER, why: ErrorKind::AddrInUse },
        };
        interface.handle_socket(event, now);
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

fn nic(addresses: &[&str]) -> Nic {
    let address = |ip: &&str| NicAddress { ip: ip.parse().expect("an address"), prefix: 24, scope: 0 };
    Nic {
        name: "eth0".into(),
        index: 2,
        addresses: addresses.iter().map(address).collect(),
        is_loopback: false,
        is_up: true,
        gateways: Vec::new(),
    }
}

fn stun_server(number: u64) -> StunServer {
    StunServer { host: format!("stun{number}.example"), port: 3_478 }
}

const ADDRESSES: [&str; 4] = ["10.0.0.2", "10.0.0.3", "2001:db8::2", "fe80::2"];
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 3_478);

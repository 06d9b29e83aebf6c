//! An [`Allocation`] for the laws and the fuzzer.

use super::*;
use crate::sim::laws::{Dice, Subject};
use crate::sim::turn::{FaultyServer, FaultyServerConfig};
use crate::stun::Transport;
use crate::turn::Carrier;
use crate::turn::server::{self, FiveTuple};

/// An [`Allocation`] and its server, which hears and answers when it is told to, lies, forgets and falls silent.
#[derive(Debug)]
pub struct AllocationSubject {
    allocation: Allocation,
    server: FaultyServer,
    tuple: FiveTuple,
    /// What the allocation said and the server has not heard.
    unheard: VecDeque<Bytes>,
}

/// Packets kept for the server.
const MOST_UNHEARD: usize = 100;

fn peer(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 5_000))
}

fn credentials() -> Credentials {
    Credentials::new("user", "secret").expect("short words")
}

impl Subject for AllocationSubject {
    type Machine = Allocation;

    const KEEPS_ALIVE: Option<Duration> = Some(Duration::from_millis(1));

    fn new(mut seed: Seed, now: Instant) -> Self {
        let carrier = *seed.pick(&[Carrier::Udp, Carrier::Tcp, Carrier::Tls]).unwrap_or(&Carrier::Udp);
        let address = SocketAddr::from(([203, 0, 113, 1], 3_478));
        let mut config = AllocationConfig::new(address, carrier, credentials());
        config.keep_alive = seed.up_to(Duration::from_secs(40));
        config.families = *seed.pick(&[Families::V4, Families::V6, Families::Both]).unwrap_or(&Families::V4);
        if carrier.is_stream() && seed.chance(0.3) {
            config.relaying = Relaying::Tcp;
        }
        let mut told = FaultyServerConfig::new(address, "user", "secret");
        told.relayer.nonce_lifetime = seed.up_to(Duration::from_secs(100));
        told.relayer.lifetime = Duration::from_secs(1 + seed.below(700));
        told.relayer.relays.push(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]));
        if seed.chance(0.7) {
            told.relayer.algorithms.clear();
        }
        let allocation = Allocation::new(config, seed.fork("allocation"), now);
        let server = FaultyServer::new(told, seed.fork("server"), now);
        let client = SocketAddr::from(([198, 51, 100, 7], 40_000));
        Self {
            allocation: allocation.expect("streams carry everything"),
            tuple: server.tuple(carrier.transport(), client),
            server,
            unheard: VecDeque::new(),
        }
    }

    fn machine(&mut self) -> &mut Allocation {
        &mut self.allocation
    }

    fn on_act(&mut self, packet: &Packet, _: Instant) {
        if self.unheard.len() < MOST_UNHEARD {
            self.unheard.push_back(packet.clone().into_bytes());
        }
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let someone = peer(dice.below(40) as u8);
        let Self { allocation, server, .. } = self;
        match dice.below(60) {
            0 => allocation.handle_closed(None, now),
            1 => server.restart(now),
            2 => allocation.handle_doubt(now),
            3 => drop(allocation.permit(someone.ip(), now)),
            4 | 5 => drop(allocation.bind(someone, now)),
            6 => allocation.forget(someone.ip(), now),
            7 => drop(allocation.connect(someone, now)),
            8 | 9 => drop(allocation.send(someone, Bytes::from_static(b"data"), now)),
            10 => allocation.renew_credentials(credentials()),
            11 => {
                let mut bytes = dice.array::<40>().to_vec();
                bytes[0] &= 0x43;
                allocation.handle_data(bytes.into(), now);
            }
            12 => {
                let methods = [Method::REFRESH, Method::CHANNEL_BIND, Method::ALLOCATE, Method::CONNECT];
                let method = *dice.pick(&methods).unwrap_or(&Method::REFRESH);
                let code = *dice.pick(&[300, 400, 403, 437, 441, 486, 508]).unwrap_or(&400);
                server.faults.refusals.insert(method, (code, dice.chance(0.5)));
            }
            13 | 14 => server.faults.refusals.clear(),
            15 => self.unheard.clear(),
            16 => {
                if let Some(relayed) = allocation.lease().map(|lease| lease.relayed[0].0) {
                    server.handle_peer(relayed, someone, Bytes::from_static(b"data"), now);
                }
            }
            _ => self.hear(now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.allocation.close(now);
    }
}

impl AllocationSubject {
    /// The server hears all that was said, and is heard.
    fn hear(&mut self, now: Instant) {
        while let Some(bytes) = self.unheard.pop_front() {
            if self.tuple.transport == Transport::Udp || bytes[0] < 0x40 {
                self.server.handle_client(self.tuple, &bytes, now);
            }
        }
        loop {
            match self.server.poll_output() {
                Output::Act(server::Act::Send { bytes, .. }) => self.allocation.handle_data(bytes, now),
                Output::Act(_) | Output::Event(_) => {}
                Output::Wait(_) => break,
            }
        }
    }
}

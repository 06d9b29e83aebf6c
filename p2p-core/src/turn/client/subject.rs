//! A [`Client`] for the laws and the fuzzer.

use super::*;
use crate::sim::laws::{Dice, Subject};
use crate::sim::turn::{FaultyServer, FaultyServerConfig};
use crate::stun::Method;
use crate::turn::Carrier;
use crate::turn::server::{self, FiveTuple};

/// A [`Client`] and two servers, which hear and answer when they are told to, lie, forget and fall silent.
#[derive(Debug)]
pub struct TurnClientSubject {
    client: Client,
    servers: Vec<FaultyServer>,
    /// Open ways.
    ways: BTreeMap<Conn, Place>,
    opening: Vec<Conn>,
    unheard: VecDeque<(Conn, Bytes)>,
}

/// Packets kept for the servers.
const MOST_UNHEARD: usize = 200;

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, last], 3_478))
}

impl Subject for TurnClientSubject {
    type Machine = Client;

    const KEEPS_ALIVE: Option<Duration> = Some(Duration::from_nanos(1));

    fn new(mut seed: Seed, now: Instant) -> Self {
        let carriers = [Carrier::Udp, Carrier::Tcp, Carrier::Tls];
        let servers = (0..seed.below(5)).map(|number| {
            let credentials = Credentials::new("user", "secret").expect("short words");
            Server::new(at(1 + (number % 2) as u8), carriers[(number % 3) as usize], credentials)
        });
        let mut config = ClientConfig::new(servers.collect());
        config.head_start = seed.up_to(Duration::from_secs(1));
        config.patience = seed.up_to(Duration::from_secs(3));
        if seed.chance(0.3) {
            config.relaying = Relaying::Tcp;
        }
        let servers = (1..=2).map(|last| {
            let mut config = FaultyServerConfig::new(at(last), "user", "secret");
            config.relayer.nonce_lifetime = Duration::from_secs(20);
            FaultyServer::new(config, Seed::from_u64(last.into()), now)
        });
        let servers = servers.collect();
        let client = Client::new(config, seed.fork("client"), now);
        Self { client, servers, ways: BTreeMap::new(), opening: Vec::new(), unheard: VecDeque::new() }
    }

    fn machine(&mut self) -> &mut Client {
        &mut self.client
    }

    fn on_act(&mut self, act: &Act, _: Instant) {
        match act.clone() {
            Act::Open { conn, place } => {
                self.ways.insert(conn, place);
                self.opening.push(conn);
            }
            Act::Transmit { conn, packet } => {
                if self.unheard.len() < MOST_UNHEARD {
                    self.unheard.push_back((conn, packet.into_bytes()));
                }
            }
            Act::Close { conn } => drop(self.ways.remove(&conn)),
        }
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let conn = Conn(dice.below(u64::from(self.client.next_conn) + 2) as u32);
        let someone = SocketAddr::from(([192, 0, 2, dice.below(9) as u8], 5_000));
        let Self { client, servers, .. } = self;
        match dice.below(60) {
            0 => client.handle_closed(conn, None, now),
            1 => servers[dice.below(2) as usize].restart(now),
            2 => client.handle_doubt(now),
            3 => drop(client.permit(someone.ip(), now)),
            4 | 5 => drop(client.bind(someone, now)),
            6 => client.forget(someone.ip(), now),
            7 => drop(client.connect(someone, now)),
            8 | 9 => drop(client.send(someone, Bytes::from_static(b"data"), now)),
            10 => client.handle_data(conn, Bytes::copy_from_slice(&dice.array::<30>()), now),
            11 => client.handle_opened(conn, now),
            12 => {
                let code = *dice.pick(&[300, 400, 437, 441, 486]).unwrap_or(&400);
                let server = &mut servers[dice.below(2) as usize];
                server.faults.refusals.insert(Method::ALLOCATE, (code, dice.chance(0.5)));
            }
            13 => servers.iter_mut().for_each(|server| server.faults.refusals.clear()),
            14 => servers[0].faults.alternate = dice.chance(0.5).then(|| at(2)),
            15 => self.unheard.clear(),
            16 => {
                let relayed = client.lease().map(|(place, _, lease)| (place.address, lease.relayed[0].0));
                if let Some((address, relayed)) = relayed {
                    servers[usize::from(address == at(2))].handle_accepted(relayed, someone, now);
                }
            }
            17..30 => {
                if let Some(conn) = self.opening.pop() {
                    client.handle_opened(conn, now);
                }
            }
            _ => self.hear(now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.client.close(now);
    }
}

impl TurnClientSubject {
    fn tuple(conn: Conn, place: &Place) -> FiveTuple {
        let client = SocketAddr::from(([198, 51, 100, 7], 10_000 + conn.0 as u16 % 50_000));
        FiveTuple { client, server: place.address, transport: place.carrier.transport() }
    }

    /// The servers hear all that was said, and are heard.
    fn hear(&mut self, now: Instant) {
        while let Some((conn, bytes)) = self.unheard.pop_front() {
            let Some(place) = self.ways.get(&conn) else { continue };
            let index = usize::from(place.address == at(2));
            self.servers[index].handle_client(Self::tuple(conn, place), &bytes, now);
        }
        let mut said = Vec::new();
        for server in &mut self.servers {
            loop {
                match server.poll_output() {
                    Output::Act(server::Act::Send { client, bytes }) => said.push((client, bytes)),
                    Output::Act(_) | Output::Event(_) => {}
                    Output::Wait(_) => break,
                }
            }
        }
        for (tuple, bytes) in said {
            let is_it = |(conn, place): &(&Conn, &Place)| Self::tuple(**conn, place) == tuple;
            if let Some(conn) = self.ways.iter().find(is_it).map(|(conn, _)| *conn) {
                self.client.handle_data(conn, bytes, now);
            }
        }
    }
}

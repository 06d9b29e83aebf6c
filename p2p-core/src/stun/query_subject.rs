//! A [`Query`] for the laws and the fuzzer.

use super::*;
use crate::sim::laws::{Dice, Subject};
use crate::stun::{Responder, TransactionId};

/// A [`Query`] and all that servers and networks can tell it.
#[derive(Debug)]
pub struct QuerySubject(Query);

fn server(last: u8, transport: Transport) -> Server {
    Server { address: SocketAddr::from(([203, 0, 113, last], 3_478)), transport }
}

fn transport(is_udp: bool) -> Transport {
    if is_udp { Transport::Udp } else { Transport::Tcp }
}

impl Subject for QuerySubject {
    type Machine = Query;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let servers =
            (1..=seed.below(9) as u8).map(|last| server(last, transport(seed.chance(0.5)))).collect();
        let config = QueryConfig {
            servers,
            at_once: seed.below(4) as usize,
            hedge: seed.up_to(Duration::from_millis(200)),
            enough: seed.below(4) as usize,
            patience: seed.up_to(Duration::from_secs(1)),
            hold: seed.chance(0.5),
            transaction: TransactionConfig::default(),
        };
        Self(Query::new(config, seed, now).expect("few servers"))
    }

    fn machine(&mut self) -> &mut Query {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let query = &mut self.0;
        let address = server(dice.below(10) as u8, Transport::Udp).address;
        let id = query.asking.iter().find_map(|asking| match &asking.state {
            State::Asked(asked) if asking.server.address == address => Some(asked.0.id()),
            _ => None,
        });
        let transaction = id.unwrap_or_else(|| TransactionId::with_cookie(dice.array()));
        let request = Message { transaction, ..Message::binding(&mut Seed::from_u64(1)) };
        let request = request.encode(Transport::Udp).unwrap_or_default();
        let client = SocketAddr::from(([198, 51, 100, 7], 4_242));
        let reply = Responder::new(address).respond(&request, client, address, Transport::Udp);
        let mut reply = reply.map(|reply| reply.bytes).unwrap_or_default();
        if dice.chance(0.5) {
            let at = dice.below(reply.len() as u64) as usize;
            reply[at] ^= 1 << dice.below(8);
        }
        match dice.below(40) {
            7 => query.handle_again(now),
            6 => {
                let _ = query.handle_server(server(9, transport(dice.chance(0.5))), now);
            }
            0 | 1 | 10..20 => query.handle_datagram(address, &reply, now),
            2 | 20..25 => query.handle_tcp_open(address, now),
            3 | 25..35 => {
                let length = (dice.below(33) as usize).min(reply.len());
                query.handle_tcp_data(address, &reply[..length], now);
            }
            4 | 35..37 => {
                let why = dice.chance(0.5).then_some(io::ErrorKind::TimedOut);
                query.handle_tcp_closed(address, why, now);
            }
            _ => query.handle_unreachable(address, io::ErrorKind::HostUnreachable, now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

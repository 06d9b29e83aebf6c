//! A [`Transaction`] for the laws and the fuzzer.

use super::*;
use crate::Seed;
use crate::sim::laws::{Dice, Subject};
use crate::stun::message::{Attribute, Method};

/// A [`Transaction`] and all that networks can do to it.
#[derive(Debug)]
pub struct TransactionSubject(Transaction);

fn server() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], 3_478))
}

fn encode(message: &Message) -> Vec<u8> {
    message.encode(Transport::Udp).unwrap_or_default()
}

impl Subject for TransactionSubject {
    type Machine = Transaction;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let transport = if seed.chance(0.5) { Transport::Udp } else { Transport::Tcp };
        let config = TransactionConfig {
            rto: seed.up_to(Duration::from_secs(1)),
            sends: seed.below(20) as u32,
            last_wait: seed.below(20) as u32,
            tcp_wait: seed.up_to(Duration::from_secs(50)),
        };
        let mut request = Request::new(server(), transport, Message::binding(&mut seed));
        request.signature = seed.chance(0.3).then(|| (Algorithm::Sha1, Key::short_term("secret")));
        Self(Transaction::new(config, request, now).expect("a small request"))
    }

    fn machine(&mut self) -> &mut Transaction {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let id = self.0.id();
        let success = Message::new(Class::Success, Method::BINDING, id)
            .with(Attribute::XorMappedAddress(SocketAddr::from(([198, 51, 100, 7], 4_242))));
        let refusal = Message::new(Class::Error, Method::BINDING, id)
            .with(Attribute::ErrorCode { code: 437, reason: "no".into() });
        let mut answer = encode(&success);
        match dice.below(40) {
            0 => self.0.handle_message(server(), &answer, now),
            1 => self.0.handle_unreachable(io::ErrorKind::ConnectionRefused, now),
            2 => self.0.handle_message(server(), &encode(&refusal), now),
            _ => {
                let at = dice.below(answer.len() as u64) as usize;
                answer[at] ^= 1 << dice.below(8);
                let from = SocketAddr::new(server().ip(), 3_470 + dice.below(10) as u16);
                self.0.handle_message(from, &answer, now);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

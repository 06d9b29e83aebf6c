//! A [`DataConnection`] for the laws and the fuzzer.

use super::*;
use crate::sim::laws::{Dice, Subject};
use crate::stun::transaction::TransactionConfig;
use crate::turn::{Carrier, Credentials};

/// A [`DataConnection`] and all that can come on its stream.
#[derive(Debug)]
pub struct DataConnectionSubject(DataConnection);

impl Subject for DataConnectionSubject {
    type Machine = DataConnection;

    fn new(mut seed: Seed, now: Instant) -> Self {
        let server = std::net::SocketAddr::from(([203, 0, 113, 1], 3_478));
        let line = Line { server, carrier: Carrier::Tcp, transaction: TransactionConfig::default() };
        let login = LongTermAuth::new(Credentials::new("user", "secret").expect("short words"));
        let connection = ConnectionId(seed.number() as u32);
        Self(DataConnection::new(DataConfig { line, connection, login }, seed, now))
    }

    fn machine(&mut self) -> &mut DataConnection {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        match dice.below(40) {
            0 => self.0.handle_closed(None, now),
            1 => self.0.handle_data(Bytes::from_static(b"HTTP"), now),
            _ => {
                // A success or an error response to ConnectionBind, without attributes.
                let kind = if dice.chance(0.5) { 0x0b } else { 0x1b };
                let mut answer = vec![1, kind, 0, 0, 0x21, 0x12, 0xa4, 0x42];
                answer.extend(dice.array::<12>());
                self.0.handle_data(answer.into(), now);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

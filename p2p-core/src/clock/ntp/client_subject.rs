//! A [`Client`] for the laws and the fuzzer.

use super::*;
use crate::UnixTime;
use crate::clock::ntp::packet::CLIENT;
use crate::clock::ntp::{DEFAULT_PORT, Packet};
use crate::sim::laws::{Dice, Subject};
use crate::sim::ntp::NtpServer;

/// A [`Client`] and all that its servers can answer.
#[derive(Debug)]
pub struct NtpClientSubject(Client);

const NOON: UnixTime = UnixTime::from_secs(1_800_000_000);

fn at(server: usize) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, server as u8 + 1], DEFAULT_PORT))
}

impl Subject for NtpClientSubject {
    type Machine = Client;

    /// Within a round there is a question every two seconds.
    const KEEPS_ALIVE: Option<Duration> = Some(Duration::from_secs(2));

    fn new(mut seed: Seed, now: Instant) -> Self {
        let config = ClientConfig {
            servers: seed.below(MOST_SERVERS as u64 + 1) as usize,
            burst: seed.below(12) as u8,
            again: seed.below(12) as u8,
            poll: seed.up_to(Duration::from_secs(600)),
            ..ClientConfig::default()
        };
        Self(Client::new(config, Clock::new(now, NOON), seed, now).expect("few servers"))
    }

    fn machine(&mut self) -> &mut Client {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let client = &mut self.0;
        let server = dice.below(MOST_SERVERS as u64 + 1) as usize;
        let asked = client.question(server);
        let question = match asked.filter(|_| dice.chance(0.8)) {
            Some(nonce) => Packet::request(nonce),
            None => Packet { mode: CLIENT, ..Packet::request(dice.number()) },
        };
        let answers = match dice.below(12) {
            0 => NtpServer::kissing(*b"RATE"),
            1 if dice.chance(0.1) => NtpServer::kissing(*b"DENY"),
            1 => NtpServer::kissing(dice.array()),
            _ => NtpServer::ahead(dice.below(2_000_000) as i64 - 1_000_000),
        };
        let mut answer = answers.answer(&question.encode(), NOON, NOON).unwrap_or([0; HEADER]);
        if dice.chance(0.2) {
            answer[dice.below(HEADER as u64) as usize] ^= 1 << dice.below(8);
        }
        match dice.below(20) {
            0 => client.handle_again(now),
            1 => client.handle_clock(Clock::new(now, UnixTime(dice.number())), now),
            2..6 => {
                let found = (0..dice.below(6)).map(|_| at(dice.below(12) as usize)).collect();
                let found = if dice.chance(0.8) { Ok(found) } else { Err("no".into()) };
                client.handle_resolved(server, found, now);
            }
            6 | 7 => client.handle_unreachable(server, io::ErrorKind::ConnectionRefused, now),
            8 => client.handle_datagram(server, at(server), &answer[..dice.below(48) as usize], now),
            _ => {
                let from = client.address(server).unwrap_or(at(server));
                client.handle_datagram(server, from, &answer, now);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

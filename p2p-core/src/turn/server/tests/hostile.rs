//! Stories of strangers who write the addresses of others on their datagrams.

use std::time::Duration;

use super::asker::{Served, TestClient, UDP, at, config, peer, reply};
use crate::rate::Rate;
use crate::stun::responder::most_unproven_answer;
use crate::stun::wire::Parsed;
use crate::stun::{Attribute, Class, Message, Method, TransactionId, Transport};
use crate::turn::server::{Act, FiveTuple, RelayerConfig};
use crate::{Family, Seed};

/// An unsigned request, as the smallest clients send it.
fn unsigned(method: Method, attributes: &[Attribute], seed: &mut Seed) -> Vec<u8> {
    let mut message = Message::new(Class::Request, method, TransactionId::new(seed));
    message.attributes = attributes.to_vec();
    message.encode(Transport::Udp).unwrap()
}

/// Somebody floods in the name of a victim from ever other ports, and from the victim's own port.
struct Flood {
    dice: Seed,
}

impl Flood {
    /// So many datagrams of each kind within a second, all from the victim's IP address.
    fn second(&mut self, server: &mut Served, victim: FiveTuple, number: u64) {
        for round in 0..number {
            server.now += Duration::from_secs(1) / number as u32;
            let port = self.dice.within(1_024..65_536) as u16;
            let mut client = victim;
            client.client.set_port(if port == victim.client.port() { port ^ 1 } else { port });
            let bytes = match round % 3 {
                0 => unsigned(Method::BINDING, &[], &mut self.dice),
                1 => unsigned(Method::ALLOCATE, &[UDP], &mut self.dice),
                _ => {
                    // Signed by somebody, with a nonce that was never given out.
                    let nonce = data_encoding::HEXLOWER.encode(&self.dice.array::<8>());
                    let mut eve = TestClient { client, nonce, ..TestClient::anna() };
                    eve.password.push('?');
                    eve.dice = self.dice.fork("eve");
                    let message = eve.request(Method::REFRESH, &[]);
                    eve.sign(message)
                }
            };
            server.ask(client, &bytes);
        }
    }
}

#[test]
fn datagrams_in_a_victims_name_stop_none_of_its_requests() {
    let mut server = Served::new();
    let mut flood = Flood { dice: Seed::from_u64(4) };
    let mut anna = TestClient::anna();
    anna.allocate(&mut server);
    for _ in 0..3 {
        flood.second(&mut server, anna.client, 3_000);
        // Its STUN.
        let binding = unsigned(Method::BINDING, &[], &mut flood.dice);
        let acts = server.ask(anna.client, &binding);
        let told = Parsed::decode(reply(&acts), Transport::Udp).unwrap().message;
        assert_eq!(told.mapped(), Some(anna.client.client));
        // What it has.
        assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 0);
        assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("8.8.8.1:9")]), 0);
        // And a new one, of a neighbour behind the same address.
        let port = flood.dice.within(10_000..20_000);
        let mut bert = TestClient::new("bert", &format!("192.0.2.1:{port}"), Transport::Udp);
        bert.allocate(&mut server);
        server.relayer.handle_gone(bert.client, server.now);
    }
}

#[test]
fn a_nonce_of_ours_is_a_bucket_of_ones_own_even_when_it_is_stale() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    anna.allocate(&mut server);
    server.pass(590);
    anna.code(&mut server, Method::REFRESH, &[Attribute::Lifetime(3_600)]);
    server.pass(3_550);
    // Somebody knows its port as well.
    let dice = &mut Seed::from_u64(1);
    for _ in 0..5_000 {
        let bytes = unsigned(Method::ALLOCATE, &[UDP], dice);
        server.ask(anna.client, &bytes);
    }
    let nonce = anna.nonce.clone();
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 0);
    assert_ne!(anna.nonce, nonce, "it was stale");
    // Whoever proves its address and floods takes from itself alone.
    let mut eve = TestClient::new("eve", "192.0.2.1:4001", Transport::Udp);
    eve.allocate(&mut server);
    for _ in 0..5_000 {
        let message = eve.request(Method::REFRESH, &[]);
        let bytes = eve.sign(message);
        server.ask(eve.client, &bytes);
    }
    assert!(server.relayer.counters.limited > 4_000);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 0);
}

#[test]
fn signed_is_who_can_be_verified_and_not_who_says_so() {
    let mut server = Served::with(RelayerConfig { rate: Rate { per_second: 1, burst: 3 }, ..config() });
    let mut eve = TestClient { nonce: "obMatJos2gAAAabcdefgh".into(), ..TestClient::anna() };
    eve.password.push('?');
    let answered = (0..20).filter(|_| {
        let message = eve.request(Method::REFRESH, &[]);
        let bytes = eve.sign(message);
        !server.ask(eve.client, &bytes).is_empty()
    });
    assert_eq!(answered.count(), 3);
}

#[test]
fn passwords_are_guessed_at_the_rate_for_one_user_and_source_only() {
    let mut server = Served::with(RelayerConfig { rate: Rate { per_second: 1, burst: 5 }, ..config() });
    let guess = |server: &mut Served, port: u16| {
        let mut eve = TestClient::new("anna", &format!("192.0.2.1:{port}"), Transport::Tcp);
        eve.password.push('?');
        eve.react(server, Method::ALLOCATE, &[UDP]).len()
    };
    let answered: usize = (1..40).map(|port| guess(&mut server, port)).sum();
    assert_eq!(answered, 5, "from whichever port");
    // The right one is not listened to from there for a while, from elsewhere it is; and others are.
    let mut anna = TestClient::new("anna", "192.0.2.1:77", Transport::Tcp);
    assert_eq!(anna.react(&mut server, Method::ALLOCATE, &[UDP]), []);
    let mut elsewhere = TestClient::new("anna", "192.0.2.2:77", Transport::Tcp);
    elsewhere.allocate(&mut server);
    let mut bert = TestClient::new("bert", "192.0.2.1:78", Transport::Tcp);
    bert.allocate(&mut server);
    server.pass(1);
    anna.allocate(&mut server);
}

#[test]
fn no_answer_to_an_unproven_source_is_more_than_half_as_large_again() {
    let methods = [0, 1, 3, 4, 8, 9, 10, 11, 0xfff].map(|number| Method::new(number).unwrap());
    let mut dice = Seed::from_u64(8);
    for realm in ["p2p", "example.org", &"r".repeat(127)] {
        for from in ["192.0.2.1:4000", "[2001:db8::1]:4000"] {
            let mut server = Served::with(RelayerConfig { realm: realm.into(), ..config() });
            for round in 0..4_000u16 {
                server.pass(1);
                let mut client = TestClient::anna().client;
                client.client = at(from);
                if client.client.is_ipv6() {
                    client.server = at("[2001:db8::9]:3478");
                }
                client.client.set_port(1_024 + round);
                let all = [
                    UDP,
                    Attribute::RequestedAddressFamily(Family::V6),
                    Attribute::Realm(realm.into()),
                    Attribute::Nonce("x".into()),
                    Attribute::Username("anna".into()),
                    Attribute::ChangeRequest { ip: true, port: true },
                    Attribute::ResponsePort(9),
                    Attribute::Padding(dice.below(8) as u16),
                ];
                let some: Vec<_> = all.into_iter().filter(|_| dice.chance(0.2)).collect();
                let mut bytes = unsigned(*dice.pick(&methods).unwrap(), &some, &mut dice);
                if dice.chance(0.3) {
                    // Something unknown, or broken.
                    let at = dice.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << dice.below(8);
                }
                if dice.chance(0.1) {
                    bytes[4] ^= 0xff;
                }
                let _ = server.relayer.handle_data(client, &bytes, server.now);
                for act in server.perform() {
                    let Act::Send { bytes: answer, .. } = act else { panic!("{act:?}") };
                    let most = most_unproven_answer(client.client, bytes.len());
                    assert!(answer.len() <= most, "{} to {}: {:02x?}", answer.len(), bytes.len(), bytes);
                }
            }
            assert!(server.relayer.counters.challenged > 100 && server.relayer.counters.bindings > 100);
        }
    }
}

#[test]
fn the_smallest_request_is_challenged_and_a_larger_one_in_full() {
    for (realm, is_whole) in
        [("p2p", true), ("example.org", true), ("example.com.", true), ("thirteen.long", false)]
    {
        let mut server = Served::with(RelayerConfig { realm: realm.into(), ..config() });
        let small = unsigned(Method::ALLOCATE, &[UDP], &mut Seed::from_u64(1));
        assert_eq!(small.len(), 28);
        let acts = server.ask(TestClient::anna().client, &small);
        let told = Parsed::decode(reply(&acts), Transport::Udp).unwrap().message;
        assert_eq!(told.error_code().map(|(code, _)| code), Some(401));
        let has_realm = told.attributes.contains(&Attribute::Realm(realm.into()));
        assert_eq!(has_realm, is_whole, "{realm}: {told:?}");
        let more =
            [UDP, Attribute::Lifetime(600), Attribute::Software("some client of TURN, or other".into())];
        let large = unsigned(Method::ALLOCATE, &more, &mut Seed::from_u64(2));
        let acts = server.ask(TestClient::anna().client, &large);
        let told = Parsed::decode(reply(&acts), Transport::Udp).unwrap().message;
        assert!(
            told.attributes.iter().any(|one| matches!(one, Attribute::PasswordAlgorithms(_))),
            "{told:?}"
        );
    }
}

//! Stories of clients.

mod asker;
mod connections;
mod hostile;

use std::net::SocketAddr;
use std::time::Duration;

use hmac::{Hmac, Mac};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::error::ErrorResponse;
use super::nonce::Features;
use super::output::{Act, Event, FiveTuple};
use crate::sim::laws::drain;
use crate::stun::wire::{Algorithm, Ending, Parsed};
use crate::stun::{Attribute, Method, PasswordAlgorithm, Transport};
use crate::turn::Relaying;
use crate::{Family, Seed};
use asker::{END, RELAY, Served, TCP, TestClient, UDP, at, lifetime, peer, relayed, reply};

const PERMISSION: Duration = Duration::from_secs(300);
const CHANNEL: Duration = Duration::from_secs(600);

#[test]
fn whoever_asks_unsigned_is_told_how_to_sign() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    let unsigned = anna.request(Method::ALLOCATE, &[UDP]).encode(Transport::Udp).unwrap();
    let acts = server.ask(anna.client, &unsigned);
    let told = Parsed::decode(reply(&acts), Transport::Udp).unwrap();
    assert_eq!(told.message.error_code().map(|(code, _)| code), Some(401));
    assert!(told.algorithm().is_none());
    assert!(told.message.attributes.contains(&Attribute::Realm("realm".into())));
    anna.learn(&told.message);
    let answer = anna.says(&mut server, Method::ALLOCATE, &[UDP]);
    assert_eq!((relayed(&answer), answer.mapped()), (Some(at("8.8.4.1:50001")), Some(anna.client.client)));
    assert_eq!(lifetime(&answer), Some(600));
    let mut bert = TestClient { sha256: true, ..TestClient::new("bert", "192.0.2.2:1", Transport::Udp) };
    assert_eq!(bert.allocate(&mut server), at("8.8.4.1:50002"));
}

#[test]
fn whoever_signs_badly_gets_nothing() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    anna.password.push('x');
    assert_eq!(anna.code(&mut server, Method::ALLOCATE, &[UDP]), 401);
    anna = TestClient { username: "nobody".into(), ..TestClient::anna() };
    assert_eq!(anna.code(&mut server, Method::ALLOCATE, &[UDP]), 401);
    // A nonce is good at the address it was given to.
    let mut bert = TestClient::new("anna", "192.0.2.1:4001", Transport::Udp);
    bert.nonce = anna.nonce.clone();
    let message = bert.request(Method::ALLOCATE, &[UDP]);
    let acts = server.ask(bert.client, &bert.sign(message));
    let told = Parsed::decode(reply(&acts), Transport::Udp).unwrap().message;
    assert_eq!(told.error_code(), Some((438, "Stale Nonce")));
    // Signed, but without saying by whom or for which realm.
    let message = bert.request(Method::ALLOCATE, &[UDP]);
    let ending = Ending { signature: Some((Algorithm::Sha1, &bert.key())), fingerprint: false };
    let bytes = message.encode_with(Transport::Udp, ending).unwrap();
    let acts = server.ask(bert.client, &bytes);
    let told = Parsed::decode(reply(&acts), Transport::Udp).unwrap().message;
    assert_eq!(told.error_code().map(|(code, _)| code), Some(400));
    // Somebody in between struck the better algorithm out.
    let weak = [1].map(|number| PasswordAlgorithm { number, parameters: vec![] });
    let struck =
        [Attribute::PasswordAlgorithms(weak.to_vec()), Attribute::PasswordAlgorithm(weak[0].clone())];
    assert_eq!(TestClient::anna().code(&mut server, Method::ALLOCATE, &struck), 400);
    assert_eq!((server.relayer.held(), server.relayer.allocations()), (0, 0));
}

#[test]
fn an_old_nonce_is_replaced_whatever_is_asked() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    anna.allocate(&mut server);
    let methods: [(Method, &[Attribute]); 3] = [
        (Method::REFRESH, &[Attribute::Lifetime(3_600)]),
        (Method::CREATE_PERMISSION, &[peer("8.8.8.1:9")]),
        (Method::CHANNEL_BIND, &[peer("8.8.8.1:9"), Attribute::ChannelNumber(0x4000)]),
    ];
    for (method, attributes) in methods {
        let before = anna.nonce.clone();
        let mut now = TestClient { nonce: "old".into(), dice: Seed::from_u64(9), ..TestClient::anna() };
        let message = now.request(method, attributes);
        let acts = server.ask(now.client, &now.sign(message));
        let told = Parsed::decode(reply(&acts), Transport::Udp).unwrap().message;
        assert_eq!(told.error_code().map(|(code, _)| code), Some(438));
        assert_eq!(anna.code(&mut server, method, attributes), 0);
        assert_eq!(anna.nonce, before, "it was still good");
    }
    server.pass(3_000);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[Attribute::Lifetime(3_600)]), 0);
    let before = anna.nonce.clone();
    server.pass(601);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 0);
    assert_ne!(anna.nonce, before, "an hour is enough");
}

#[test]
fn a_credential_ends_but_what_was_allocated_in_time_goes_on() {
    let mut server = Served::new();
    server.pass(3_599);
    let mut late = TestClient::anna().until("anna", 3_600);
    late.allocate(&mut server);
    server.pass(1);
    let mut later = TestClient::new("anna", "192.0.2.1:4002", Transport::Udp).until("anna", 3_600);
    let refusal = later.says(&mut server, Method::ALLOCATE, &[UDP]);
    assert_eq!(refusal.error_code(), Some((401, ErrorResponse::EXPIRED.reason)));
    assert!(refusal.attributes.contains(&Attribute::Realm("realm".into())));
    assert_eq!(late.code(&mut server, Method::REFRESH, &[]), 0);
    assert_eq!(late.code(&mut server, Method::CREATE_PERMISSION, &[peer("8.8.8.1:9")]), 0);
    assert_eq!(server.relayer.counters.expired, 1);
}

#[test]
fn an_allocation_lasts_as_long_as_it_is_refreshed() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    let long = anna.says(&mut server, Method::ALLOCATE, &[UDP, Attribute::Lifetime(1)]);
    assert_eq!(lifetime(&long), Some(600), "not less than the usual");
    assert_eq!(anna.code(&mut server, Method::ALLOCATE, &[UDP]), 437, "one is enough");
    let longest = anna.says(&mut server, Method::REFRESH, &[Attribute::Lifetime(u32::MAX)]);
    assert_eq!(lifetime(&longest), Some(3_600));
    server.pass(3_599);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 0);
    assert_eq!(server.sweep(), Some(server.now + Duration::from_secs(600)));
    server.pass(600);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 437, "whether or not somebody swept");
    assert_eq!((server.relayer.held(), server.relayer.relayed.len()), (0, 0));
    for (method, attributes) in [
        (Method::CREATE_PERMISSION, vec![peer("8.8.8.1:9")]),
        (Method::CHANNEL_BIND, vec![peer("8.8.8.1:9"), Attribute::ChannelNumber(0x4000)]),
        (Method::CONNECT, vec![peer("8.8.8.1:9")]),
    ] {
        assert_eq!(anna.code(&mut server, method, &attributes), 437);
    }
    let mut bert = TestClient::new("bert", "192.0.2.2:1", Transport::Udp);
    bert.allocate(&mut server);
    assert_eq!(lifetime(&bert.says(&mut server, Method::REFRESH, &[END])), Some(0));
    assert_eq!(bert.code(&mut server, Method::REFRESH, &[END]), 437);
    bert.allocate(&mut server);
    server.pass(600);
    assert_eq!(server.sweep(), None);
    assert_eq!((server.relayer.held(), server.relayer.allocations()), (0, 0));
}

#[test]
fn a_lost_answer_is_given_again() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    anna.code(&mut server, Method::REFRESH, &[]);
    let message = anna.request(Method::ALLOCATE, &[UDP]);
    let bytes = anna.sign(message);
    let first = server.ask(anna.client, &bytes);
    let again = server.ask(anna.client, &bytes);
    assert_eq!(first, again);
    assert_eq!(server.relayer.held(), 1);
}

#[test]
fn an_allocation_is_his_who_made_it() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    anna.allocate(&mut server);
    let mut thief = TestClient::new("bert", "192.0.2.1:4000", Transport::Udp);
    assert_eq!(thief.code(&mut server, Method::REFRESH, &[END]), 441);
    assert_eq!(thief.code(&mut server, Method::CREATE_PERMISSION, &[peer("8.8.8.1:9")]), 441);
    assert_eq!(thief.code(&mut server, Method::ALLOCATE, &[UDP]), 437);
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[]), 0);
}

#[test]
fn what_cannot_be_allocated() {
    let mut server = Served::new();
    let v6 = Attribute::RequestedAddressFamily(Family::V6);
    let also_v6 = Attribute::AdditionalAddressFamily(Family::V6);
    let even = |reserve| Attribute::EvenPort { reserve };
    for (attributes, code) in [
        (vec![], 400),
        (vec![Attribute::RequestedTransport(132)], 442),
        (vec![TCP], 400),
        (vec![UDP, v6.clone()], 440),
        (vec![UDP, v6.clone(), also_v6.clone()], 400),
        (vec![UDP, Attribute::AdditionalAddressFamily(Family::V4)], 400),
        (vec![UDP, even(true)], 508),
        (vec![UDP, even(false), also_v6.clone()], 400),
    ] {
        assert_eq!(
            TestClient::anna().code(&mut server, Method::ALLOCATE, &attributes),
            code,
            "{attributes:?}"
        );
    }
    assert_eq!(TestClient::anna().code(&mut server, Method::new(0x0ff).unwrap(), &[]), 400);
    let mut anna = TestClient::anna();
    let both = anna.says(&mut server, Method::ALLOCATE, &[UDP, also_v6.clone()]);
    assert_eq!(relayed(&both), Some(at("8.8.4.1:50001")));
    let lacks = |attribute: &Attribute| {
        matches!(attribute, Attribute::AddressErrorCode { family: Family::V6, code: 440, .. })
    };
    assert!(both.attributes.iter().any(lacks));
    assert_eq!(server.relayer.held(), 1);
    let mut bert = TestClient::new("bert", "192.0.2.2:1", Transport::Udp);
    let answer = bert.says(&mut server, Method::ALLOCATE, &[UDP, even(false)]);
    assert_eq!(relayed(&answer), Some(at("8.8.4.1:50002")));
    server.port = u16::MAX;
    let mut carl = TestClient::new("carl", "192.0.2.3:1", Transport::Udp);
    assert_eq!(carl.code(&mut server, Method::ALLOCATE, &[UDP]), 508);
    assert_eq!(carl.code(&mut server, Method::ALLOCATE, &[UDP, also_v6]), 508);
}

#[test]
fn nobody_gets_more_than_his_share() {
    let mut server = Served::new();
    let mut clients: Vec<_> =
        (1..7).map(|port| TestClient::new("anna", &format!("192.0.2.1:{port}"), Transport::Udp)).collect();
    clients[..3].iter_mut().for_each(|anna| {
        anna.allocate(&mut server);
    });
    // A newer credential is no new share.
    let fourth = clients.remove(3).until("anna", 2_000_000);
    clients.insert(3, fourth);
    assert_eq!(clients[3].code(&mut server, Method::ALLOCATE, &[UDP]), 486);
    assert_eq!(clients[0].code(&mut server, Method::REFRESH, &[END]), 0);
    clients[3].allocate(&mut server);
    let mut others: Vec<_> =
        (1..4).map(|port| TestClient::new("bert", &format!("192.0.2.2:{port}"), Transport::Udp)).collect();
    others[..2].iter_mut().for_each(|bert| {
        bert.allocate(&mut server);
    });
    assert_eq!(others[2].code(&mut server, Method::ALLOCATE, &[UDP]), 508, "the server is full");
    // A connection that ends gives all of it back.
    server.relayer.handle_gone(others[0].client, server.now);
    others[2].allocate(&mut server);
}

#[test]
fn only_the_internet_is_relayed_to() {
    let mut server = Served::new();
    let mut anna = TestClient::new("anna", "192.0.2.1:1", Transport::Tcp);
    assert_eq!(anna.code(&mut server, Method::ALLOCATE, &[TCP]), 0);
    let mut bert = TestClient::new("bert", "192.0.2.2:1", Transport::Udp);
    bert.allocate(&mut server);
    let forbidden = [
        "127.0.0.1:22",
        "10.0.0.1:22",
        "192.168.1.1:80",
        "169.254.169.254:80",
        "224.0.0.1:5353",
        "8.8.8.99:22",
    ];
    for address in forbidden {
        let number = Attribute::ChannelNumber(0x4000);
        assert_eq!(bert.code(&mut server, Method::CREATE_PERMISSION, &[peer(address)]), 403, "{address}");
        assert_eq!(bert.code(&mut server, Method::CHANNEL_BIND, &[peer(address), number]), 403, "{address}");
        assert_eq!(anna.code(&mut server, Method::CONNECT, &[peer(address)]), 403, "{address}");
        assert!(!server.goes_out(bert.client, address));
    }
    // One bad peer among good ones: none is let in.
    let mixed = [peer("8.8.8.1:9"), peer("10.0.0.1:9")];
    assert_eq!(bert.code(&mut server, Method::CREATE_PERMISSION, &mixed), 403);
    assert!(!server.goes_out(bert.client, "8.8.8.1:9"));
    assert_eq!(server.relayer.counters.forbidden, 19);
}

#[test]
fn where_we_relay_from_only_relayed_addresses_are_reached() {
    let mut server = Served::new();
    let (mut anna, mut bert) = (TestClient::anna(), TestClient::new("bert", "192.0.2.2:1", Transport::Udp));
    let (one, other) = (anna.allocate(&mut server), bert.allocate(&mut server));
    let number = Attribute::ChannelNumber(0x4000);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[Attribute::XorPeerAddress(other)]), 0);
    assert!(server.goes_out(anna.client, &other.to_string()));
    assert!(!server.goes_out(anna.client, "8.8.4.1:22"));
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &[peer("8.8.4.1:22"), number.clone()]), 403);
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &[Attribute::XorPeerAddress(other), number]), 0);
    assert_eq!(server.relayer.route(&anna.client, 0x4000, 3, server.now), Some((one, other)));
    assert_eq!(server.comes_in(other, &one.to_string()), None, "bert has not let her in");
    assert_eq!(bert.code(&mut server, Method::CREATE_PERMISSION, &[Attribute::XorPeerAddress(one)]), 0);
    assert_eq!(server.comes_in(other, &one.to_string()), Some(None));
    // The relayed address is gone, and somebody else has the port.
    assert_eq!(bert.code(&mut server, Method::REFRESH, &[END]), 0);
    assert_eq!(server.relayer.route(&anna.client, 0x4000, 3, server.now), None);
}

#[test]
fn datagrams_go_where_and_while_they_are_permitted() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    let mine = anna.allocate(&mut server);
    let (near, far) = (at("8.8.8.1:9"), at("8.8.8.2:9"));
    assert_eq!(server.comes_in(mine, "8.8.8.1:9"), None);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[]), 400);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("[2606:4700::1]:9")]), 443);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("8.8.8.1:9")]), 0);
    assert_eq!(server.comes_in(mine, "8.8.8.1:9"), Some(None));
    assert!(server.goes_out(anna.client, "8.8.8.1:10"), "whatever the port");
    assert!(!server.goes_out(anna.client, "8.8.8.2:9"));
    let bind = |number, to: SocketAddr| [Attribute::ChannelNumber(number), Attribute::XorPeerAddress(to)];
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &bind(0x4000, far)), 0);
    for (number, to) in
        [(0x4000, near), (0x4001, far), (0x3fff, near), (0x8000, near), (0x4002, at("8.8.8.1:0"))]
    {
        assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &bind(number, to)), 400, "{number:x}");
    }
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &bind(0x4000, far)[..1]), 400);
    assert_eq!(anna.code(&mut server, Method::CHANNEL_BIND, &bind(0x4000, at("[2606:4700::1]:9"))), 443);
    assert_eq!(server.relayer.route(&anna.client, 0x4000, 3, server.now), Some((mine, far)));
    assert_eq!(server.relayer.route(&anna.client, 0x4001, 3, server.now), None);
    assert_eq!(server.comes_in(mine, "8.8.8.2:9"), Some(Some(0x4000)));
    let stranger = FiveTuple { client: at("192.0.2.9:9"), ..anna.client };
    assert_eq!(server.relayer.route(&stranger, 0x4000, 3, server.now), None);
    server.pass(PERMISSION.as_secs());
    assert!(!server.goes_out(anna.client, "8.8.8.1:9"));
    assert_eq!(server.relayer.route(&anna.client, 0x4000, 3, server.now), None, "permissions end first");
    assert_eq!(anna.code(&mut server, Method::REFRESH, &[Attribute::Lifetime(3_600)]), 0);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("8.8.8.2:9")]), 0);
    assert_eq!(server.relayer.route(&anna.client, 0x4000, 3, server.now), Some((mine, far)));
    server.pass((CHANNEL - PERMISSION).as_secs() - 1);
    assert_eq!(server.comes_in(mine, "8.8.8.2:9"), Some(Some(0x4000)));
    server.pass(2);
    assert_eq!(anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("8.8.8.2:9")]), 0);
    assert_eq!(server.comes_in(mine, "8.8.8.2:9"), Some(None), "the channel is over");
}

#[test]
fn whoever_sends_too_much_loses_what_is_too_much() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    let mine = anna.allocate(&mut server);
    anna.code(&mut server, Method::CREATE_PERMISSION, &[peer("8.8.8.1:9")]);
    let near = at("8.8.8.1:9");
    let mut passed = 0;
    for _ in 0..100 {
        passed += usize::from(server.relayer.route_back(mine, near, 1_000, server.now).is_some());
    }
    assert_eq!(passed, 10, "a second's worth at once");
    assert_eq!(server.relayer.counters.throttled, 90);
    server.pass(1);
    assert!(server.relayer.route_back(mine, near, 1_000, server.now).is_some());
}

/// DONT-FRAGMENT, which is not done here: the only attribute of TURN that this wire does not know.
#[test]
fn an_attribute_that_is_not_understood_is_named() {
    let mut server = Served::new();
    let mut anna = TestClient { sha256: true, ..TestClient::anna() };
    anna.code(&mut server, Method::REFRESH, &[]);
    let message = anna.request(Method::ALLOCATE, &[Attribute::Padding(0), UDP]);
    let mut bytes = anna.sign(message);
    // PADDING comes first and is empty; it becomes the other, and the signature is made anew.
    bytes[20..22].copy_from_slice(&0x001a_u16.to_be_bytes());
    let end = bytes.len() - 8;
    let signed = end - 36;
    let length = ((end - 20) as u16).to_be_bytes();
    bytes.truncate(signed + 4);
    bytes[2..4].copy_from_slice(&length);
    let text = format!("{}:realm:{}", anna.username, anna.password);
    let mut mac = Hmac::<Sha256>::new_from_slice(&Sha256::digest(text)).unwrap();
    mac.update(&bytes[..signed]);
    bytes.extend_from_slice(&mac.finalize().into_bytes());
    let acts = server.ask(anna.client, &bytes);
    let answer = Parsed::decode(reply(&acts), Transport::Udp).unwrap();
    assert!(answer.verify(&anna.key()).is_ok());
    assert_eq!(answer.message.error_code().map(|(code, _)| code), Some(420));
    assert!(answer.message.attributes.contains(&Attribute::UnknownAttributes(vec![0x001a])));
    assert_eq!(server.relayer.held(), 0);
}

fn anything() -> impl Strategy<Value = Attribute> {
    let near = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
    prop_oneof![
        any::<u8>().prop_map(Attribute::RequestedTransport),
        Just(UDP),
        Just(TCP),
        any::<u32>().prop_map(Attribute::Lifetime),
        Just(END),
        near.prop_map(Attribute::XorPeerAddress),
        any::<u16>().prop_map(Attribute::ChannelNumber),
        (0x4000u16..0x4004).prop_map(Attribute::ChannelNumber),
        any::<u32>().prop_map(Attribute::ConnectionId),
        Just(Attribute::RequestedAddressFamily(Family::V4)),
        Just(Attribute::AdditionalAddressFamily(Family::V6)),
        Just(Attribute::PasswordAlgorithms(vec![])),
        any::<bool>().prop_map(|reserve| Attribute::EvenPort { reserve }),
    ]
}

proptest! {
    /// Whatever a user asks for in whatever order, and however damaged it arrives, the books are right.
    #[test]
    fn no_request_breaks_the_tables(
        requests in prop::collection::vec(
            (0u16..16, prop::collection::vec(anything(), 0..6), 0u16..6, 0u64..400, any::<Option<(u16, u8)>>()),
            0..40,
        )
    ) {
        let mut server = Served::new();
        for (number, attributes, from, pause, damage) in requests {
            server.pass(pause);
            let transport = if from % 2 == 0 { Transport::Udp } else { Transport::Tcp };
            let mut asker = TestClient::new(["anna", "bert"][usize::from(from / 3)], &format!("192.0.2.1:{}", 1 + from), transport);
            let lifetime = server.relayer.config.nonce_lifetime;
            asker.nonce = server.relayer.nonces.make(&asker.client, Features::default(), lifetime, server.now);
            let message = asker.request(Method::new(number).unwrap(), &attributes);
            let mut bytes = asker.sign(message);
            if let Some((place, bits)) = damage {
                let place = usize::from(place) % bytes.len();
                bytes[place] ^= bits;
            }
            let _ = server.relayer.handle_data(asker.client, &bytes, server.now);
            for act in server.perform() {
                if let Act::Dial { connection, .. } = act {
                    server.relayer.handle_dialled(connection, true, server.now);
                }
            }
            let _ = server.relayer.route(&asker.client, 0x4000 + from, 10, server.now);
            let relayer = &server.relayer;
            let held: usize = relayer.allocations.values().map(|record| record.addresses.len()).sum();
            prop_assert_eq!(relayer.held(), held);
            prop_assert_eq!(relayer.relayed.len(), held);
            prop_assert!(held <= 5);
            let waiting: usize = relayer.allocations.values()
                .flat_map(|record| &record.addresses)
                .map(|address| address.connections.len())
                .sum();
            prop_assert_eq!(relayer.connections.len(), waiting);
        }
        server.pass(4_000);
        prop_assert_eq!(server.sweep(), None);
        let relayer = &server.relayer;
        prop_assert_eq!((relayer.held(), relayer.relayed.len(), relayer.connections.len()), (0, 0, 0));
    }
}

#[test]
fn a_name_can_be_hidden_by_those_who_are_known_by_name() {
    let mut config = asker::config();
    config.takes_user_hash = true;
    config.users.push(crate::turn::Credentials::new("carl", "a word").unwrap());
    let mut server = Served::with(config);
    let mut carl = TestClient { username: "carl".into(), password: "a word".into(), ..TestClient::anna() };
    carl.code(&mut server, Method::REFRESH, &[]);
    assert!(carl.nonce.starts_with("obMatJos2wAAA"), "both features");
    let hash = |name: &str| Attribute::UserHash(Sha256::digest(format!("{name}:realm")).into());
    let hidden = |carl: &mut TestClient, hash| {
        let message = carl.request(Method::ALLOCATE, &[UDP, hash]);
        let message =
            message.with(Attribute::Realm("realm".into())).with(Attribute::Nonce(carl.nonce.clone()));
        let ending = Ending { signature: Some((Algorithm::Sha1, &carl.key())), fingerprint: false };
        message.encode_with(Transport::Udp, ending).unwrap()
    };
    let unknown = hidden(&mut carl, hash("dora"));
    let acts = server.ask(carl.client, &unknown);
    let told = Parsed::decode(reply(&acts), Transport::Udp).unwrap().message;
    assert_eq!(told.error_code().map(|(code, _)| code), Some(401));
    let known = hidden(&mut carl, hash("carl"));
    let acts = server.ask(carl.client, &known);
    let told = Parsed::decode(reply(&acts), Transport::Udp).unwrap();
    assert!(told.verify(&carl.key()).is_ok() && relayed(&told.message).is_some(), "{:?}", told.message);
}

/// A driver that has better things to do than what it was asked for.
#[test]
fn requests_wait_for_a_slow_driver_and_what_comes_too_late_is_closed() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    anna.code(&mut server, Method::REFRESH, &[]);
    let message = anna.request(Method::ALLOCATE, &[UDP]);
    let bytes = anna.sign(message);
    server.relayer.handle_data(anna.client, &bytes, server.now).unwrap();
    let acts = drain(&mut server.relayer).acts;
    let [Act::Bind { client, family: Family::V4, relaying: Relaying::Udp, is_even: false }] = acts[..] else {
        panic!("{acts:?}")
    };
    assert_eq!(client, anna.client);
    assert_eq!(server.ask(anna.client, &bytes), [], "it was asked again, and still waits");
    assert_eq!(server.relayer.held(), 1);
    let late = at("8.8.4.1:51000");
    server.pass(10);
    assert_eq!((server.sweep(), server.relayer.held()), (None, 0));
    server.relayer.handle_bound(client, Family::V4, Relaying::Udp, Ok(late), server.now);
    let closed = Act::Release { relaying: Relaying::Udp, relayed: late };
    assert_eq!(drain(&mut server.relayer).acts, [closed]);
    let mine = anna.allocate(&mut server);
    // While a peer is looked up, the next request of the same client waits.
    let message = anna.request(Method::CREATE_PERMISSION, &[peer("8.8.8.1:9")]);
    let bytes = anna.sign(message);
    server.relayer.handle_data(anna.client, &bytes, server.now).unwrap();
    let acts = drain(&mut server.relayer).acts;
    assert!(matches!(&acts[..], [Act::Check { ips, .. }] if *ips == [at("8.8.8.1:9").ip()]), "{acts:?}");
    assert_eq!(server.ask(anna.client, &bytes), []);
    assert_eq!(server.comes_in(mine, "8.8.8.1:9"), None);
    server.relayer.handle_checked(anna.client, &[], server.now);
    assert!(matches!(server.perform()[..], [Act::Send { .. }]));
    assert_eq!(server.comes_in(mine, "8.8.8.1:9"), Some(None));
}

#[test]
fn closed_it_gives_everything_back_and_hears_nothing() {
    let mut server = Served::new();
    let (mut anna, mut bert) = (TestClient::anna(), TestClient::new("bert", "192.0.2.2:1", Transport::Udp));
    let (one, other) = (anna.allocate(&mut server), bert.allocate(&mut server));
    server.relayer.close(server.now);
    let drained = drain(&mut server.relayer);
    let release = |relayed| Act::Release { relaying: Relaying::Udp, relayed };
    assert_eq!(drained.acts, [release(one), release(other)]);
    assert_eq!(drained.wait, None);
    let message = anna.request(Method::ALLOCATE, &[UDP]);
    assert_eq!(server.ask(anna.client, &anna.sign(message)), []);
}

#[test]
fn an_allocation_is_told_of() {
    let mut server = Served::new();
    let mut anna = TestClient::anna();
    anna.code(&mut server, Method::REFRESH, &[]);
    let message = anna.request(Method::ALLOCATE, &[UDP]);
    server.relayer.handle_data(anna.client, &anna.sign(message), server.now).unwrap();
    drain(&mut server.relayer);
    let relayed = SocketAddr::new(RELAY.parse().unwrap(), 50_077);
    server.relayer.handle_bound(anna.client, Family::V4, Relaying::Udp, Ok(relayed), server.now);
    let told = drain(&mut server.relayer).events;
    let (client, relaying) = (anna.client, Relaying::Udp);
    assert_eq!(told, [Event::Allocated { client, relaying, relayed: vec![relayed] }]);
}

//! Stories of trouble, one for each kind.

use super::*;
use crate::stun::transaction::Fault;
use crate::stun::wire::Ending;
use crate::turn::MOST_CHALLENGES;
use crate::turn::server::SharedSecret;
use crate::{Clock, UnixTime};

fn refused(code: u16) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Failed(failure) if failure.code() == Some(code))
}

/// Returns a server that answers requests of this kind with this code.
fn refusing(method: Method, code: u16, is_signed: bool) -> FaultyServerConfig {
    let mut config = server_config();
    config.faults.refusals.insert(method, (code, is_signed));
    config
}

#[test]
fn a_wrong_password_is_a_wrong_password() {
    let mut config = server_config();
    config.set_password("another");
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.run(secs(60));
    assert_eq!(pair.told(), [Event::Failed(Failure::WrongCredentials)]);
    assert!(pair.server.counters().requests <= 3, "it does not hammer the server");
    assert_eq!(pair.wait(), None);
}

#[test]
fn credentials_with_a_limit_end_and_can_be_renewed() {
    let secret = "shared by servers and whoever hands out credentials";
    let start = UnixTime::from_secs(1_800_000_000);
    let hour = |hours: u64| start.after(secs(3_600 * hours));
    let made = |expiry| Credentials::time_limited(secret.as_bytes(), "alice", expiry).unwrap();
    let mut config = server_config();
    config.relayer.secret = Some(SharedSecret::new(secret).unwrap());
    config.clock = Clock::new(epoch(), start);
    config.faults.is_strict = true;
    let mut pair = Pair::with(config.clone(), Carrier::Udp, |config| config.credentials = made(hour(1)));
    pair.run(secs(3_000));
    assert!(matches!(pair.told()[..], [Event::Allocated(_)]));
    // Nobody renews them. The allocation is kept to the end of what the server granted, and the reason is told.
    pair.run(secs(1_500));
    let events = pair.told();
    assert!(matches!(events[0], Event::Trouble(Failure::WrongCredentials)), "{events:?}");
    assert_eq!(events.last(), Some(&Event::Failed(Failure::WrongCredentials)));

    // coturn compares whole user names. Ours must stay the same, so a new name is a new allocation.
    let mut pair = Pair::with(config, Carrier::Udp, |config| config.credentials = made(hour(1)));
    pair.run(secs(10));
    pair.allocation.renew_credentials(made(hour(9)));
    pair.told();
    pair.run(secs(400));
    assert!(matches!(pair.told()[..], [Event::Failed(ref failure)] if failure.code() == Some(441)));
}

#[test]
fn a_403_is_for_one_peer_only() {
    let mut config = server_config();
    config.relayer.deny_peers = vec![peer(2).ip().to_string().parse().unwrap()];
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    for number in 1..=3 {
        pair.allocation.bind(peer(number), pair.now).unwrap();
    }
    pair.run(secs(2));
    let events = pair.told();
    let no: Vec<_> = events.iter().filter(|event| matches!(event, Event::Refused(..))).collect();
    assert!(
        matches!(no[..], [Event::Refused(ip, why)] if *ip == peer(2).ip() && why.code() == Some(403)),
        "{events:?}"
    );
    pair.assert_flows(peer(1));
    pair.assert_flows(peer(3));
    assert_eq!(pair.allocation.send(peer(2), Bytes::new(), pair.now), Err(Misuse::NotPermitted));
}

#[test]
fn a_stale_nonce_on_every_kind_of_request_costs_one_round_trip() {
    // The nonce ends between any two requests.
    let mut config = server_config();
    config.relayer.nonce_lifetime = DELAY * 3;
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.run(secs(1));
    pair.allocation.bind(peer(1), pair.now).unwrap();
    pair.run(secs(1));
    let stale = pair.server.counters().stale;
    assert!(stale >= 2, "CreatePermission and ChannelBind were stale: {stale}");
    pair.allocation.handle_doubt(pair.now);
    pair.run(secs(1));
    let doubted = pair.server.counters().stale;
    assert_eq!(doubted, stale + 3, "Refresh was stale, and so were CreatePermission and ChannelBind");
    pair.assert_flows(peer(1));
    pair.allocation.close(pair.now);
    pair.run(secs(1));
    assert_eq!(pair.server.allocations(), 0, "and the farewell was, and was said again");
    assert_eq!(pair.server.counters().stale, doubted + 1);
}

#[test]
fn a_nonce_that_is_always_stale_is_given_up() {
    let mut config = server_config();
    config.relayer.nonce_lifetime = Duration::ZERO;
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.run(secs(60));
    assert_eq!(pair.told(), [Event::Failed(Failure::StaleForEver)]);
    assert_eq!(pair.server.counters().requests, u64::from(MOST_CHALLENGES) + 1);
}

#[test]
fn a_server_that_has_forgotten_gives_another_address() {
    // 437 comes to Refresh, to CreatePermission, to ChannelBind: to the first request in each case.
    for wait in [290, 235, 1] {
        let mut pair = Pair::standing(&[peer(1)]);
        let old = pair.relayed();
        pair.run(secs(wait));
        pair.server.restart(pair.now);
        if wait == 1 {
            pair.allocation.bind(peer(2), pair.now).unwrap();
        }
        pair.run(secs(20));
        let events = pair.told();
        let moved = events.iter().any(|event| matches!(event, Event::Moved(_)));
        assert!(moved, "after {wait} s: {events:?}");
        assert_ne!(pair.relayed(), old);
        pair.assert_flows(peer(1));
    }
}

#[test]
fn doubt_finds_an_empty_table_in_three_round_trips() {
    let mut pair = Pair::standing(&[peer(1)]);
    pair.run(secs(5));
    pair.server.restart(pair.now);
    pair.run(secs(2));
    assert_eq!(pair.told(), [], "nobody has noticed");
    pair.allocation.handle_doubt(pair.now);
    // These are 438 for the nonce, 437 for the allocation, another allocation, and its peer.
    pair.run(DELAY * 2 * 4);
    let events = pair.told();
    assert!(matches!(events[..], [Event::Moved(_), Event::Permitted(_), Event::Bound(_)]), "{events:?}");
    pair.assert_flows(peer(1));
}

#[test]
fn a_400_after_a_restart_is_a_reason_to_ask_anew() {
    for (method, is_signed) in [
        (Method::REFRESH, true),
        (Method::REFRESH, false),
        (Method::CHANNEL_BIND, true),
        (Method::CREATE_PERMISSION, false),
    ] {
        let mut pair = Pair::standing(&[peer(1)]);
        pair.server.restart(pair.now);
        pair.server.faults.refusals.insert(method, (400, is_signed));
        pair.run(secs(5));
        match method {
            Method::REFRESH => pair.allocation.handle_doubt(pair.now),
            _ => pair.allocation.bind(peer(2), pair.now).unwrap(),
        }
        pair.run(secs(1));
        pair.server.faults.refusals.clear();
        pair.run(secs(10));
        let events = pair.told();
        let is_moved = |event: &Event| matches!(event, Event::Moved(_));
        assert!(events.iter().any(is_moved), "{method:?} {is_signed}: {events:?}");
        pair.assert_flows(peer(1));
    }
}

#[test]
fn an_unsigned_error_never_destroys_anything() {
    for code in [400, 403, 437, 441, 442, 486, 500, 508, 300] {
        for method in [Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND] {
            let mut pair = Pair::standing(&[peer(1)]);
            let old = pair.relayed();
            pair.server.faults.refusals.insert(method, (code, false));
            pair.run(secs(250));
            pair.allocation.handle_doubt(pair.now);
            pair.run(secs(30));
            pair.server.faults.refusals.clear();
            pair.run(secs(40));
            let events = pair.told();
            let is_harm =
                |event: &Event| matches!(event, Event::Failed(_) | Event::Moved(_) | Event::Refused(..));
            assert!(!events.iter().any(is_harm), "{method:?} {code}: {events:?}");
            assert_eq!(pair.relayed(), old);
            assert_eq!(pair.server.counters().allocated, 1);
            pair.assert_flows(peer(1));
        }
    }
}

#[test]
fn what_a_server_says_to_allocate_is_kept_for_the_report() {
    for code in [403, 437, 440, 441, 442, 443, 486, 500, 508] {
        for is_signed in [true, false] {
            let mut pair = Pair::with(refusing(Method::ALLOCATE, code, is_signed), Carrier::Udp, |_| {});
            pair.run(secs(2));
            let events = pair.told();
            assert!(matches!(&events[..], [event] if refused(code)(event)), "{code}: {events:?}");
            assert_eq!(pair.wait(), None);
        }
    }
    let mut pair = Pair::with(server_config(), Carrier::Udp, |config| config.families = Families::V6);
    pair.run(secs(2));
    assert!(refused(440)(&pair.told()[0]), "the real 440, of a server without IPv6");
    let mut config = server_config();
    config.relayer.quota.per_user = 0;
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.run(secs(2));
    assert!(refused(486)(&pair.told()[0]));
}

#[test]
fn a_443_is_for_one_peer_only() {
    // IPv6 was asked for as well, and is not there.
    let mut pair = Pair::with(server_config(), Carrier::Udp, |config| config.families = Families::Both);
    pair.allocation.permit("2001:db8::9".parse().unwrap(), pair.now).unwrap();
    pair.allocation.bind(peer(1), pair.now).unwrap();
    pair.run(secs(5));
    let is_443 = |event: &Event| matches!(event, Event::Refused(_, why) if why.code() == Some(443));
    assert!(pair.told().iter().any(is_443));
    pair.assert_flows(peer(1));
}

#[test]
fn a_441_ends_it() {
    let mut pair = Pair::standing(&[peer(1)]);
    pair.server.faults.refusals.insert(Method::REFRESH, (441, true));
    pair.allocation.handle_doubt(pair.now);
    pair.run(secs(1));
    assert!(matches!(&pair.told()[..], [event] if refused(441)(event)));
}

#[test]
fn a_server_that_sends_us_elsewhere_is_told_of() {
    let mut config = server_config();
    let to = "203.0.113.99:3478".parse().unwrap();
    config.faults.alternate = Some(to);
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.run(secs(1));
    assert_eq!(pair.told(), [Event::Failed(Failure::Redirected { to, domain: None })]);
}

#[test]
fn lost_replies_are_asked_for_again() {
    let mut config = server_config();
    for method in [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND] {
        config.faults.lost.insert(method, 2);
    }
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.allocation.bind(peer(1), pair.now).unwrap();
    pair.run(secs(15));
    pair.assert_flows(peer(1));
    pair.run(secs(3_600));
    pair.assert_flows(peer(1));
    assert_eq!(pair.server.counters().allocated, 1, "a repetition is the same request");
}

#[test]
fn a_server_that_is_gone_is_noticed_and_the_end_is_told() {
    let mut pair = Pair::standing(&[peer(1)]);
    pair.is_cut = true;
    pair.allocation.handle_doubt(pair.now);
    pair.run(secs(10));
    assert_eq!(pair.told(), [Event::Trouble(Failure::Fault(Fault::Silent))]);
    pair.run(secs(620));
    assert_eq!(pair.told(), [Event::Failed(Failure::Fault(Fault::Silent))]);
    assert_eq!(pair.wait(), None);
}

#[test]
fn nobody_doubts_and_keep_alives_find_out() {
    let mut pair = Pair::standing(&[peer(1)]);
    pair.run(secs(30));
    pair.is_cut = true;
    pair.run(secs(100));
    assert_eq!(pair.told(), [Event::Trouble(Failure::Fault(Fault::Silent))]);
    // The cable is back before the server has forgotten.
    pair.is_cut = false;
    pair.run(secs(60));
    assert_eq!(pair.told().last(), Some(&Event::Recovered));
    pair.assert_flows(peer(1));
    assert_eq!(pair.server.counters().allocated, 1);
}

#[test]
fn a_nat_that_gives_another_address_costs_a_new_allocation() {
    let mut pair = Pair::standing(&[peer(1)]);
    pair.tuple.client = "198.51.100.7:41111".parse().unwrap();
    pair.run(secs(25));
    assert!(matches!(pair.told()[0], Event::Moved(_)));
    pair.assert_flows(peer(1));
}

#[test]
fn a_realm_that_changes() {
    // Somebody claims a new realm without truth, and nothing happens.
    let mut pair = Pair::standing(&[peer(1)]);
    pair.server.config_mut().realm = "else.example".into();
    pair.allocation.handle_doubt(pair.now);
    pair.server.restart(pair.now);
    pair.run(secs(2));
    let events = pair.told();
    let [Event::Trouble(Failure::RealmChanged { to, .. }), Event::Moved(_), ..] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(to.as_str(), "else.example");
    pair.assert_flows(peer(1));
}

#[test]
fn a_server_that_asks_for_less_than_before_is_not_obeyed() {
    let mut config = server_config();
    config.relayer.algorithms = vec![2, 1];
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.run(secs(2));
    // The first request was too small for a challenge with algorithms; the next is not.
    pair.server.renew_nonces(pair.now);
    pair.allocation.handle_doubt(pair.now);
    pair.run(secs(1));
    pair.told();
    pair.server.config_mut().algorithms.clear();
    pair.server.renew_nonces(pair.now);
    pair.run(secs(5));
    pair.allocation.handle_doubt(pair.now);
    pair.run(secs(1));
    assert_eq!(pair.told()[0], Event::Trouble(Failure::SteppedDown));
}

#[test]
fn absurd_addresses_are_not_believed() {
    for lie in ["127.0.0.1:5000", "224.0.0.1:5000", "203.0.113.5:0", "0.0.0.0:5000", "169.254.1.1:5000"]
        .into_iter()
        .chain(["203.0.113.1:3478", "198.51.100.7:40000"])
    {
        let mut config = server_config();
        config.faults.lie = Some(lie.parse().unwrap());
        let mut pair = Pair::with(config, Carrier::Udp, |_| {});
        pair.run(secs(2));
        let events = pair.told();
        assert!(matches!(events[..], [Event::Failed(Failure::Absurd { .. })]), "{lie}: {events:?}");
    }
    let mut config = server_config();
    config.faults.lie = Some("[2001:db8::1]:5000".parse().unwrap());
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.run(secs(2));
    assert!(matches!(pair.told()[..], [Event::Failed(Failure::Missing(_))]), "the wrong family");
}

#[test]
fn strangers_and_garbage_are_counted_and_dropped() {
    let mut pair = Pair::standing(&[peer(1)]);
    let indication = |from, data: &'static [u8]| {
        Message::new(Class::Indication, Method::DATA, TransactionId::new(&mut Seed::from_u64(9)))
            .with(Attribute::XorPeerAddress(from))
            .with(Attribute::Data(Bytes::from_static(data)))
            .encode_with(Transport::Udp, Ending::default())
            .unwrap()
    };
    let mut empty = indication(peer(1), b"");
    empty.truncate(32);
    empty[3] = 12;
    for bytes in [
        indication(peer(9), b"not permitted"),
        b"\x40\x09\0\x04data".to_vec(),
        b"\x40\0\0\x09short".to_vec(),
        b"\x40".to_vec(),
        b"\x7f\xff\0\0".to_vec(),
        b"GET /".to_vec(),
        b"\0".to_vec(),
        empty,
        Message::binding(&mut Seed::from_u64(3)).encode(Transport::Udp).unwrap(),
    ] {
        pair.allocation.handle_data(bytes.into(), pair.now);
    }
    let answer = Message::new(Class::Success, Method::REFRESH, TransactionId::new(&mut Seed::from_u64(4)));
    pair.allocation.handle_data(answer.encode(Transport::Udp).unwrap().into(), pair.now);
    pair.drain();
    assert_eq!(pair.told(), []);
    let Counters { garbage, foreign, strangers, .. } = pair.allocation.counters();
    assert_eq!((garbage, foreign, strangers), (7, 1, 2));
    pair.assert_flows(peer(1));
}

#[test]
fn a_stream_that_breaks_or_turns_to_garbage_ends_it() {
    let standing = || {
        let mut pair = Pair::with(server_config(), Carrier::Tls, |_| {});
        pair.run(secs(1));
        pair.told();
        pair
    };
    let mut pair = standing();
    pair.allocation.handle_closed(Some(io::ErrorKind::ConnectionReset), pair.now);
    pair.drain();
    assert_eq!(pair.told(), [Event::Failed(Failure::Closed(Some(io::ErrorKind::ConnectionReset)))]);
    let mut pair = standing();
    pair.allocation.handle_data(Bytes::from_static(b"HTTP/1.1 400 Bad Request"), pair.now);
    pair.drain();
    assert!(matches!(pair.told()[..], [Event::Failed(Failure::Garbage(_))]));
}

#[test]
fn icmp_ends_an_attempt_and_only_casts_doubt_on_what_stands() {
    let mut pair = Pair::new();
    pair.drain();
    pair.allocation.handle_closed(Some(io::ErrorKind::ConnectionRefused), pair.now);
    pair.drain();
    let unreachable = Failure::Fault(Fault::Unreachable(io::ErrorKind::ConnectionRefused));
    assert_eq!(pair.told(), [Event::Failed(unreachable)]);
    let mut pair = Pair::standing(&[peer(1)]);
    pair.run(secs(2));
    let before = pair.server.counters().requests;
    pair.allocation.handle_closed(Some(io::ErrorKind::ConnectionRefused), pair.now);
    pair.run(secs(1));
    // These are the allocation, the permission and the channel.
    assert_eq!((pair.told(), pair.server.counters().requests), (vec![], before + 3));
}

/// The success that a server would send, as somebody says it who has read the request and has no key.
fn forged_success(request: &[u8]) -> Bytes {
    let header = crate::stun::wire::Header::decode(request).unwrap();
    let success = Message::new(crate::stun::Class::Success, header.method, header.transaction)
        .with(Attribute::XorRelayedAddress("198.51.100.66:50000".parse().unwrap()))
        .with(Attribute::XorMappedAddress(client()))
        .with(Attribute::Lifetime(600));
    success.encode(Transport::Udp).unwrap().into()
}

#[test]
fn a_success_that_nobody_signed_is_none_before_the_first_login() {
    let mut pair = Pair::new();
    pair.drain();
    let forged = forged_success(&pair.up.front().unwrap().1);
    pair.allocation.handle_data(forged, pair.now);
    pair.run(secs(2));
    let events = pair.told();
    let [Event::Allocated(lease)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(lease.relayed[0].0.ip(), server().ip(), "the server's word");
    assert_eq!(pair.allocation.counters().requests.forged, 1);
}

#[test]
fn a_success_that_nobody_signed_is_none_after_a_437_that_nobody_signed() {
    let mut pair = Pair::standing(&[peer(1)]);
    let old = pair.relayed();
    pair.server.faults.refusals.insert(Method::REFRESH, (437, false));
    pair.allocation.handle_doubt(pair.now);
    // The doubted refusal is believed after a while, and another allocation asked for, from the beginning.
    let asked = loop {
        pair.run(DELAY);
        let is_allocate = |request: &Bytes| {
            crate::stun::wire::Header::decode(request).is_ok_and(|header| header.method == Method::ALLOCATE)
        };
        if let Some((_, request)) = pair.up.iter().find(|(_, request)| is_allocate(request)) {
            break request.clone();
        }
    };
    pair.allocation.handle_data(forged_success(&asked), pair.now);
    pair.server.faults.refusals.clear();
    pair.run(secs(40));
    let events = pair.told();
    assert!(!events.iter().any(|event| matches!(event, Event::Moved(_) | Event::Failed(_))), "{events:?}");
    assert_eq!(pair.relayed(), old);
    pair.assert_flows(peer(1));
}

#[test]
fn a_server_that_never_asks_who_we_are_is_told_as_such() {
    let mut pair = Pair::new();
    pair.drain();
    let forged = forged_success(&pair.up.front().unwrap().1);
    pair.is_cut = true;
    pair.up.clear();
    pair.allocation.handle_data(forged, pair.now);
    pair.run(secs(60));
    assert_eq!(pair.told(), [Event::Failed(Failure::Fault(Fault::Unsigned))]);
}

#[test]
fn names_that_act_on_a_terminal_are_harmless_or_none() {
    let mut config = server_config();
    config.faults.software = Some("\x1b[2J\nserver".into());
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.run(secs(2));
    let software = pair.allocation.lease().unwrap().software.clone().unwrap();
    assert_eq!(software.as_str(), "\u{fffd}[2J\u{fffd}server");

    for (domain, expected) in [("\x1b[2J\n", None), ("turn.example", Some("turn.example"))] {
        let mut pair = Pair::new();
        pair.drain();
        let request = pair.up.pop_front().unwrap().1;
        let header = crate::stun::wire::Header::decode(&request).unwrap();
        let refusal = Message::new(crate::stun::Class::Error, header.method, header.transaction)
            .with(Attribute::ErrorCode { code: 300, reason: "elsewhere".into() })
            .with(Attribute::AlternateServer("203.0.113.2:3478".parse().unwrap()))
            .with(Attribute::AlternateDomain(domain.into()));
        pair.allocation.handle_data(refusal.encode(Transport::Udp).unwrap().into(), pair.now);
        pair.run(secs(2));
        let events = pair.told();
        let [Event::Failed(Failure::Redirected { domain, .. })] = &events[..] else { panic!("{events:?}") };
        assert_eq!(domain.as_deref(), expected);
    }
}

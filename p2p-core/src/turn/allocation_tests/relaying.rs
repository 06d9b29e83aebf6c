//! Stories in which all goes well.

use super::*;
use crate::Mapped;

#[test]
fn an_address_a_permission_a_channel_and_data_both_ways() {
    let mut pair = Pair::new();
    pair.allocation.bind(peer(1), pair.now).unwrap();
    pair.run(secs(1));
    let events: Vec<_> = pair.events.iter().map(|(at, event)| ((*at - epoch()).as_millis(), event)).collect();
    let [(80, Event::Allocated(lease)), (120, Event::Permitted(ip)), (120, Event::Bound(bound))] =
        &events[..]
    else {
        panic!("two round trips to an address, one more to a peer: {events:?}");
    };
    assert_eq!((*ip, *bound), (peer(1).ip(), peer(1)));
    assert_eq!(lease.mapped, Some(Mapped(client())));
    assert_eq!(lease.lifetime, secs(600));
    pair.assert_flows(peer(1));
}

#[test]
fn until_the_channel_stands_data_goes_by_indications() {
    let mut config = server_config();
    config.faults.lost.insert(Method::CHANNEL_BIND, 1);
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.allocation.bind(peer(1), pair.now).unwrap();
    pair.run(Duration::from_millis(200));
    assert!(!pair.told().contains(&Event::Bound(peer(1))));
    assert_eq!(pair.allocation.header(peer(1), 5, pair.now), None);
    pair.allocation.send(peer(1), Bytes::from_static(b"early"), pair.now).unwrap();
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.relayed, [(peer(1), Bytes::from_static(b"early"))]);
    pair.run(secs(1));
    assert!(pair.told().contains(&Event::Bound(peer(1))), "asked again");
    assert_eq!(pair.allocation.header(peer(1), 5, pair.now), Some([0x40, 0, 0, 5]));
    pair.assert_flows(peer(1));
}

#[test]
fn over_a_stream_channel_data_is_filled_up_to_four() {
    let mut pair = Pair::with(server_config(), Carrier::Tcp, |_| {});
    pair.allocation.bind(peer(1), pair.now).unwrap();
    pair.run(secs(1));
    pair.told();
    for size in 0..9 {
        pair.allocation.send(peer(1), Bytes::from(vec![size; size.into()]), pair.now).unwrap();
        let Output::Act(packet) = pair.allocation.poll_output() else { panic!("no packet") };
        assert_eq!(packet.len(), 4 + usize::from(size).next_multiple_of(4));
        pair.up.push_back((pair.now, packet.into_bytes()));
    }
    pair.run(secs(1));
    let sizes: Vec<_> = pair.relayed.iter().map(|(_, data)| data.len()).collect();
    assert_eq!(sizes, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    pair.assert_flows(peer(1));
}

#[test]
fn payload_is_not_copied() {
    let mut pair = Pair::standing(&[peer(1)]);
    let data = Bytes::from(vec![7; 1_200]);
    pair.allocation.send(peer(1), data.clone(), pair.now).unwrap();
    let Output::Act(packet) = pair.allocation.poll_output() else { panic!("no packet") };
    assert_eq!(packet.parts()[1].as_ptr(), data.as_ptr());
    let datagram = packet.into_bytes();
    assert_eq!(pair.allocation.peek(&datagram), Some((peer(1), &data[..])));
    pair.allocation.handle_data(datagram.clone(), pair.now);
    let Output::Event(Event::Data { data, .. }) = pair.allocation.poll_output() else { panic!("no data") };
    assert_eq!(data.as_ptr(), datagram[4..].as_ptr());
}

#[test]
fn a_day_idle_with_nonces_of_a_minute_and_never_deaf() {
    let mut config = server_config();
    config.relayer.nonce_lifetime = secs(60);
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.allocation.bind(peer(1), pair.now).unwrap();
    pair.allocation.permit(peer(2).ip(), pair.now).unwrap();
    pair.run(secs(1));
    assert_eq!(pair.told().len(), 4);
    let relayed = pair.relayed();
    // Every minute of the day both peers get through, the last time as the first.
    for minute in 0..24 * 60 {
        pair.run(secs(60) - DELAY * 2);
        pair.peer_sends(peer(1), b"by channel");
        pair.peer_sends(peer(2), b"by indication");
        pair.run(DELAY * 2);
        assert_eq!(pair.told().len(), 2, "minute {minute}");
    }
    pair.assert_flows(peer(1));
    pair.assert_flows(peer(2));
    assert_eq!(pair.relayed(), relayed, "the same allocation all day");
    let counters = pair.server.counters();
    assert_eq!((counters.allocated, counters.unpermitted), (1, 0));
    assert!(counters.stale > 500, "{counters:?}");
    assert!(counters.requests < 3_000, "a request every half minute at most: {counters:?}");
}

#[test]
fn permissions_are_renewed_together() {
    let peers: Vec<_> = (1..=10).map(peer).collect();
    let mut pair = Pair::new();
    for peer in &peers {
        pair.allocation.permit(peer.ip(), pair.now).unwrap();
        pair.run(secs(2));
    }
    let before = pair.server.counters().requests;
    pair.run(secs(240));
    let requests = pair.server.counters().requests - before;
    assert_eq!(requests, 1, "one CreatePermission for ten, and no refresh due");
    pair.run(secs(3_600));
    for peer in peers {
        pair.assert_flows(peer);
    }
}

#[test]
fn both_families_or_only_one_of_them() {
    let both = |relays: &[&str]| {
        let mut config = server_config();
        config.relayer.relays = relays.iter().map(|ip| ip.parse().unwrap()).collect();
        let mut pair = Pair::with(config, Carrier::Udp, |config| config.families = Families::Both);
        pair.run(secs(1));
        pair.allocation.lease().cloned().unwrap()
    };
    let lease = both(&["203.0.113.1", "2001:db8::1"]);
    assert_eq!(lease.relayed.len(), 2);
    assert_eq!(lease.missing, None);
    let lease = both(&["203.0.113.1"]);
    assert_eq!(lease.relayed.len(), 1);
    assert_eq!(lease.missing, Some((Family::V6, 440)));
}

#[test]
fn a_number_rests_before_another_peer_gets_it() {
    let mut pair = Pair::standing(&[peer(1)]);
    let header = |pair: &Pair, peer| pair.allocation.header(peer, 0, pair.now).unwrap();
    let first = header(&pair, peer(1));
    pair.allocation.forget(peer(1).ip(), pair.now);
    pair.allocation.bind(peer(2), pair.now).unwrap();
    pair.run(secs(1));
    assert_ne!(header(&pair, peer(2)), first);
    pair.allocation.bind(peer(1), pair.now).unwrap();
    pair.run(secs(1));
    assert_eq!(header(&pair, peer(1)), first, "its own it may have again");
}

#[test]
fn newer_credentials_and_both_algorithms() {
    for (algorithms, is_anonymous) in
        [(vec![], true), (vec![1], false), (vec![2, 1], true), (vec![77, 2], false)]
    {
        let mut config = server_config();
        config.relayer.algorithms.clone_from(&algorithms);
        config.relayer.takes_user_hash = is_anonymous;
        config.relayer.nonce_lifetime = secs(60);
        let mut pair = Pair::with(config, Carrier::Udp, |_| {});
        pair.allocation.bind(peer(1), pair.now).unwrap();
        pair.run(secs(900));
        pair.assert_flows(peer(1));
        assert_eq!(pair.server.counters().allocated, 1, "{algorithms:?}");
    }
}

#[test]
fn closed_it_is_given_back_whatever_the_nonce() {
    let mut config = server_config();
    config.relayer.nonce_lifetime = secs(1);
    let mut pair = Pair::with(config, Carrier::Udp, |_| {});
    pair.run(secs(5));
    assert_eq!(pair.server.allocations(), 1);
    pair.told();
    pair.allocation.close(pair.now);
    pair.run(secs(1));
    assert_eq!(pair.told(), [Event::Closed]);
    assert_eq!((pair.server.allocations(), pair.wait()), (0, None));
}

#[test]
fn closed_while_the_answer_is_under_way_it_is_given_back_too() {
    let mut pair = Pair::new();
    pair.run(Duration::from_millis(65));
    assert_eq!(pair.server.allocations(), 1, "the server has acted, we have not heard of it");
    pair.allocation.close(pair.now);
    pair.run(secs(1));
    assert_eq!(pair.told(), [Event::Closed]);
    assert_eq!(pair.server.allocations(), 0);
    let mut early = Pair::new();
    early.run(Duration::from_millis(10));
    early.allocation.close(early.now);
    early.run(secs(5));
    assert_eq!((early.told(), early.server.allocations()), (vec![Event::Closed], 0));
}

#[test]
fn what_cannot_be_asked_for() {
    let mut pair = Pair::standing(&[peer(1)]);
    let now = pair.now;
    let bind = |pair: &mut Pair, peer: &str| pair.allocation.bind(peer.parse().unwrap(), now);
    assert_eq!(bind(&mut pair, "224.0.0.1:5"), Err(Misuse::Nowhere));
    assert_eq!(bind(&mut pair, "192.0.2.9:0"), Err(Misuse::Nowhere));
    assert_eq!(bind(&mut pair, "[2001:db8::1]:5"), Err(Misuse::Family(Family::V6)));
    assert_eq!(pair.allocation.connect(peer(1), now), Err(Misuse::Transport));
    assert_eq!(pair.allocation.send(peer(9), Bytes::new(), now), Err(Misuse::NotPermitted));
    let huge = Bytes::from(vec![0; 70_000]);
    assert_eq!(pair.allocation.send(peer(1), huge, now), Err(Misuse::TooLarge(70_000)));
    for number in 2..=MOST_PEERS as u8 {
        pair.allocation.bind(peer(number), now).unwrap();
    }
    assert_eq!(pair.allocation.bind(peer(99), now), Err(Misuse::TooManyPeers));
    pair.allocation.close(now);
    assert_eq!(pair.allocation.bind(peer(1), now), Err(Misuse::NoAllocation));
    let config = AllocationConfig { relaying: Relaying::Tcp, ..pair.allocation.config().clone() };
    assert_eq!(Allocation::new(config, Seed::from_u64(1), now).err(), Some(Misuse::Transport));
}

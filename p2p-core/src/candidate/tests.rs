//! Which addresses are dialled, in which order.

use super::*;
use crate::nat::Nat;
use crate::peer::{Contents, Identity, MachineTag};
use crate::{Seed, UnixTime};

pub(crate) fn interface(local: &str, external: Option<&str>) -> InterfaceAddr {
    InterfaceAddr {
        nic: 0,
        local: local.parse().unwrap(),
        prefix: 24,
        external: external.map(|ip| ip.parse().unwrap()),
        listen: 4_000,
        mapped: external.map(|_| 5_000),
        nat: Nat::default(),
    }
}

pub(crate) fn peer_at(issued: u64, interfaces: Vec<InterfaceAddr>, machine: Option<&[u8]>) -> PeerAddr {
    let identity = Identity::generate(&mut Seed::from_u64(2));
    let contents = Contents {
        brokers: vec!["mqtt://broker.example".parse().unwrap()],
        machine: machine.map(|id| MachineTag::new(id, &identity.id(), &mut Seed::from_u64(5))),
        interfaces,
        issued: UnixTime::from_secs(issued),
    };
    PeerAddr::sign(&identity, contents).unwrap()
}

fn peer(interfaces: Vec<InterfaceAddr>) -> PeerAddr {
    peer_at(1_000, interfaces, None)
}

pub(crate) fn ours(addresses: &[(&str, u8)]) -> HostView {
    let address = |(ip, prefix): &(&str, u8)| OurAddress {
        ip: ip.parse().unwrap(),
        prefix: *prefix,
        scope: 3,
        external: Some("198.51.100.1".parse().unwrap()),
    };
    HostView { addresses: addresses.iter().map(address).collect(), machine_id: b"this machine".to_vec() }
}

fn targets(candidates: &[Candidate]) -> Vec<String> {
    candidates.iter().map(ToString::to_string).collect()
}

#[test]
fn neighbours_are_dialled_before_the_internet() {
    let peer = peer(vec![interface("203.0.113.7", None), interface("192.168.1.9", Some("198.51.100.1"))]);
    let found = candidates(&ours(&[("192.168.1.5", 24)]), &peer, &Filter::default(), Trust::Stranger);
    assert_eq!(
        targets(&found),
        ["192.168.1.9:4000 (local)", "203.0.113.7:4000 (external)", "198.51.100.1:5000 (external)"]
    );
}

#[test]
fn a_stranger_cannot_send_us_to_our_neighbours() {
    let scan = peer(vec![
        interface("10.9.9.1", None),
        interface("127.0.0.1", None),
        interface("169.254.169.254", None),
        interface("224.0.0.1", None),
        interface("0.0.0.0", None),
        interface("172.16.0.1", Some("10.0.0.1")),
    ]);
    let place = ours(&[("192.168.1.5", 24), ("169.254.7.7", 16)]);
    assert_eq!(targets(&candidates(&place, &scan, &Filter::default(), Trust::Stranger)), [""; 0]);
    // Our own user may try what the peer publishes, but never this machine's loopback.
    let wish = targets(&candidates(&place, &scan, &Filter::default(), Trust::Known));
    assert!(wish.contains(&"10.9.9.1:4000 (local)".to_owned()), "{wish:?}");
    assert!(!wish.iter().any(|target| target.starts_with("127.") || target.starts_with("224.")), "{wish:?}");
}

#[test]
fn loopback_is_for_this_machine_only() {
    let lo = vec![interface("127.0.0.1", None)];
    let here = peer_at(1, lo.clone(), Some(b"this machine"));
    let there = peer_at(1, lo, Some(b"that machine"));
    let place = ours(&[("127.0.0.1", 8)]);
    assert_eq!(
        targets(&candidates(&place, &here, &Filter::default(), Trust::Stranger)),
        ["127.0.0.1:4000 (machine)"]
    );
    assert_eq!(targets(&candidates(&place, &there, &Filter::default(), Trust::Known)), [""; 0]);
}

#[test]
fn link_local_targets_carry_our_scope_and_our_address() {
    let peer = peer(vec![interface("fe80::9", None)]);
    let found = candidates(&ours(&[("fe80::5", 64)]), &peer, &Filter::default(), Trust::Known);
    let [Candidate { target: SocketAddr::V6(target), from: Some(Local(from)), path: Path::Local }] =
        found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!((target.scope_id(), from.ip()), (3, "fe80::5".parse::<IpAddr>().unwrap()));
}

#[test]
fn the_filter_is_kept() {
    let peer = peer(vec![
        interface("203.0.113.7", None),
        interface("2001:db8::7", None),
        interface("192.168.1.9", None),
    ]);
    let place = ours(&[("192.168.1.5", 24)]);
    let only = |families: &[crate::Family], paths: &[Path]| {
        let filter =
            Filter { families: families.iter().copied().collect(), paths: paths.iter().copied().collect() };
        targets(&candidates(&place, &peer, &filter, Trust::Known))
    };
    assert_eq!(only(&[crate::Family::V6], &Path::ALL), ["[2001:db8::7]:4000 (external)"]);
    assert_eq!(only(&[crate::Family::V4], &[Path::Local]), ["192.168.1.9:4000 (local)"]);
}

use std::time::Instant;

use super::*;
use crate::UnixTime;
use crate::peer::{Contents, Identity};
use crate::sim::epoch;
use crate::sim::laws::drain;

fn nic() -> Nic {
    Nic {
        name: "eth0".into(),
        index: 2,
        addresses: vec![NicAddress { ip: "10.0.0.2".parse().unwrap(), prefix: 24, scope: 0 }],
        is_loopback: false,
        is_up: true,
        gateways: Vec::new(),
    }
}

fn node() -> Node {
    let mut seed = Seed::from_u64(1);
    let config = NodeConfig::new(Identity::generate(&mut seed));
    let clock = Clock::new(epoch(), UnixTime::from_secs(1_700_000_000));
    Node::new(config, &[nic()], clock, seed, epoch()).unwrap()
}

fn begins(acts: &[Act], wanted: Owner) -> bool {
    acts.iter().any(|act| matches!(act, Act::Begin(owner) if *owner == wanted))
}

/// Lets somebody come to the listener of the first interface.
fn let_in(node: &mut Node, now: Instant) -> ConnectionId {
    let at: SocketAddr = "10.0.0.2:4711".parse().unwrap();
    let asked = SocketAddr::new(at.ip(), 0);
    let owner = Owner::Nic(NicId(0));
    node.handle_socket(owner, SocketEvent::Listening { at: asked, outcome: Ok(at) }, now);
    let (connection, remote) = (ConnectionId(1), "10.0.0.9:5".parse().unwrap());
    node.handle_socket(owner, SocketEvent::Accepted { connection, at, remote }, now);
    connection
}

#[test]
fn an_interface_whose_owner_is_gone_is_begun_again_if_it_is_still_there() {
    let mut node = node();
    let owner = Owner::Nic(NicId(0));
    assert!(begins(&drain(&mut node).acts, owner));
    node.handle_owner_gone(owner, epoch());
    let acts = drain(&mut node).acts;
    assert!(acts.iter().any(|act| matches!(act, Act::ReadNics)), "{acts:?}");
    assert!(!node.status().listening || node.status().networks.is_empty());
    node.handle_nics(&[nic()], epoch());
    assert!(begins(&drain(&mut node).acts, owner));
}

#[test]
fn an_attempt_whose_owner_is_gone_fails() {
    let mut node = node();
    let peer = Identity::generate(&mut Seed::from_u64(2));
    let contents = Contents { brokers: vec![], machine: None, interfaces: vec![], issued: UnixTime(1) };
    let peer = PeerAddr::sign(&peer, contents).unwrap();
    let options = ConnectOptions { ways: vec![Way::Relay], ..ConnectOptions::default() };
    let attempt = node.connect(peer, options, epoch()).unwrap();
    let before = drain(&mut node).events;
    node.handle_owner_gone(Owner::Attempt(attempt), epoch());
    let events = before.into_iter().chain(drain(&mut node).events);
    let failed = |event: &Event| matches!(event, Event::Failed { attempt: failed, .. } if *failed == attempt);
    assert_eq!(events.filter(failed).count(), 1);
}

#[test]
fn whoever_came_to_an_interface_that_is_gone_is_lost_with_it() {
    let mut node = node();
    let connection = let_in(&mut node, epoch());
    let reads = |act: &Act| matches!(act, Act::Socket(_, SocketAct::Read { connection: read, .. }) if *read == connection);
    assert!(drain(&mut node).acts.iter().any(reads));
    node.handle_nics(&[], epoch());
    assert_eq!((node.counters().arrived, node.counters().lost), (1, 1));
}

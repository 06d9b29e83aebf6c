use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::*;
use crate::sim::epoch;
use crate::sim::laws::drain;

const SERVER: &str = "192.0.2.1:3478";

fn nic(addresses: &[&str]) -> Nic {
    let address = |ip: &&str| NicAddress { ip: ip.parse().unwrap(), prefix: 24, scope: 0 };
    Nic {
        name: "eth0".into(),
        index: 2,
        addresses: addresses.iter().map(address).collect(),
        is_loopback: false,
        is_up: true,
        gateways: Vec::new(),
    }
}

fn config(stun: &[&str]) -> InterfaceConfig {
    let server = |host: &&str| StunServer { host: (*host).to_owned(), port: 3478 };
    InterfaceConfig {
        families: [Family::V4, Family::V6].into(),
        listen_port: 0,
        last_port: 0,
        stun: stun.iter().map(server).collect(),
        refresh: REFRESH,
        can_see_hops: false,
    }
}

fn interface(addresses: &[&str], stun: &[&str]) -> Interface {
    Interface::new(config(stun), nic(addresses), Seed::from_u64(1), epoch())
}

/// Returns the addresses that are to be listened on, save throw-away ones.
fn listens(acts: &[InterfaceAct]) -> Vec<SocketAddr> {
    let listen = |act: &InterfaceAct| match act {
        InterfaceAct::Socket(SocketAct::Listen { at, is_throwaway: false }) => Some(*at),
        _ => None,
    };
    acts.iter().filter_map(listen).collect()
}

fn stand(interface: &mut Interface, at: SocketAddr, port: u16, now: Instant) {
    let outcome = Ok(SocketAddr::new(at.ip(), port));
    interface.handle_socket(SocketEvent::Listening { at, outcome }, now);
}

fn refuse(interface: &mut Interface, at: SocketAddr, kind: ErrorKind, now: Instant) {
    let outcome = Err(ListenError { kind, reason: "no".into(), is_exhausted: false });
    interface.handle_socket(SocketEvent::Listening { at, outcome }, now);
}

#[test]
fn all_addresses_listen_on_the_port_that_the_first_was_given() {
    let mut interface = interface(&["10.0.0.2", "10.0.0.3"], &[]);
    let first = listens(&drain(&mut interface).acts);
    assert_eq!(first, ["10.0.0.2:0".parse().unwrap()]);
    stand(&mut interface, first[0], 4_711, epoch());
    let second = listens(&drain(&mut interface).acts);
    assert_eq!(second, ["10.0.0.3:4711".parse().unwrap()]);
    assert!(!interface.is_ready());
    stand(&mut interface, second[0], 4_711, epoch());
    assert!(interface.is_ready());
    assert_eq!(interface.views().iter().map(|view| view.listen).collect::<Vec<_>>(), [4_711, 4_711]);
}

#[test]
fn a_port_that_one_address_cannot_have_is_given_up_for_all() {
    let mut interface = interface(&["10.0.0.2", "10.0.0.3"], &[]);
    let first = listens(&drain(&mut interface).acts);
    stand(&mut interface, first[0], 4_711, epoch());
    let second = listens(&drain(&mut interface).acts);
    refuse(&mut interface, second[0], ErrorKind::AddrInUse, epoch());
    let acts = drain(&mut interface).acts;
    let unlisten = SocketAct::Unlisten { at: "10.0.0.2:4711".parse().unwrap() };
    assert!(acts.contains(&InterfaceAct::Socket(unlisten)), "{acts:?}");
    assert_eq!(listens(&acts), ["10.0.0.2:0".parse().unwrap()], "another is looked for");
}

#[test]
fn an_address_that_cannot_be_listened_on_is_told_and_the_others_go_on() {
    let mut interface = interface(&["10.0.0.2", "10.0.0.3"], &[]);
    let first = listens(&drain(&mut interface).acts);
    refuse(&mut interface, first[0], ErrorKind::AddrNotAvailable, epoch());
    let drained = drain(&mut interface);
    assert!(matches!(drained.events[..], [InterfaceEvent::Refused(at, _)] if at == first[0]));
    let second = listens(&drained.acts);
    assert_eq!(second, ["10.0.0.3:0".parse().unwrap()]);
    stand(&mut interface, second[0], 4_711, epoch());
    assert!(interface.is_ready() && interface.views().len() == 1);
}

#[test]
fn a_name_that_resolves_late_is_asked_within_seconds() {
    let mut interface = interface(&["10.0.0.2"], &["stun.example"]);
    let first = listens(&drain(&mut interface).acts);
    stand(&mut interface, first[0], 4_711, epoch());
    let server = StunServer { host: "stun.example".into(), port: 3478 };
    let resolve = InterfaceAct::Resolve(server.clone());
    assert!(drain(&mut interface).acts.contains(&resolve));
    let (start, mut now) = (epoch(), epoch());
    // The resolver comes up after a second.
    let asked = loop {
        interface.handle_resolved(server.clone(), Err("no such name".into()), now);
        now = drain(&mut interface).wait.expect("it goes on").at;
        assert!(now < start + Duration::from_secs(60), "the name is not looked up again");
        interface.handle_timeout(now);
        let is_asked = drain(&mut interface).acts.contains(&resolve);
        if is_asked && now > start + Duration::from_secs(1) {
            break now;
        }
    };
    assert!(asked < start + Duration::from_secs(5), "{:?}", asked - start);
    interface.handle_resolved(server, Ok(vec![SERVER.parse().unwrap()]), now);
    let is_link = |act: &InterfaceAct| matches!(act, InterfaceAct::Socket(SocketAct::OpenLink { .. }));
    let acts = drain(&mut interface).acts;
    assert!(acts.iter().any(is_link), "{acts:?}");
}

#[test]
fn an_interface_that_comes_back_takes_its_port_again_if_it_is_free() {
    let back = || {
        let config = InterfaceConfig { last_port: 4_711, ..config(&[]) };
        Interface::new(config, nic(&["10.0.0.2", "10.0.0.3"]), Seed::from_u64(1), epoch())
    };
    let mut interface = back();
    let asked = listens(&drain(&mut interface).acts);
    assert_eq!(asked, ["10.0.0.2:4711".parse().unwrap(), "10.0.0.3:4711".parse().unwrap()]);
    let mut interface = back();
    let asked = listens(&drain(&mut interface).acts);
    stand(&mut interface, asked[0], 4_711, epoch());
    refuse(&mut interface, asked[1], ErrorKind::AddrInUse, epoch());
    assert_eq!(listens(&drain(&mut interface).acts), ["10.0.0.2:0".parse().unwrap()], "another for all");
}

#[test]
fn an_address_without_a_descriptor_is_listened_on_again_at_the_same_port() {
    let mut interface = interface(&["10.0.0.2"], &[]);
    let first = listens(&drain(&mut interface).acts);
    stand(&mut interface, first[0], 4_711, epoch());
    interface.handle_nic(nic(&["10.0.0.3"]), epoch());
    let second = listens(&drain(&mut interface).acts);
    let mut now = epoch();
    for _ in 0..3 {
        let error = ListenError { kind: ErrorKind::Other, reason: "none left".into(), is_exhausted: true };
        interface.handle_socket(SocketEvent::Listening { at: second[0], outcome: Err(error) }, now);
        let drained = drain(&mut interface);
        assert!(drained.events.iter().all(|event| !matches!(event, InterfaceEvent::Refused(..))));
        assert!(listens(&drained.acts).is_empty(), "not at once");
        let failed = now;
        let again = loop {
            now = drain(&mut interface).wait.expect("it tries again").at;
            interface.handle_timeout(now);
            let again = listens(&drain(&mut interface).acts);
            if !again.is_empty() {
                break again;
            }
        };
        assert_eq!((again, now - failed), (second.clone(), LISTEN_AGAIN));
    }
    stand(&mut interface, second[0], 4_711, now);
    assert_eq!(interface.views().iter().map(|view| view.listen).collect::<Vec<_>>(), [4_711]);
}

#[test]
fn families_that_are_not_wanted_are_left_alone() {
    let config = InterfaceConfig { families: BTreeSet::from([Family::V6]), ..config(&[]) };
    let mut interface = Interface::new(config, nic(&["10.0.0.2", "2001:db8::2"]), Seed::from_u64(1), epoch());
    assert_eq!(listens(&drain(&mut interface).acts), ["[2001:db8::2]:0".parse().unwrap()]);
}

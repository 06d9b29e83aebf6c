use super::*;
use crate::sim::epoch;
use crate::sim::laws::{Subject, drain};
use crate::sim::turn::{Deed, Desk, Tuple, TurnServerConfig};
use crate::stun::Transport;
use crate::turn::allocation::{AllocationConfig, Event as Told};
use crate::turn::{Allocation, Carrier, Credentials, Relaying};

const SERVER: &str = "203.0.113.1:3478";

fn tuple(port: u16) -> Tuple {
    Tuple { client: std::net::SocketAddr::from(([198, 51, 100, 7], port)), transport: Transport::Tcp }
}

fn peer() -> std::net::SocketAddr {
    "192.0.2.9:5000".parse().unwrap()
}

/// Returns all bytes that the desk has for this client now.
fn told(desk: &mut Desk, client: Tuple) -> Vec<u8> {
    let mut said = Vec::new();
    while let Some(deed) = desk.poll() {
        match deed {
            Deed::Tell(tuple, bytes) if tuple == client => said.extend(bytes),
            Deed::Dial { connection, .. } => desk.handle_dialled(connection, true, epoch()),
            _ => {}
        }
    }
    said
}

/// Returns an allocation for connections that lets the peer through, and its server.
fn standing() -> (Allocation, Desk) {
    let credentials = Credentials::new("user", "secret").unwrap();
    let server = SERVER.parse().unwrap();
    let mut config = AllocationConfig::new(server, Carrier::Tcp, credentials);
    config.relaying = Relaying::Tcp;
    let mut desk = Desk::new(TurnServerConfig::new(server, "user", "secret"), Seed::from_u64(1));
    let mut allocation = Allocation::new(config, Seed::from_u64(2), epoch()).unwrap();
    allocation.permit(peer().ip(), epoch()).unwrap();
    turn(&mut allocation, &mut desk);
    assert!(allocation.lease().is_some());
    (allocation, desk)
}

/// Lets both talk until neither has anything to send.
fn turn(allocation: &mut Allocation, desk: &mut Desk) -> Vec<Told> {
    let mut events = Vec::new();
    loop {
        let drained = drain(allocation);
        events.extend(drained.events);
        for packet in drained.acts {
            desk.handle_client(tuple(1), &packet.into_bytes(), epoch());
        }
        let said = told(desk, tuple(1));
        if said.is_empty() {
            return events;
        }
        allocation.handle_data(said.into(), epoch());
    }
}

/// Runs one round: what the machine sends, and what the server answers.
fn round(machine: &mut DataConnection, desk: &mut Desk) -> Vec<u8> {
    for packet in drain(machine).acts {
        desk.handle_client(tuple(2), &packet.into_bytes(), epoch());
    }
    told(desk, tuple(2))
}

#[test]
fn a_peer_dials_and_what_it_says_at_once_is_handed_over_untouched() {
    let (mut allocation, mut desk) = standing();
    let relayed = allocation.lease().unwrap().relayed[0].0;
    desk.handle_dialled_by(relayed, peer(), epoch()).expect("the peer is permitted");
    let stranger = "192.0.2.66:5".parse().unwrap();
    assert_eq!(desk.handle_dialled_by(relayed, stranger, epoch()), None);
    let events = turn(&mut allocation, &mut desk);
    let [Told::Attempt { peer: who, connection }] = events[..] else { panic!("{events:?}") };
    assert_eq!(who, peer());
    let mut machine = allocation.data_connection(connection, epoch());
    let mut said = round(&mut machine, &mut desk);
    // These are bytes that look like STUN, like ChannelData, and like nothing.
    let early = b"\0\x01\0\0\x21\x12\xa4\x42 \x40\x01\0\x04data \xff";
    said.extend(early);
    for byte in said {
        let piece = Bytes::copy_from_slice(&[byte]);
        machine.handle_data(piece, epoch());
        if let Output::Event(event) = machine.poll_output() {
            assert_eq!(event, Event::Bound { early: Bytes::new() });
            break;
        }
    }
    let (mut allocation, mut desk) = standing();
    let relayed = allocation.lease().unwrap().relayed[0].0;
    desk.handle_dialled_by(relayed, peer(), epoch());
    let events = turn(&mut allocation, &mut desk);
    let [Told::Attempt { connection, .. }] = events[..] else { panic!("{events:?}") };
    let mut machine = allocation.data_connection(connection, epoch());
    let mut said = round(&mut machine, &mut desk);
    said.extend(early);
    machine.handle_data(said.into(), epoch());
    let drained = drain(&mut machine);
    assert_eq!(drained.events, [Event::Bound { early: Bytes::from_static(early) }]);
    assert_eq!(drained.wait, None);
}

#[test]
fn we_dial_and_a_stale_nonce_is_no_matter() {
    let (mut allocation, mut desk) = standing();
    allocation.connect(peer(), epoch()).unwrap();
    let events = turn(&mut allocation, &mut desk);
    let [Told::Connected { peer: who, connection }] = events[..] else { panic!("{events:?}") };
    assert_eq!(who, peer());
    let mut machine = allocation.data_connection(connection, epoch());
    // All nonces end now.
    desk.config.nonce_life = std::time::Duration::ZERO;
    let said = round(&mut machine, &mut desk);
    desk.config.nonce_life = std::time::Duration::from_secs(60);
    machine.handle_data(said.into(), epoch());
    let said = round(&mut machine, &mut desk);
    machine.handle_data(said.into(), epoch());
    assert_eq!(drain(&mut machine).events, [Event::Bound { early: Bytes::new() }]);
}

#[test]
fn what_the_server_says_no_to() {
    let (mut allocation, mut desk) = standing();
    let mut machine = allocation.data_connection(ConnectionId(77), epoch());
    let said = round(&mut machine, &mut desk);
    machine.handle_data(said.into(), epoch());
    let drained = drain(&mut machine);
    assert!(matches!(&drained.events[..], [Event::Failed(why)] if why.code() == Some(400)), "{drained:?}");
    assert_eq!(drained.wait, None);

    desk.config.forbidden = vec![peer().ip()];
    allocation.connect(peer(), epoch()).unwrap();
    let events = turn(&mut allocation, &mut desk);
    assert!(matches!(&events[..], [Told::NotConnected { failure, .. }] if failure.code() == Some(403)));

    let mut machine = allocation.data_connection(ConnectionId(1), epoch());
    drain(&mut machine);
    machine.handle_data(Bytes::from_static(b"HTTP/1.1 400"), epoch());
    let drained = drain(&mut machine);
    assert!(matches!(drained.events[..], [Event::Failed(Failure::Garbage(_))]));
    let mut machine = allocation.data_connection(ConnectionId(1), epoch());
    machine.handle_closed(None, epoch());
    assert_eq!(drain(&mut machine).events, [Event::Failed(Failure::Closed(None))]);
}

struct Binding;

impl Subject for Binding {
    type Machine = DataConnection;

    fn new(mut seed: Seed, now: Instant) -> DataConnection {
        let (mut allocation, _) = standing();
        allocation.data_connection(ConnectionId(seed.number() as u32), now)
    }

    fn disturb(machine: &mut DataConnection, dice: &mut Seed, now: Instant) {
        match dice.below(40) {
            0 => machine.handle_closed(None, now),
            1 => machine.handle_data(Bytes::from_static(b"HTTP"), now),
            _ => {
                let mut answer = vec![1, 0x1b - (dice.below(2) as u8) * 0x10, 0, 0, 0x21, 0x12, 0xa4, 0x42];
                answer.extend(dice.array::<12>());
                machine.handle_data(answer.into(), now);
            }
        }
    }

    fn close(machine: &mut DataConnection, now: Instant) {
        machine.close(now);
    }
}

crate::machine_laws!(binding: Binding);

use super::*;
use crate::sim::epoch;
use crate::sim::laws::drain;
use crate::sim::turn::{FaultyServer, FaultyServerConfig};
use crate::stun::Transport;
use crate::turn::allocation::{AllocationConfig, Event as Told};
use crate::turn::server::{Act, FiveTuple};
use crate::turn::{Allocation, Carrier, Credentials, Relaying};

const SERVER: &str = "203.0.113.1:3478";

fn tuple(port: u16) -> FiveTuple {
    let client = std::net::SocketAddr::from(([198, 51, 100, 7], port));
    FiveTuple { client, server: SERVER.parse().unwrap(), transport: Transport::Tcp }
}

fn peer() -> std::net::SocketAddr {
    "192.0.2.9:5000".parse().unwrap()
}

/// Returns all bytes that the server has for this client now.
fn told(server: &mut FaultyServer, client: FiveTuple) -> Vec<u8> {
    let mut said = Vec::new();
    loop {
        match server.poll_output() {
            Output::Act(Act::Send { client: tuple, bytes }) if tuple == client => said.extend(bytes),
            Output::Act(Act::Dial { connection, .. }) => server.handle_dialled(connection, true, epoch()),
            Output::Act(_) | Output::Event(_) => {}
            Output::Wait(_) => return said,
        }
    }
}

/// Returns an allocation for connections that lets the peer through, and its server.
fn standing() -> (Allocation, FaultyServer) {
    let credentials = Credentials::new("user", "secret").unwrap();
    let server = SERVER.parse().unwrap();
    let mut config = AllocationConfig::new(server, Carrier::Tcp, credentials);
    config.relaying = Relaying::Tcp;
    let config_of_server = FaultyServerConfig::new(server, "user", "secret");
    let mut server = FaultyServer::new(config_of_server, Seed::from_u64(1), epoch());
    let mut allocation = Allocation::new(config, Seed::from_u64(2), epoch()).unwrap();
    allocation.permit(peer().ip(), epoch()).unwrap();
    turn(&mut allocation, &mut server);
    assert!(allocation.lease().is_some());
    (allocation, server)
}

/// Lets both talk until neither has anything to send.
fn turn(allocation: &mut Allocation, server: &mut FaultyServer) -> Vec<Told> {
    let mut events = Vec::new();
    loop {
        let drained = drain(allocation);
        events.extend(drained.events);
        for packet in drained.acts {
            server.handle_client(tuple(1), &packet.into_bytes(), epoch());
        }
        let said = told(server, tuple(1));
        if said.is_empty() {
            return events;
        }
        allocation.handle_data(said.into(), epoch());
    }
}

/// Runs one round: what the machine sends, and what the server answers.
fn round(machine: &mut DataConnection, server: &mut FaultyServer) -> Vec<u8> {
    for packet in drain(machine).acts {
        server.handle_client(tuple(2), &packet.into_bytes(), epoch());
    }
    told(server, tuple(2))
}

#[test]
fn a_peer_dials_and_what_it_says_at_once_is_handed_over_untouched() {
    let (mut allocation, mut server) = standing();
    let relayed = allocation.lease().unwrap().relayed[0].0;
    server.handle_accepted(relayed, peer(), epoch()).expect("the peer is permitted");
    let stranger = "192.0.2.66:5".parse().unwrap();
    assert_eq!(server.handle_accepted(relayed, stranger, epoch()), None);
    let events = turn(&mut allocation, &mut server);
    let [Told::Attempt { peer: who, connection }] = events[..] else { panic!("{events:?}") };
    assert_eq!(who, peer());
    let mut machine = allocation.data_connection(connection, epoch());
    let mut said = round(&mut machine, &mut server);
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
    let (mut allocation, mut server) = standing();
    let relayed = allocation.lease().unwrap().relayed[0].0;
    server.handle_accepted(relayed, peer(), epoch());
    let events = turn(&mut allocation, &mut server);
    let [Told::Attempt { connection, .. }] = events[..] else { panic!("{events:?}") };
    let mut machine = allocation.data_connection(connection, epoch());
    let mut said = round(&mut machine, &mut server);
    said.extend(early);
    machine.handle_data(said.into(), epoch());
    let drained = drain(&mut machine);
    assert_eq!(drained.events, [Event::Bound { early: Bytes::from_static(early) }]);
    assert_eq!(drained.wait, None);
}

#[test]
fn we_dial_and_a_stale_nonce_is_no_matter() {
    let (mut allocation, mut server) = standing();
    allocation.connect(peer(), epoch()).unwrap();
    let events = turn(&mut allocation, &mut server);
    let [Told::Connected { peer: who, connection }] = events[..] else { panic!("{events:?}") };
    assert_eq!(who, peer());
    let mut machine = allocation.data_connection(connection, epoch());
    // All nonces end now.
    server.renew_nonces(epoch());
    let said = round(&mut machine, &mut server);
    machine.handle_data(said.into(), epoch());
    let said = round(&mut machine, &mut server);
    machine.handle_data(said.into(), epoch());
    assert_eq!(drain(&mut machine).events, [Event::Bound { early: Bytes::new() }]);
}

#[test]
fn what_the_server_says_no_to() {
    let (mut allocation, mut server) = standing();
    let mut machine = allocation.data_connection(ConnectionId(77), epoch());
    // The nonce is good for connections of the allocation only.
    for _ in 0..2 {
        let said = round(&mut machine, &mut server);
        machine.handle_data(said.into(), epoch());
    }
    let drained = drain(&mut machine);
    assert!(matches!(&drained.events[..], [Event::Failed(why)] if why.code() == Some(400)), "{drained:?}");
    assert_eq!(drained.wait, None);

    server.config_mut().deny_peers = vec![peer().ip().to_string().parse().unwrap()];
    allocation.connect(peer(), epoch()).unwrap();
    let events = turn(&mut allocation, &mut server);
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

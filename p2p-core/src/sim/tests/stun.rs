//! The STUN server, asked from behind NATs.

use bytes::Bytes;

use super::*;
use crate::sim::stun::StunServer;
use crate::stun::frame::Framer;
use crate::stun::wire::Parsed;
use crate::stun::{Attribute, Message, Responder, Transport};

const SECOND: &str = "192.0.2.2";

/// A home behind `nat`, and a server with two addresses.
fn home_and_server(nat: NatConfig) -> (World, HostId, HostId) {
    let mut world = World::new(Seed::from_u64(1));
    let internet = world.internet();
    let router = world.add_router(RouterConfig::new("nat").with_v4(nat), internet, ms(20)).unwrap();
    let (host, server) = (world.add_host("host"), world.add_host("server"));
    world.attach(host, router, &[ip(A)], ms(0)).unwrap();
    world.attach(server, internet, &[ip(SERVER), ip(SECOND)], ms(5)).unwrap();
    let responder = Responder::new(at(SERVER, 3_478)).with_alternate(at(SECOND, 3_479));
    let program = world.with(server, |context| StunServer::bind(context.host, responder)).unwrap();
    world.run(server, program);
    (world, host, server)
}

fn decode(bytes: &[u8], transport: Transport) -> Message {
    Parsed::decode(bytes, transport).unwrap().message
}

/// Asks over UDP; the answer and where it came from.
fn ask(world: &mut World, host: HostId, request: Message, to: SocketAddr) -> Option<(SocketAddr, Message)> {
    let request = request.encode(Transport::Udp).unwrap();
    let socket = world.with(host, |context| {
        let socket = context.host.udp_bind(at(A, 5_000)).unwrap();
        context.host.udp_send(socket, to, Bytes::from(request)).unwrap();
        socket
    });
    world.run_for(ms(200));
    world.with(host, |context| {
        context.host.udp_close(socket);
        match context.host.poll_event() {
            Some(HostEvent::Datagram { from, payload, .. }) => Some((from, decode(&payload, Transport::Udp))),
            _ => None,
        }
    })
}

#[test]
fn it_says_how_we_look_over_udp_and_changes_its_address_when_asked() {
    for (filter, other) in [
        (crate::nat::Filtering::EndpointIndependent, true),
        (crate::nat::Filtering::AddressAndPortDependent, false),
    ] {
        let nat = home(NAT_A).with_flow(|flow| flow.filtering = filter);
        let (mut world, host, server) = home_and_server(nat);
        let mut seed = Seed::from_u64(2);
        let plain = Message::binding(&mut seed);
        let (from, answer) = ask(&mut world, host, plain, at(SERVER, 3_478)).unwrap();
        assert_eq!(from, at(SERVER, 3_478));
        assert_eq!(answer.mapped(), Some(at(NAT_A, 5_000)));
        assert_eq!(answer.other_address(), Some(at(SECOND, 3_479)));
        let change = Message::binding(&mut seed).with(Attribute::ChangeRequest { ip: true, port: true });
        let answer = ask(&mut world, host, change, at(SERVER, 3_478));
        assert_eq!(answer.map(|(from, _)| from), other.then(|| at(SECOND, 3_479)));
        assert_eq!(world.program::<StunServer>(server).unwrap().answered(), 2);
    }
}

#[test]
fn it_answers_over_tcp_and_resets_who_speaks_something_else() {
    let (mut world, host, server) = home_and_server(NatConfig::linux_fully_random(ip(NAT_A)));
    let mut talk = |bytes: Vec<u8>, port: u16| {
        let socket = world.with(host, |context| {
            let now = context.now;
            let remote = at(SERVER, 3_478);
            context.host.tcp_dial(Some(at(A, port)), TcpOptions::shared(), remote, now).unwrap()
        });
        world.run_for(ms(200));
        world.with(host, |context| context.host.tcp_mut().send(socket, &bytes, context.now)).unwrap();
        world.run_for(ms(200));
        world.with(host, |context| context.host.tcp_mut().read(socket).ok())
    };
    let mut ask = |port| {
        let request = Message::binding(&mut Seed::from_u64(3)).encode(Transport::Tcp).unwrap();
        let bytes = talk(request, port).unwrap();
        let message = Framer::default().feed(&mut &bytes[..]).unwrap().unwrap();
        decode(&message, Transport::Tcp).mapped().unwrap()
    };
    let (first, second) = (ask(5_000), ask(5_001));
    assert_eq!(first.ip(), ip(NAT_A));
    assert_ne!(first.port(), 5_000);
    assert_ne!(first.port(), second.port());
    assert_eq!(talk(b"GET / HTTP/1.1\r\n\r\n".to_vec(), 5_002), None, "reset");
    let program = world.program::<StunServer>(server).unwrap();
    assert_eq!((program.answered(), program.ignored()), (2, 1));
}

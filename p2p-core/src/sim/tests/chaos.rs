//! Any segments and any calls: a host never panics, and comes to rest.

use proptest::prelude::*;

use super::*;
use crate::sim::host::Host;
use crate::sim::packet::{Body, Flags, Header, IcmpKind, Packet, TcpFacts};
use crate::sim::tcp::TcpTimers;

#[derive(Clone, Debug)]
enum Deed {
    Listen(u16),
    Dial(u16, u16),
    Send(usize, usize),
    Read(usize),
    Shut(usize),
    Close(usize),
    Abort(usize),
    Segment { from: u16, to: u16, flags: u8, seq: Number, ack: Number, len: usize },
    Icmp(u16, u16, Number),
    Wait(u64),
}

/// A sequence number: one that the host has just used itself, give or take, or any.
#[derive(Clone, Copy, Debug)]
enum Number {
    Near(i8),
    Any(u32),
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![3 => (-3..4_i8).prop_map(Number::Near), 1 => any::<u32>().prop_map(Number::Any)]
}

fn deed() -> impl Strategy<Value = Deed> {
    let port = || 1..4_u16;
    prop_oneof![
        1 => port().prop_map(Deed::Listen),
        2 => (port(), port()).prop_map(|(from, to)| Deed::Dial(from, to)),
        1 => (0..8_usize, 0..5_000_usize).prop_map(|(socket, len)| Deed::Send(socket, len)),
        1 => (0..8_usize).prop_map(Deed::Read),
        1 => (0..8_usize).prop_map(Deed::Shut),
        1 => (0..8_usize).prop_map(Deed::Close),
        1 => (0..8_usize).prop_map(Deed::Abort),
        10 => (port(), port(), 0..32_u8, number(), number(), 0..3_000_usize).prop_map(
            |(from, to, flags, seq, ack, len)| Deed::Segment { from, to, flags, seq, ack, len }
        ),
        1 => (port(), port(), number()).prop_map(|(from, to, seq)| Deed::Icmp(from, to, seq)),
        2 => (0..3_000_u64).prop_map(Deed::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_host_survives_everything(deeds in prop::collection::vec(deed(), 1..200)) {
        let mut host = Host::new("host", TcpTimers::default(), Seed::from_u64(1));
        host.add_interface(vec![ip(NAT_A)]);
        let mut now = epoch();
        // What the host said last: its next numbers are near it.
        let mut last = TcpFacts { flags: Flags(0), seq: 0, ack: 0, len: 0 };
        for deed in deeds {
            let nth = |host: &Host, index: usize| host.tcp().sockets().nth(index);
            let resolve = |number, near: u32| match number {
                Number::Near(by) => near.wrapping_add_signed(i32::from(by)),
                Number::Any(any) => any,
            };
            match deed {
                Deed::Listen(port) => drop(host.tcp_listen(at(NAT_A, port), TcpOptions::shared())),
                Deed::Dial(from, to) => {
                    let local = Some(at(NAT_A, from));
                    let _ = host.tcp_dial(local, TcpOptions::shared(), at(NAT_B, to), now);
                }
                Deed::Send(index, len) => {
                    if let Some(socket) = nth(&host, index) {
                        let _ = host.tcp_mut().send(socket, &vec![7; len], now);
                    }
                }
                Deed::Read(index) => drop(nth(&host, index).map(|socket| host.tcp_mut().read(socket))),
                Deed::Shut(index) => drop(nth(&host, index).map(|socket| host.tcp_mut().shut(socket, now))),
                Deed::Close(index) => drop(nth(&host, index).map(|socket| host.tcp_mut().close(socket, now))),
                Deed::Abort(index) => drop(nth(&host, index).map(|socket| host.tcp_mut().abort(socket))),
                Deed::Segment { from, to, flags, seq, ack, len } => {
                    let facts = TcpFacts {
                        flags: Flags(flags),
                        seq: resolve(seq, last.ack),
                        ack: resolve(ack, last.seq.wrapping_add(1)),
                        len: len as u16,
                    };
                    let header = Header::tcp(at(NAT_B, from), at(NAT_A, to), facts.flags, facts.seq, facts.ack);
                    let header = Header { body: Body::Tcp(facts), ..header };
                    host.handle_packet(&Packet { header, payload: vec![1; len].into() }, now);
                }
                Deed::Icmp(from, to, seq) => {
                    let seq = resolve(seq, last.seq);
                    let quoted = Header::tcp(at(NAT_A, from), at(NAT_B, to), Flags::SYN, seq, 0);
                    let error = quoted.icmp_error(ip(SERVER), IcmpKind::HostUnreachable).unwrap();
                    host.handle_packet(&error.into(), now);
                }
                Deed::Wait(millis) => now += ms(millis),
            }
            while host.next_timeout().is_some_and(|at| at <= now) {
                host.handle_timeout(now);
            }
            while let Some(packet) = host.poll_packet() {
                prop_assert_eq!(usize::from(packet.header.payload_len()), packet.payload.len());
                if let Body::Tcp(tcp) = packet.header.body {
                    last = tcp;
                }
            }
            while host.poll_event().is_some() {}
        }
        // Nobody answers any more: all timers run out, all closed sockets go.
        let sockets: Vec<_> = host.tcp().sockets().collect();
        for socket in sockets {
            host.tcp_mut().close(socket, now);
        }
        for _ in 0..2_000 {
            let Some(at) = host.next_timeout() else { break };
            now = now.max(at);
            host.handle_timeout(now);
        }
        prop_assert_eq!(host.next_timeout(), None);
        prop_assert_eq!(host.tcp().socket_count(), 0);
    }
}

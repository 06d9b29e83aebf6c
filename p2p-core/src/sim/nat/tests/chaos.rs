//! Any NAT and any packets: no panic, no two owners of one external end, nothing beyond the bounds.

use proptest::prelude::*;

use super::*;
use crate::nat::{Delta, DeltaKind, NatType};

fn any_config() -> impl Strategy<Value = NatConfig> {
    let shape = (0..7_usize, 0..5_usize, -5..5_i16, 2_000..2_064_u16, any::<bool>());
    let knobs = (0..3_u8, 0..5_u8, 0..3_u8, any::<[bool; 8]>(), proptest::option::of(1..40_u16));
    (shape, knobs).prop_map(
        |((nat, kind, value, last, linux), (hairpin, unsolicited, ending, bits, block))| {
            let range = PortRange { first: 2_000, last };
            let delta = Delta { kind: DeltaKind::ALL[kind], value };
            let mut config = match linux {
                true => NatConfig::linux_masquerade(ip(EXTERNAL)).with_flow(|flow| flow.range = range),
                false => NatConfig::of_type(NatType::ALL[nat], delta, range, ip(EXTERNAL)),
            };
            config.hairpin =
                [Hairpin::None, Hairpin::InternalSource, Hairpin::ExternalSource][usize::from(hairpin)];
            let after = secs(6);
            config.tcp.unsolicited = match unsolicited {
                0 => Unsolicited::Silence,
                1 => Unsolicited::Reset,
                2 => Unsolicited::Icmp(IcmpKind::Prohibited),
                3 => Unsolicited::IcmpAfter { kind: IcmpKind::PortUnreachable, after },
                _ => Unsolicited::ResetAfter { after },
            };
            config.tcp.on_rst = [Ending::Keep, Ending::Close, Ending::Delete][usize::from(ending)];
            config.tcp.on_fin = [Ending::Delete, Ending::Keep, Ending::Close][usize::from(ending)];
            config.tcp.simultaneous_open = bits[0];
            config.tcp.icmp_deletes = bits[1];
            config.tcp.strict = bits[2];
            config.tcp.leak_invalid = bits[3];
            config.tcp.loose = bits[4];
            config.most_new_per_second = bits[5].then_some(20);
            config.udp.unsolicited = bits[6].then_some(IcmpKind::PortUnreachable);
            config.most_mappings = 50;
            config.block = block;
            config.with_flow(|flow| {
                flow.parity = bits[7];
                flow.background = if bits[0] { 100.0 } else { 0.0 };
            })
        },
    )
}

/// Returns a packet between two of a few ends, so that packets meet.
fn any_header() -> impl Strategy<Value = Header> {
    let end = (0..8_u8, 0..70_u16);
    (end.clone(), end, 0..6_u8, 0..32_u8, 0..3_u32).prop_map(|(src, dst, kind, flags, seq)| {
        let address = |(who, port): (u8, u16)| {
            let host = match who {
                0 => ip(EXTERNAL),
                1..=3 => ip(&format!("192.168.1.{who}")),
                _ => ip(&format!("192.0.2.{who}")),
            };
            SocketAddr::new(host, 2_000 + port)
        };
        let (src, dst) = (address(src), address(dst));
        let tcp = Header::tcp(src, dst, Flags(flags), seq, 1);
        match kind {
            0 => Header::udp(src, dst, 3),
            1 => Header { body: Body::Echo { reply: flags % 2 == 1, seq: 1, len: 0 }, ..tcp },
            2 => tcp.icmp_error(dst.ip(), IcmpKind::HostUnreachable).unwrap(),
            _ => tcp,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_breaks_a_nat(
        config in any_config(),
        packets in prop::collection::vec((any_header(), any::<bool>(), 0..3_000_u64), 1..300),
    ) {
        let overload = config.tcp.flow.overload;
        let Ok(mut nat) = Nat::new(config.clone(), Seed::from_u64(1)) else { return Ok(()) };
        let mut now = epoch();
        for (mut header, out, pause) in packets {
            now += Duration::from_millis(pause);
            let before = header;
            let verdict = if out { nat.outbound(&mut header, now) } else { nat.inbound(&mut header, now) };
            while nat.poll_answer(now).is_some() {}
            match verdict {
                Verdict::Forward if out && config.is_translating() => {
                    prop_assert_eq!(header.src.ip(), ip(EXTERNAL));
                    prop_assert_eq!(header.dst, before.dst);
                }
                Verdict::Forward if !out => prop_assert_eq!(header.src, before.src),
                Verdict::Hairpin => prop_assert!(out),
                Verdict::Leak(_) => prop_assert_eq!(header, before),
                _ => (),
            }
            prop_assert!(nat.mappings().count() <= 50);
        }
        let mut ends: Vec<_> = nat.mappings().map(|view| (view.protocol, view.external)).collect();
        let all = ends.len();
        ends.sort();
        ends.dedup();
        prop_assert!(overload || ends.len() == all, "{:?}", nat.mappings().collect::<Vec<_>>());
        for view in nat.mappings().filter(|_| config.is_translating()) {
            prop_assert!(config.flow(view.protocol).range.contains(view.external.port()));
        }
        nat.reboot();
        prop_assert_eq!((nat.mappings().count(), nat.next_answer()), (0, None));
    }
}

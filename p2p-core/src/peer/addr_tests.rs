use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::nat::{Delta, DeltaKind, Filtering, Mapping, Nat, NatFacts, NatType, PortRange, SynAnswer};
use crate::{Seed, UnixTime};

/// Returns the identity of a number.
fn identity(number: u64) -> Identity {
    Identity::generate(&mut Seed::from_u64(number))
}

/// Returns an interface behind a home router.
fn interface() -> InterfaceAddr {
    let facts = NatFacts {
        nat: Some(NatType::PortRestricted),
        delta: Some(Delta { kind: DeltaKind::Equal, value: 0 }),
        mapping: Some(Mapping::EndpointIndependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        syn: Some(SynAnswer::Silence),
        hairpin: Some(true),
        ..NatFacts::default()
    };
    InterfaceAddr {
        nic: 0,
        local: "192.168.178.23".parse().unwrap(),
        prefix: 24,
        external: Some("203.0.113.9".parse().unwrap()),
        listen: 40_123,
        mapped: Some(40_123),
        nat: Nat { tcp: facts, udp: facts },
    }
}

/// Returns the contents that a node at home publishes: two brokers, IPv4 behind a router, IPv6 without one.
fn contents() -> Contents {
    Contents {
        brokers: vec![
            "mqtts://broker.example.org".parse().unwrap(),
            "mqtt://[2001:db8::5]:1884?v=5".parse().unwrap(),
        ],
        machine: Some(MachineTag::new(b"machine", &identity(1).id(), &mut Seed::from_u64(5))),
        interfaces: vec![
            interface(),
            InterfaceAddr {
                local: "2001:db8:1:2:aaaa:bbbb:cccc:dddd".parse().unwrap(),
                prefix: 64,
                external: None,
                mapped: None,
                nat: Nat::default(),
                ..interface()
            },
        ],
        issued: UnixTime::from_secs(1_800_000_000),
    }
}

fn addr() -> PeerAddr {
    PeerAddr::sign(&identity(1), contents()).unwrap()
}

/// Returns the bytes of an address whose contents are `packed` and whose signature is right.
fn forge(packed: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(u16::try_from(96 + packed.len()).unwrap().to_be_bytes());
    bytes.extend(identity(1).id().as_bytes());
    bytes.extend(packed);
    let signature = identity(1).sign(&[b"p2p peer address\0", &*bytes].concat());
    bytes.extend(signature);
    bytes
}

#[test]
fn it_says_what_was_signed() {
    let addr = addr();
    assert_eq!(addr.id(), identity(1).id());
    assert_eq!(addr.contents(), &contents());
    assert_eq!(addr.interfaces().len(), 2);
    assert_eq!(addr.brokers().len(), 2);
    assert!(addr.is_on(b"machine") && !addr.is_on(b"another"));
    assert_eq!(PeerAddr::from_bytes(&addr.to_bytes()), Ok(addr.clone()));
    let packed = postcard::to_stdvec(&addr).unwrap();
    assert_eq!(postcard::from_bytes::<PeerAddr>(&packed), Ok(addr));
}

#[test]
fn a_realistic_one_is_a_few_hundred_characters() {
    let addr = addr();
    assert!(addr.to_bytes().len() <= 280, "{} bytes", addr.to_bytes().len());
    assert!(addr.to_string().len() <= 460, "{} characters", addr.to_string().len());
    assert!(addr.to_string().bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
}

#[test]
fn later_statements_of_the_same_peer_are_newer() {
    let later = Contents { issued: UnixTime::from_secs(1_800_000_001), ..contents() };
    let newer = PeerAddr::sign(&identity(1), later.clone()).unwrap();
    assert!(newer.is_newer_than(&addr()));
    assert!(!addr().is_newer_than(&newer));
    assert!(!addr().is_newer_than(&addr()));
    assert!(!PeerAddr::sign(&identity(2), later).unwrap().is_newer_than(&addr()));
}

#[test]
fn copied_with_wrapping_indent_and_capitals_it_is_the_same() {
    let text = addr().to_string();
    let wrapped: Vec<&str> =
        (0..text.len()).step_by(60).map(|at| &text[at..text.len().min(at + 60)]).collect();
    assert_eq!(format!("\n  {}\r\n", wrapped.join("\r\n\t ")).parse(), Ok(addr()));
    assert_eq!(text.to_uppercase().parse(), Ok(addr()));
    assert_eq!(format!("\u{a0}{text}\u{2003}").parse(), Ok(addr()));
}

#[test]
fn the_wrong_text_is_named() {
    let error = |text: &str| text.parse::<PeerAddr>().unwrap_err().to_string();
    assert!(error(&identity(1).id().to_string()).contains("this is a peer id"));
    assert!(error(&identity(1).to_text()).contains("this is a secret key"));
    assert!(error("mqtt://host").contains("starts with `p2p1`"));
    assert!(error("").contains("starts with `p2p1`"));
    assert!(error("p2p1").contains("the end is missing"));
    assert!(error("p2p1-").contains("character 5, '-'"));
    assert!(error(&format!("{}\u{200b}", addr())).contains("\\u{200b}"));
    assert!(error(&"p2p1aaaa".repeat(2_000)).contains("16000 bytes are too many"));
}

#[test]
fn bounds_hold_when_signing_and_when_reading() {
    let sign = |contents| PeerAddr::sign(&identity(1), contents);
    let read = |contents: &Contents| PeerAddr::from_bytes(&forge(&postcard::to_stdvec(contents).unwrap()));
    let both = |contents: Contents| {
        let error = read(&contents).unwrap_err();
        assert_eq!(sign(contents).unwrap_err(), error);
        error
    };
    let broker = |number: usize| format!("mqtt://b{number}").parse().unwrap();
    let many = Contents { brokers: (0..9).map(broker).collect(), ..contents() };
    assert_eq!(both(many), AddrError::TooManyBrokers { count: 9 });
    let many = Contents { interfaces: vec![interface(); 17], ..contents() };
    assert_eq!(both(many), AddrError::TooManyInterfaces { count: 17 });
    let mut unsound = contents();
    unsound.interfaces[1].prefix = 129;
    assert!(matches!(both(unsound), AddrError::Interface { index: 1, .. }));
    let long = |number: usize| {
        let label = "x".repeat(60);
        format!("mqtt://{label}.{label}.{label}.{label}.b{number}").parse().unwrap()
    };
    let big = Contents { brokers: (0..8).map(long).collect(), ..contents() };
    assert!(matches!(both(big), AddrError::TooBig { .. }));
    let full =
        Contents { brokers: (0..8).map(broker).collect(), interfaces: vec![interface(); 16], ..contents() };
    assert_eq!(sign(full.clone()).unwrap().contents(), &full);
    assert_eq!(read(&full), sign(full));
}

#[test]
fn signed_nonsense_is_the_signers_fault() {
    let packed = postcard::to_stdvec(&contents()).unwrap();
    assert_eq!(PeerAddr::from_bytes(&forge(&packed)), Ok(addr()), "the forge works");
    let followed = [packed.as_slice(), &[0]].concat();
    let cut = &packed[..packed.len() - 1];
    // The number of brokers is zero, but the zero is written in two bytes.
    let padded = [0x80, 0x00, 0, 0, 0];
    for wrong in [&followed[..], cut, &padded, &[], &[0xff; 40]] {
        assert_eq!(PeerAddr::from_bytes(&forge(wrong)), Err(AddrError::Malformed));
    }
    assert!(PeerAddr::from_bytes(&forge(&[0, 0, 0, 0])).is_ok());
}

#[test]
fn other_versions_keys_and_sizes_are_told_apart() {
    let bytes = addr().to_bytes();
    let with = |at: usize, byte: u8| {
        let mut changed = bytes.to_vec();
        changed[at] = byte;
        PeerAddr::from_bytes(&changed).unwrap_err()
    };
    assert_eq!(with(0, 2), AddrError::Version { version: 2 });
    assert_eq!(PeerAddr::from_bytes(&[2]), Err(AddrError::Version { version: 2 }));
    assert!(matches!(with(1, 5), AddrError::Cut { .. }));
    assert!(matches!(with(1, 0), AddrError::Trailing { .. }));
    assert_eq!(with(bytes.len() - 1, 0xff), AddrError::Signature);
    assert_eq!(PeerAddr::from_bytes(&[0; 2_049]), Err(AddrError::TooBig { len: 2_049 }));
    assert!(matches!(PeerAddr::from_bytes(&[1, 0, 0]), Err(AddrError::Cut { needed: 99, .. })));
    let mut weak = forge(&[0, 0, 0, 0]);
    weak[3..35].fill(0);
    assert_eq!(PeerAddr::from_bytes(&weak), Err(AddrError::Key));
    let text = super::text::ADDRESS.write(&[7, 0, 1, 0]);
    assert_eq!(text.parse::<PeerAddr>(), Err(AddrError::Version { version: 7 }));
}

#[test]
fn a_signature_of_another_kind_is_none() {
    let mut bytes = addr().to_bytes().to_vec();
    let end = bytes.len() - 64;
    let signature = identity(1).sign(&bytes[..end]);
    bytes[end..].copy_from_slice(&signature);
    assert_eq!(PeerAddr::from_bytes(&bytes), Err(AddrError::Signature));
}

fn any_ip(is_v4: bool) -> BoxedStrategy<IpAddr> {
    if is_v4 {
        any::<Ipv4Addr>().prop_map(IpAddr::V4).boxed()
    } else {
        any::<Ipv6Addr>().prop_map(IpAddr::V6).prop_filter("canonical", |ip| *ip == ip.to_canonical()).boxed()
    }
}

prop_compose! {
    fn any_facts()(
        delta in proptest::option::of(any::<i16>()),
        hairpin: Option<bool>,
        ports: Option<(u16, u16)>,
        rate: Option<u16>,
        kinds in (0usize..8, 0usize..5),
    ) -> NatFacts {
        NatFacts {
            nat: NatType::ALL.get(kinds.0).copied(),
            delta: delta.map(|value| Delta { kind: DeltaKind::ALL[kinds.1], value }),
            hairpin,
            range: ports.and_then(|(first, last)| PortRange::new(first, last)),
            rate,
            ..NatFacts::default()
        }
    }
}

fn any_interface() -> impl Strategy<Value = InterfaceAddr> {
    let numbers = (any::<u8>(), 0u8..33, any::<u16>(), proptest::option::of(1u16..));
    let ips = any::<bool>().prop_flat_map(|is_v4| (any_ip(is_v4), proptest::option::of(any_ip(is_v4))));
    (numbers, ips, any_facts(), any_facts()).prop_map(
        |((nic, prefix, listen, mapped), (local, external), tcp, udp)| InterfaceAddr {
            nic,
            local,
            prefix,
            external,
            listen,
            mapped,
            nat: Nat { tcp, udp },
        },
    )
}

prop_compose! {
    fn any_contents()(
        brokers in prop::collection::vec("mqtts?://[a-z]{1,20}(:[1-9][0-9]{3})?(\\?v=[35])?", 0..=8),
        machine: Option<u64>,
        interfaces in prop::collection::vec(any_interface(), 0..=16),
        issued: u64,
    ) -> Contents {
        Contents {
            brokers: brokers.iter().map(|url| url.parse().unwrap()).collect(),
            machine: machine.map(|number| MachineTag::new(b"m", &identity(1).id(), &mut Seed::from_u64(number))),
            interfaces,
            issued: UnixTime(issued),
        }
    }
}

proptest! {
    #[test]
    fn bytes_and_text_come_back(number: u64, contents in any_contents()) {
        let addr = PeerAddr::sign(&identity(number), contents.clone()).unwrap();
        prop_assert_eq!(addr.contents(), &contents);
        prop_assert_eq!(&PeerAddr::from_bytes(&addr.to_bytes()).unwrap(), &addr);
        prop_assert_eq!(&addr.to_string().parse::<PeerAddr>().unwrap(), &addr);
        for interface in addr.interfaces() {
            prop_assert!(interface.local_target().is_none_or(|target| target.port() == interface.listen));
            prop_assert!(interface.external_target().is_none_or(|target| Some(target.ip()) == interface.external));
        }
    }

    #[test]
    fn a_flipped_bit_is_an_error_that_says_so(at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = addr().to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let error = PeerAddr::from_bytes(&bytes).unwrap_err();
        prop_assert!(match at {
            0 => matches!(error, AddrError::Version { .. }),
            1..3 => matches!(error, AddrError::Cut { .. } | AddrError::Trailing { .. }),
            3..35 => matches!(error, AddrError::Key | AddrError::Signature),
            _ => error == AddrError::Signature,
        }, "byte {}: {}", at, error);
    }

    #[test]
    fn a_cut_or_followed_one_says_so(at: prop::sample::Index, tail in prop::collection::vec(any::<u8>(), 1..9)) {
        let bytes = addr().to_bytes();
        let there = at.index(bytes.len());
        let needed = if there < 3 { 99 } else { bytes.len() };
        prop_assert_eq!(PeerAddr::from_bytes(&bytes[..there]), Err(AddrError::Cut { there, needed }));
        let followed = [&bytes[..], &tail].concat();
        prop_assert_eq!(PeerAddr::from_bytes(&followed), Err(AddrError::Trailing { extra: tail.len() }));
    }

    #[test]
    fn a_mistyped_or_cut_text_says_so(at: prop::sample::Index, by in 1u8..32) {
        let text = addr().to_string();
        let at = 4 + at.index(text.len() - 4);
        let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut typed = text.clone().into_bytes();
        let place = alphabet.iter().position(|symbol| *symbol == typed[at]).unwrap();
        typed[at] = alphabet[(place + usize::from(by)) % 32];
        let error = String::from_utf8(typed).unwrap().parse::<PeerAddr>().unwrap_err();
        // In the announced length a slip looks like a missing end.
        let is_told = error == AddrError::Text(TextError::Damaged)
            || (at < 9 && error == AddrError::Text(TextError::Cut));
        prop_assert!(is_told, "character {}: {}", at, error);
        prop_assert_eq!(text[..at].parse::<PeerAddr>(), Err(AddrError::Text(TextError::Cut)));
    }

    #[test]
    fn no_bytes_and_no_text_panic(bytes: Vec<u8>, text: String, packed: Vec<u8>) {
        let _ = PeerAddr::from_bytes(&bytes);
        let _ = text.parse::<PeerAddr>();
        let _ = postcard::from_bytes::<PeerAddr>(&bytes);
        if let Ok(addr) = PeerAddr::from_bytes(&forge(&packed)) {
            prop_assert_eq!(addr.to_bytes(), Bytes::from(forge(&packed)));
        }
    }
}

//! Signals as bytes and under seal.

use proptest::prelude::*;

use super::seal::seal_bytes;
use super::*;
use crate::attempt::{AttemptId, RefusalReason};
use crate::nat::forecast::PortForecast;
use crate::nat::{Filtering, Nat};
use crate::peer::{Contents, Identity, InterfaceAddr, PeerAddr};
use crate::punch::{self, Endpoint, Mode, Offer, Stamps, Step};
use crate::relay::RelayOffer;
use crate::transport::Token;
use crate::{Seed, UnixTime};

fn identity(number: u64) -> Identity {
    Identity::generate(&mut Seed::from_u64(number))
}

fn address(number: u64, brokers: usize, interfaces: usize) -> PeerAddr {
    let interface = |nic: usize| InterfaceAddr {
        nic: nic as u8,
        local: "192.168.1.7".parse().unwrap(),
        prefix: 24,
        external: Some("203.0.113.9".parse().unwrap()),
        listen: 40_000,
        mapped: Some(40_000),
        nat: Nat::default(),
    };
    let broker = |number: usize| format!("mqtts://{}{number}.example.org", "b".repeat(20)).parse().unwrap();
    let contents = Contents {
        brokers: (0..brokers).map(broker).collect(),
        machine: None,
        interfaces: (0..interfaces).map(interface).collect(),
        issued: UnixTime::from_secs(1_800_000_000),
    };
    PeerAddr::sign(&identity(number), contents).unwrap()
}

/// Returns a signal in which peer 1 says `body` to peer 2.
fn signal(body: Body) -> Signal {
    Signal {
        from: identity(1).id(),
        to: identity(2).id(),
        attempt: AttemptId([7; 16]),
        seq: 1_800_000_000_000_000,
        issued: UnixTime::from_secs(1_800_000_000),
        expires: UnixTime::from_secs(1_800_000_030),
        sender: address(1, 2, 2),
        body,
    }
}

fn punch_offer() -> punch::Message {
    let side = Endpoint {
        address: "203.0.113.9".parse().unwrap(),
        ports: PortForecast::Fixed(vec![40_000, 50_000]),
        filtering: Filtering::AddressDependent,
        syn: None,
        low_ttl: false,
        sockets: 96,
    };
    let offer = Offer { mode: Mode::Remote, at: "192.168.1.2".parse().unwrap(), side, error: Some(30_000) };
    punch::Message { pair: 0, round: 0, stamps: Stamps::default(), step: Step::Offer(offer) }
}

fn relay_offer() -> RelayOffer {
    RelayOffer {
        serial: 2,
        token: Token([5; 8]),
        datagrams: vec!["192.0.2.1:49160".parse().unwrap(), "[2001:db8::1]:49160".parse().unwrap()],
        connections: vec!["192.0.2.1:49170".parse().unwrap()],
        has_more: false,
        refusal: Some(RefusalReason::Busy),
    }
}

fn bodies() -> [Body; 7] {
    [
        Body::DialMe(DialMe { plain: true }),
        Body::Punch(punch_offer()),
        Body::Relay(relay_offer()),
        Body::AskAddr,
        Body::TellAddr,
        Body::Refuse(Refusal { reason: RefusalReason::Busy }),
        Body::Bye,
    ]
}

fn sealed(body: Body) -> Vec<u8> {
    let signal = signal(body);
    seal(&identity(1), &signal.to, &signal, &mut Seed::from_u64(3)).unwrap().to_vec()
}

/// Opens as peer 2 a plaintext that peer 1 sealed to it.
fn opened(plain: Vec<u8>) -> Result<Signal, OpenError> {
    let bytes = seal_bytes(&identity(1), &identity(2).id(), plain, &mut Seed::from_u64(3)).unwrap();
    open(&identity(2), &bytes)
}

#[test]
fn every_body_comes_back() {
    for body in bodies() {
        let said = signal(body.clone());
        assert_eq!(Signal::from_bytes(&said.to_bytes()), Ok(said.clone()));
        assert_eq!(open(&identity(2), &sealed(body)), Ok(said));
    }
}

#[test]
fn the_size_says_nothing_of_the_body() {
    assert!(bodies().into_iter().all(|body| sealed(body).len() == 512));
    let mut big = signal(Body::Bye);
    big.sender = address(1, 8, 16);
    let bytes = seal(&identity(1), &big.to, &big, &mut Seed::from_u64(3)).unwrap();
    assert_eq!(bytes.len(), 1_024);
    assert_eq!(open(&identity(2), &bytes), Ok(big));
}

#[test]
fn a_seed_makes_each_seal_different() {
    let said = signal(Body::Bye);
    let mut seed = Seed::from_u64(3);
    let mut seal = || seal(&identity(1), &said.to, &said, &mut seed).unwrap();
    let (one, two) = (seal(), seal());
    assert_ne!(one[1..33], two[1..33], "ephemeral keys");
    assert_eq!(open(&identity(2), &one), open(&identity(2), &two));
}

#[test]
fn only_the_receiver_can_open() {
    assert_eq!(open(&identity(3), &sealed(Body::Bye)), Err(OpenError::Broken));
    assert_eq!(open(&identity(1), &sealed(Body::Bye)), Err(OpenError::Broken));
}

#[test]
fn nobody_can_seal_for_another() {
    let said = signal(Body::Bye);
    let bytes = seal_bytes(&identity(9), &said.to, said.to_bytes(), &mut Seed::from_u64(3)).unwrap();
    assert_eq!(open(&identity(2), &bytes), Err(OpenError::Sender));
}

#[test]
fn nobody_can_pass_a_signal_on() {
    let mut for_three = signal(Body::Bye);
    for_three.to = identity(3).id();
    assert_eq!(opened(for_three.to_bytes()), Err(OpenError::Receiver));
}

#[test]
fn misuse_is_named() {
    let mut seed = Seed::from_u64(3);
    let said = signal(Body::Bye);
    let two = said.to;
    assert_eq!(seal(&identity(9), &two, &said, &mut seed), Err(SealError::NotOurs));
    assert_eq!(seal(&identity(1), &identity(3).id(), &said, &mut seed), Err(SealError::Receiver));
    let foreign = Signal { sender: address(9, 1, 1), ..said };
    assert_eq!(seal(&identity(1), &two, &foreign, &mut seed), Err(SealError::NotOurs));
    assert!(seal_bytes(&identity(1), &two, vec![0; 3_999], &mut seed).is_ok());
    let error = seal_bytes(&identity(1), &two, vec![0; 4_000], &mut seed).unwrap_err();
    assert_eq!(error.to_string(), "a signal of 4000 bytes is too big to be sealed: 3999 at most");
}

#[test]
fn each_kind_of_nonsense_is_told_apart() {
    let wire = signal(Body::Bye).to_bytes();
    let with = |at: usize, byte: u8| {
        let mut changed = wire.clone();
        changed[at] = byte;
        opened(changed).unwrap_err()
    };
    assert_eq!(with(0, b'P'), OpenError::Wire(WireError::Magic));
    assert_eq!(with(4, 2), OpenError::Wire(WireError::Version { version: 2 }));
    assert_eq!(with(5, 1), OpenError::Wire(WireError::Kind { kind: 263 }));
    assert_eq!(with(6, 1), OpenError::Wire(WireError::Malformed), "a DialMe needs a byte more");
    assert!(matches!(with(7, 0xff), OpenError::Wire(WireError::Cut { .. })));
    assert_eq!(with(wire.len() - 1, 0), OpenError::Wire(WireError::Malformed), "the address is damaged");
    assert_eq!(opened([&wire[..], &[0, 1]].concat()), Err(OpenError::Padding));
    assert!(opened(wire.clone()).is_ok());

    let followed = [&wire[..], &[0]].concat();
    assert_eq!(Signal::from_bytes(&followed), Err(WireError::Trailing { extra: 1 }));
    assert!(matches!(Signal::from_bytes(&wire[..8]), Err(WireError::Cut { there: 8, needed: 9 })));
    let mut longer = signal(Body::AskAddr).to_bytes();
    let len = u16::from_be_bytes([longer[7], longer[8]]) + 1;
    longer[7..9].copy_from_slice(&len.to_be_bytes());
    longer.push(0);
    assert_eq!(Signal::from_bytes(&longer), Err(WireError::Trailing { extra: 1 }));
}

#[test]
fn the_envelope_is_checked_first() {
    let mut bytes = sealed(Body::Bye);
    bytes[0] = 2;
    assert_eq!(open(&identity(2), &bytes), Err(OpenError::Version { version: 2 }));
    for len in [0, 1, 97, 511, 513, 1 << 20] {
        assert_eq!(open(&identity(2), &vec![1; len]), Err(OpenError::Size { len }));
    }
}

/// Guards the format against accidental change.
#[test]
fn the_bytes_are_what_they_always_were() {
    let contents =
        Contents { brokers: Vec::new(), machine: None, interfaces: Vec::new(), issued: UnixTime(1) };
    let said = Signal {
        sender: PeerAddr::sign(&identity(1), contents).unwrap(),
        seq: 3,
        issued: UnixTime(1),
        expires: UnixTime(2),
        ..signal(Body::Refuse(Refusal { reason: RefusalReason::Other(9) }))
    };
    let bytes = said.to_bytes();
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    assert_eq!(hex(&bytes[..9]), "70327053010006009c");
    assert_eq!(bytes[9..41], *identity(2).id().as_bytes());
    assert_eq!(hex(&bytes[41..60]), format!("{}030102", "07".repeat(16)));
    assert_eq!(hex(&bytes[60..64]), "67010064", "103 bytes follow, version 1, 100 follow");
    assert_eq!(bytes[64..96], *identity(1).id().as_bytes());
    assert_eq!(hex(&bytes[96..100]), "00000001");
    assert_eq!(hex(&bytes[164..]), "09");
    // The bodies themselves have vectors of their own.
    for (body, kind) in bodies().into_iter().zip(1u16..) {
        assert_eq!(signal(body).to_bytes()[5..7], kind.to_be_bytes());
    }
}

proptest! {
    #[test]
    fn a_flipped_bit_breaks_the_seal(at in 0usize..512, bit in 0u8..8) {
        let mut bytes = sealed(Body::Bye);
        bytes[at] ^= 1 << bit;
        let error = open(&identity(2), &bytes).unwrap_err();
        if at == 0 {
            prop_assert!(matches!(error, OpenError::Version { .. }), "{}", error);
        } else {
            // X25519 ignores the highest bit of the ephemeral key (RFC 7748, section 5), but the transcript does not.
            prop_assert_eq!(error, OpenError::Broken);
        }
    }

    #[test]
    fn a_flipped_bit_in_the_clear_is_an_error_or_another_signal(at: prop::sample::Index, bit in 0u8..8) {
        let said = signal(Body::DialMe(DialMe { plain: false }));
        let mut bytes = said.to_bytes();
        bytes[at.index(said.to_bytes().len())] ^= 1 << bit;
        if let Ok(other) = Signal::from_bytes(&bytes) {
            prop_assert_ne!(&other, &said);
            prop_assert_eq!(other.sender, said.sender, "that one is signed");
        }
    }

    #[test]
    fn no_bytes_panic(
        bytes: Vec<u8>,
        body in prop::collection::vec(any::<u8>(), 0..300),
        kind in 0u8..9,
        tail in prop::collection::vec(any::<u8>(), 511),
    ) {
        let _ = Signal::from_bytes(&bytes);
        let _ = open(&identity(2), &bytes);
        let _ = open(&identity(2), &[&[1], &tail[..]].concat());
        let mut framed = b"p2pS\x01\x00".to_vec();
        framed.push(kind);
        framed.extend((body.len() as u16).to_be_bytes());
        framed.extend(&body);
        let _ = Signal::from_bytes(&framed);
        let _ = opened(framed);
    }
}

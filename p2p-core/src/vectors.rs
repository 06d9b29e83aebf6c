//! The bytes of everything that peers write to each other, as they always were: version 1.
//!
//! Whoever reorders a field or a variant finds a vector here that does not fit any more. What has to change gets a new
//! number, and vectors of its own; these stay. They were computed apart from this crate, from the format of postcard.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::UnixTime;
use crate::attempt::{RefusalReason, Role};
use crate::clock::Offset;
use crate::nat::forecast::PortForecast;
use crate::nat::{Delta, DeltaKind, Filtering, Mapping, Nat, NatFacts, NatType, PortRange, SynAnswer};
use crate::peer::{Contents, InterfaceAddr, MachineTag};
use crate::proof::Cipher;
use crate::punch::{Answer, Endpoint, Message, Mode, Offer, Stamps, Step, Timing, Update};
use crate::relay::RelayOffer;
use crate::signal::{DialMe, Refusal};
use crate::transport::Token;

const DYNAMIC: PortRange = PortRange { first: 1_024, last: 65_535 };
const BLOCK: PortRange = PortRange { first: 2_048, last: 2_559 };

/// Checks that `value` is written as these bytes, and read from them.
pub(crate) fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, hex: &str) {
    let bytes = postcard::to_stdvec(value).unwrap();
    assert_eq!(data_encoding::HEXLOWER.encode(&bytes), hex, "{value:?}");
    assert_eq!(&postcard::from_bytes::<T>(&bytes).unwrap(), value);
}

/// Checks that each variant is written as its number in this list.
fn numbered<T: Serialize + DeserializeOwned + PartialEq + Debug>(variants: &[T]) {
    for (number, variant) in variants.iter().enumerate() {
        check(variant, &format!("{number:02x}"));
    }
}

fn message(pair: u8, round: u8, stamps: Stamps, step: Step) -> Message {
    Message { pair, round, stamps, step }
}

fn times(origin: u64, receive: u64, transmit: u64) -> Stamps {
    let [origin, receive, transmit] = [origin, receive, transmit].map(UnixTime);
    Stamps { origin, receive, transmit, served: None }
}

#[test]
fn words_have_their_numbers() {
    numbered(&NatType::ALL);
    numbered(&DeltaKind::ALL);
    numbered(&[Mapping::EndpointIndependent, Mapping::AddressDependent, Mapping::AddressAndPortDependent]);
    numbered(&[
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ]);
    numbered(&[SynAnswer::Silence, SynAnswer::Reset, SynAnswer::Icmp]);
    numbered(&[Mode::Remote, Mode::Lan, Mode::Machine, Mode::Interface]);
    numbered(&[Role::Caller, Role::Answerer]);
    numbered(&[Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305]);
    numbered(&[
        RefusalReason::Other(0),
        RefusalReason::Busy,
        RefusalReason::NotAllowed,
        RefusalReason::NoRoute,
        RefusalReason::Unsupported,
        RefusalReason::Closing,
        RefusalReason::Expired,
        RefusalReason::Other(7),
    ]);
}

#[test]
fn small_bodies_of_signals() {
    check(&DialMe { plain: true }, "01");
    check(&Refusal { reason: RefusalReason::Expired }, "06");
}

#[test]
fn messages_of_a_punch() {
    let caller = Endpoint {
        address: "203.0.113.9".parse().unwrap(),
        ports: PortForecast::Fixed(vec![40_000, 50_000]),
        filtering: Filtering::AddressDependent,
        syn: None,
        low_ttl: false,
        sockets: 96,
    };
    let at = "192.168.1.2".parse().unwrap();
    let offer = Offer { mode: Mode::Remote, at, side: caller.clone(), error: Some(30_000) };
    check(
        &message(3, 0, times(0, 0, 1), Step::Offer(offer)),
        "030000000100000000c0a8010200cb0071090002c0b802d086030100006001b0ea01",
    );
    let answerer = Endpoint {
        address: "2001:db8::9".parse().unwrap(),
        ports: PortForecast::Run { first: 40_000, count: 24 },
        filtering: Filtering::AddressAndPortDependent,
        syn: Some(SynAnswer::Silence),
        low_ttl: true,
        sockets: 512,
    };
    let served = Some(Offset::new(-5, std::time::Duration::new(1, 7)));
    let timing = Timing { start: UnixTime::from_secs(1_800_000_000), lead: 60, spread: 150, step: 32 };
    check(
        &message(1, 2, Stamps { served, ..times(1, 2, 3) }, Step::Answer(Answer { side: answerer, timing })),
        "010201020301090107010120010db800000000000000000000000901c0b802180201000180048080e2c4f2a299033c960120",
    );
    let ports = PortForecast::Counter { next: 40_001, step: -2, others: 21, pool: DYNAMIC };
    let counting = Endpoint {
        ports,
        filtering: Filtering::EndpointIndependent,
        syn: Some(SynAnswer::Reset),
        sockets: 1_024,
        ..caller
    };
    check(
        &message(0, 7, times(0, 0, 0), Step::Update(Update { side: counting, error: None })),
        "0007000000000200cb00710902c1b80203158008ffff0300010100800800",
    );
    let decline = Step::Decline(RefusalReason::NoRoute);
    check(&message(0, 0, times(0, 0, 9), decline), "0000000009000303");
    check(&PortForecast::Random { pool: BLOCK }, "038010ff13");
}

#[test]
fn offers_of_a_relayed_connection() {
    let full = RelayOffer {
        serial: 2,
        token: Token([5; 8]),
        datagrams: vec!["192.0.2.1:49160".parse().unwrap(), "[2001:db8::1]:49160".parse().unwrap()],
        connections: vec!["192.0.2.1:49170".parse().unwrap()],
        has_more: true,
        refusal: Some(RefusalReason::Busy),
    };
    check(
        &full,
        "0205050505050505050200c00002018880030120010db80000000000000000000000018880030100c0000201928003010101",
    );
    let empty = RelayOffer {
        serial: u32::MAX,
        datagrams: Vec::new(),
        connections: Vec::new(),
        has_more: false,
        refusal: None,
        ..full
    };
    check(&empty, "ffffffff0f050505050505050500000000");
}

#[test]
fn the_contents_of_an_address() {
    let facts = NatFacts {
        nat: Some(NatType::Symmetric),
        delta: Some(Delta { kind: DeltaKind::Independent, value: -3 }),
        mapping: Some(Mapping::AddressAndPortDependent),
        filtering: Some(Filtering::AddressDependent),
        syn: Some(SynAnswer::Icmp),
        hairpin: Some(true),
        range: Some(DYNAMIC),
        block: Some(BLOCK),
        rate: Some(300),
    };
    check(&facts, "01050102050102010101020101018008ffff03018010ff1301ac02");
    let machine: MachineTag = postcard::from_bytes(&[[1; 8], [2; 8], [2; 8]].concat()).unwrap();
    let interface = InterfaceAddr {
        nic: 4,
        local: "192.168.1.7".parse().unwrap(),
        prefix: 24,
        external: Some("203.0.113.9".parse().unwrap()),
        listen: 40_000,
        mapped: Some(40_001),
        nat: Nat { tcp: facts, udp: NatFacts::default() },
    };
    let contents = Contents {
        brokers: vec!["mqtts://broker.example.org".parse().unwrap()],
        machine: Some(machine),
        interfaces: vec![interface],
        issued: UnixTime::from_secs(1_800_000_000),
    };
    check(
        &contents,
        "011a6d717474733a2f2f62726f6b65722e6578616d706c652e6f7267010101010101010101020202020202020202020202020202\
         02010400c0a80107180100cb007109c0b80201c1b8020101050102050102010101020101018008ffff03018010ff1301ac0200\
         8080e2c4f2a29903",
    );
}

//! The bytes of STUN: round trips, hostile input, and a second opinion.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use stun_types::attribute::{Software, XorMappedAddress};
use stun_types::message::{
    IntegrityAlgorithm, Message as TheirMessage, MessageWrite, MessageWriteExt, MessageWriteVec,
    ShortTermCredentials,
};

use super::Transport;
use super::message::{Attribute, Class, Message, Method, PasswordAlgorithm, TransactionId};
use super::wire::{Algorithm, Ending, HEADER, IntegrityError, Key, Parsed, WireError};
use crate::stun::dial_back::{SynAnswer, SynOutcome};
use crate::{Family, Seed};

const OUTCOMES: [SynOutcome; 5] = [
    SynOutcome::Unavailable,
    SynOutcome::Connected,
    SynOutcome::Kept(SynAnswer::Silence),
    SynOutcome::Kept(SynAnswer::Reset),
    SynOutcome::Kept(SynAnswer::Icmp),
];

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        address().prop_map(Attribute::MappedAddress),
        address().prop_map(Attribute::XorMappedAddress),
        address().prop_map(Attribute::SourceAddress),
        address().prop_map(Attribute::ChangedAddress),
        address().prop_map(Attribute::AlternateServer),
        address().prop_map(Attribute::ResponseOrigin),
        address().prop_map(Attribute::OtherAddress),
        any::<(bool, bool)>().prop_map(|(ip, port)| Attribute::ChangeRequest { ip, port }),
        any::<u16>().prop_map(Attribute::ResponsePort),
        (0u16..64).prop_map(Attribute::Padding),
        any::<u16>().prop_map(Attribute::DialBack),
        (0..OUTCOMES.len(), 0..OUTCOMES.len())
            .prop_map(|(near, far)| Attribute::DialledBack { near: OUTCOMES[near], far: OUTCOMES[far] }),
        vec(any::<u16>(), 0..9).prop_map(Attribute::UnknownAttributes),
        (300u16..600, ".{0,30}").prop_map(|(code, reason)| Attribute::ErrorCode { code, reason }),
        ".{0,30}".prop_map(Attribute::Username),
        ".{0,30}".prop_map(Attribute::Realm),
        ".{0,30}".prop_map(Attribute::Nonce),
        ".{0,30}".prop_map(Attribute::Software),
        turn_attribute(),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn algorithm() -> impl Strategy<Value = PasswordAlgorithm> {
    (any::<u16>(), vec(any::<u8>(), 0..7))
        .prop_map(|(number, parameters)| PasswordAlgorithm { number, parameters })
}

fn turn_attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        any::<u16>().prop_map(Attribute::ChannelNumber),
        any::<u32>().prop_map(Attribute::Lifetime),
        address().prop_map(Attribute::XorPeerAddress),
        vec(any::<u8>(), 0..99).prop_map(|data| Attribute::Data(data.into())),
        address().prop_map(Attribute::XorRelayedAddress),
        family().prop_map(Attribute::RequestedAddressFamily),
        any::<bool>().prop_map(|reserve| Attribute::EvenPort { reserve }),
        any::<u8>().prop_map(Attribute::RequestedTransport),
        family().prop_map(Attribute::AdditionalAddressFamily),
        (family(), 300u16..700, ".{0,30}").prop_map(|(family, code, reason)| Attribute::AddressErrorCode {
            family,
            code,
            reason
        }),
        any::<u32>().prop_map(Attribute::ConnectionId),
        algorithm().prop_map(Attribute::PasswordAlgorithm),
        vec(algorithm(), 0..4).prop_map(Attribute::PasswordAlgorithms),
        any::<[u8; 32]>().prop_map(Attribute::UserHash),
        ".{0,30}".prop_map(Attribute::AlternateDomain),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let class =
        prop_oneof![Just(Class::Request), Just(Class::Indication), Just(Class::Success), Just(Class::Error)];
    (class, 0u16..0x1000, any::<[u8; 12]>(), vec(attribute(), 0..8)).prop_map(
        |(class, method, id, attributes)| Message {
            class,
            method: Method::new(method).unwrap(),
            transaction: TransactionId::with_cookie(id),
            attributes,
        },
    )
}

/// Returns the bytes of one attribute with its header and padding.
fn tlv(number: u16, value: &[u8]) -> Vec<u8> {
    let mut out = [number.to_be_bytes(), (value.len() as u16).to_be_bytes()].concat();
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Returns the bytes of a Binding success with these attributes.
fn raw(attributes: &[Vec<u8>]) -> Vec<u8> {
    let body = attributes.concat();
    let mut out = vec![0x01, 0x01];
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(TransactionId::with_cookie([7; 12]).as_bytes());
    out.extend_from_slice(&body);
    out
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in message(), signed in 0u8..3, fingerprint: bool, tcp: bool) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let key = Key::short_term("secret");
        let algorithm = [None, Some(Algorithm::Sha1), Some(Algorithm::Sha256)][usize::from(signed)];
        let ending = Ending { signature: algorithm.map(|algorithm| (algorithm, &key)), fingerprint };
        let bytes = match message.encode_with(transport, ending) {
            Ok(bytes) => bytes,
            Err(WireError::TooLarge { .. }) => return Ok(()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        let parsed = Parsed::decode(&bytes, transport).unwrap();
        prop_assert_eq!(&parsed.message, &message);
        prop_assert!(parsed.unknown.is_empty());
        prop_assert_eq!(parsed.is_fingerprinted, fingerprint);
        prop_assert_eq!(parsed.algorithm(), algorithm);
        let verdict = algorithm.ok_or(IntegrityError::Missing);
        prop_assert_eq!(parsed.verify(&key), verdict);
        prop_assert_eq!(parsed.verify(&Key::short_term("guess")), verdict.and(Err(IntegrityError::Wrong)));
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = Parsed::decode(&bytes, Transport::Udp);
    }

    #[test]
    fn no_attributes_panic(pieces in vec((any::<u16>(), vec(any::<u8>(), 0..40)), 0..20), near in 0u16..0x30) {
        let attributes: Vec<_> = pieces
            .iter()
            .map(|(number, value)| tlv(if number % 2 == 0 { number % 64 } else { *number ^ near }, value))
            .collect();
        let bytes = raw(&attributes);
        if let Ok(parsed) = Parsed::decode(&bytes, Transport::Tcp) {
            let _ = parsed.verify(&Key::short_term("secret"));
            // A message that was understood can be encoded again.
            prop_assert!(parsed.message.encode(Transport::Tcp).is_ok());
        }
    }

    #[test]
    fn a_changed_byte_breaks_the_signature(message in message(), at: prop::sample::Index, flip in 1u8..) {
        let key = Key::short_term("secret");
        let ending = Ending { signature: Some((Algorithm::Sha256, &key)), fingerprint: false };
        let Ok(mut bytes) = message.encode_with(Transport::Tcp, ending) else { return Ok(()) };
        let index = at.index(bytes.len());
        bytes[index] ^= flip;
        if let Ok(parsed) = Parsed::decode(&bytes, Transport::Tcp) {
            prop_assert!(parsed.verify(&key).is_err());
        }
    }

    /// A second implementation reads what we write, and makes the same signatures as we do.
    #[test]
    fn another_implementation_agrees(mapped in address(), id: [u8; 12], software in "[a-z]{1,20}", sha256: bool) {
        let (ours, theirs) = if sha256 {
            (Algorithm::Sha256, IntegrityAlgorithm::Sha256)
        } else {
            (Algorithm::Sha1, IntegrityAlgorithm::Sha1)
        };
        let key = Key::short_term("secret");
        let message = Message::new(Class::Success, Method::BINDING, TransactionId::with_cookie(id))
            .with(Attribute::XorMappedAddress(mapped))
            .with(Attribute::Software(software.clone()));
        let bytes = message
            .encode_with(Transport::Udp, Ending { signature: Some((ours, &key)), fingerprint: true })
            .unwrap();
        let read = TheirMessage::from_bytes(&bytes).unwrap();
        let address = read.attribute::<XorMappedAddress>().unwrap().addr(read.transaction_id());
        prop_assert_eq!(address, mapped);
        let name = read.attribute::<Software>().unwrap();
        prop_assert_eq!(name.software(), software.as_str());
        let credentials = ShortTermCredentials::new("secret".into());
        prop_assert!(read.validate_integrity(&credentials.into()).is_ok());

        let mut writer = TheirMessage::builder(read.get_type(), read.transaction_id(), MessageWriteVec::new());
        writer.add_attribute(&XorMappedAddress::new(mapped, read.transaction_id())).unwrap();
        writer.add_attribute(&Software::new(&software).unwrap()).unwrap();
        writer
            .add_message_integrity(&ShortTermCredentials::new("secret".into()).into(), theirs)
            .unwrap();
        writer.add_fingerprint().unwrap();
        prop_assert_eq!(writer.finish(), bytes);
    }
}

#[test]
fn what_follows_the_signature_is_ignored() {
    let key = Key::short_term("secret");
    let genuine = Message::new(Class::Success, Method::BINDING, TransactionId::with_cookie([7; 12]));
    let signature = Some((Algorithm::Sha1, &key));
    let signed = genuine.encode_with(Transport::Udp, Ending { signature, fingerprint: false }).unwrap();
    // A man in the middle appends an address, behind the signature.
    let extra = tlv(0x0001, &[0, 1, 0, 80, 203, 0, 113, 66]);
    let bytes = raw(&[signed[HEADER..].to_vec(), extra, tlv(0x0123, b"")]);
    let parsed = Parsed::decode(&bytes, Transport::Udp).unwrap();
    assert_eq!(parsed.verify(&key), Ok(Algorithm::Sha1));
    assert_eq!(parsed.message.mapped(), None);
    assert!(parsed.unknown.is_empty());
}

#[test]
fn signed_twice_the_stronger_counts() {
    let sha1 = tlv(0x0008, &[1; 20]);
    let sha256 = tlv(0x001c, &[1; 32]);
    for (attributes, algorithm) in [
        (vec![sha1.clone(), sha256.clone()], Algorithm::Sha256),
        (vec![sha256.clone(), sha1.clone()], Algorithm::Sha256),
        (vec![sha1.clone(), sha1.clone()], Algorithm::Sha1),
    ] {
        let bytes = raw(&attributes);
        assert_eq!(Parsed::decode(&bytes, Transport::Udp).unwrap().algorithm(), Some(algorithm));
    }
    // Cut below half its length, a signature can be guessed.
    for length in [0, 4, 12, 17, 36] {
        assert!(matches!(
            Parsed::decode(&raw(&[tlv(0x001c, &vec![1; length])]), Transport::Udp),
            Err(WireError::Malformed { attribute: 0x001c })
        ));
    }
}

#[test]
fn change_request_and_response_port_have_the_right_bits() {
    let message = Message::binding(&mut Seed::from_u64(1))
        .with(Attribute::ChangeRequest { ip: true, port: false })
        .with(Attribute::ChangeRequest { ip: false, port: true })
        .with(Attribute::ResponsePort(0x1234));
    let bytes = message.encode(Transport::Udp).unwrap();
    assert_eq!(bytes[HEADER..HEADER + 8], [0, 3, 0, 4, 0, 0, 0, 4]);
    assert_eq!(bytes[HEADER + 8..HEADER + 16], [0, 3, 0, 4, 0, 0, 0, 2]);
    assert_eq!(bytes[HEADER + 16..], [0, 0x27, 0, 4, 0x12, 0x34, 0, 0]);
}

#[test]
fn method_and_class_share_their_bits_as_the_figure_says() {
    for (class, method, kind) in [
        (Class::Request, 0x001, [0x00, 0x01]),
        (Class::Success, 0x001, [0x01, 0x01]),
        (Class::Error, 0x003, [0x01, 0x13]),
        (Class::Indication, 0x006, [0x00, 0x16]),
        (Class::Request, 0xfff, [0x3e, 0xef]),
        (Class::Error, 0x010, [0x01, 0x30]),
    ] {
        let message = Message::new(class, Method::new(method).unwrap(), TransactionId::with_cookie([0; 12]));
        assert_eq!(message.encode(Transport::Udp).unwrap()[..2], kind);
    }
    assert_eq!(Method::new(0x1000), None);
}

#[test]
fn broken_messages_are_named() {
    let whole = raw(&[tlv(0x8022, b"x")]);
    let decode = |bytes: &[u8], transport| Parsed::decode(bytes, transport).map(|_| ());
    assert!(matches!(decode(&whole[..19], Transport::Udp), Err(WireError::NotStun(_))));
    assert!(matches!(
        decode(&whole[..24], Transport::Udp),
        Err(WireError::Length { claimed: 28, actual: 24 })
    ));
    assert!(matches!(decode(&[&whole[..], &[0; 4]].concat(), Transport::Udp), Err(WireError::Length { .. })));
    assert!(matches!(
        decode(&raw(&[vec![0, 1, 0, 9, 0, 0, 0, 0]]), Transport::Udp),
        Err(WireError::Overrun { attribute: 1 })
    ));
    assert!(matches!(
        decode(&raw(&[tlv(0x0020, b"short")]), Transport::Udp),
        Err(WireError::Malformed { attribute: 0x20 })
    ));
    assert!(decode(&raw(&[tlv(0x802b, b"short")]), Transport::Udp).is_ok(), "an optional one is left out");
    assert!(matches!(decode(&raw(&vec![tlv(0x8022, b""); 65]), Transport::Udp), Err(WireError::TooMany)));
    let large = raw(&[tlv(0x0026, &[0; 1_480])]);
    assert!(matches!(
        decode(&large, Transport::Udp),
        Err(WireError::TooLarge { actual: 1_504, most: 1_500 })
    ));
    assert!(decode(&large, Transport::Tcp).is_ok());
    assert!(matches!(decode(&vec![0; 65_536], Transport::Tcp), Err(WireError::TooLarge { .. })));
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let message = |attribute| Message::binding(&mut Seed::from_u64(1)).with(attribute);
    for attribute in [
        Attribute::ErrorCode { code: 200, reason: String::new() },
        Attribute::Username("u".repeat(513)),
        Attribute::Nonce("n".repeat(128)),
    ] {
        assert!(matches!(message(attribute).encode(Transport::Tcp), Err(WireError::Unencodable { .. })));
    }
    assert!(matches!(
        message(Attribute::Padding(u16::MAX)).encode(Transport::Tcp),
        Err(WireError::TooLarge { .. })
    ));
}

#[test]
fn without_a_cookie_there_is_no_hidden_address() {
    let mut bytes =
        raw(&[tlv(0x0020, &[0, 1, 0, 80, 203, 0, 113, 66]), tlv(0x0001, &[0, 1, 0, 80, 203, 0, 113, 1])]);
    bytes[4] ^= 0xff;
    let parsed = Parsed::decode(&bytes, Transport::Udp).unwrap();
    assert!(parsed.message.transaction.is_classic());
    assert_eq!(parsed.message.mapped(), Some("203.0.113.1:80".parse().unwrap()));
}

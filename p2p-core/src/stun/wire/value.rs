//! The value of each attribute, in the only file that names the codec.
//!
//! The codec is given one value at a time, never a message. Its own message decoder checks integrity over a
//! re-encoding, takes attributes that come after the integrity, and needs quadratic time. It gets the bits of
//! CHANGE-REQUEST and RESPONSE-PORT wrong, so those two are written by hand here. So are all attributes of TURN and
//! of RFC 8489, which it does not know.

use std::net::SocketAddr;

use bytecodec::{Decode, DecodeExt, Encode, EncodeExt};
use bytes::Bytes;
use stun_codec::net::{SocketAddrDecoder, SocketAddrEncoder, socket_addr_xor};
use stun_codec::rfc5389::attributes as codec;

use super::WireError;
use crate::Family;
use crate::stun::dial_back::{SynAnswer, SynOutcome};
use crate::stun::message::PasswordAlgorithm;
use crate::stun::{Attribute, TransactionId};

/// The flags of CHANGE-REQUEST (RFC 5780, section 7.2).
const CHANGE_IP: u32 = 0x4;
const CHANGE_PORT: u32 = 0x2;

/// The longest reason phrase, in characters (RFC 8489, section 14.8).
const REASON_CHARS: usize = 127;

/// The longest name of a host (RFC 1035, section 2.3.4).
const DOMAIN_BYTES: usize = 255;

/// Returns the number of an attribute on the wire.
pub(super) fn number(attribute: &Attribute) -> u16 {
    match attribute {
        Attribute::MappedAddress(_) => 0x0001,
        Attribute::ChangeRequest { .. } => 0x0003,
        Attribute::SourceAddress(_) => 0x0004,
        Attribute::ChangedAddress(_) => 0x0005,
        Attribute::Username(_) => 0x0006,
        Attribute::ErrorCode { .. } => 0x0009,
        Attribute::UnknownAttributes(_) => 0x000a,
        Attribute::Realm(_) => 0x0014,
        Attribute::Nonce(_) => 0x0015,
        Attribute::XorMappedAddress(_) => 0x0020,
        Attribute::Padding(_) => 0x0026,
        Attribute::ResponsePort(_) => 0x0027,
        Attribute::Software(_) => 0x8022,
        Attribute::AlternateServer(_) => 0x8023,
        Attribute::ResponseOrigin(_) => 0x802b,
        Attribute::OtherAddress(_) => 0x802c,
        Attribute::DialBack(_) => 0xffb0,
        Attribute::DialledBack { .. } => 0xffb1,
        Attribute::ChannelNumber(_) => 0x000c,
        Attribute::Lifetime(_) => 0x000d,
        Attribute::XorPeerAddress(_) => 0x0012,
        Attribute::Data(_) => 0x0013,
        Attribute::XorRelayedAddress(_) => 0x0016,
        Attribute::RequestedAddressFamily(_) => 0x0017,
        Attribute::EvenPort { .. } => 0x0018,
        Attribute::RequestedTransport(_) => 0x0019,
        Attribute::PasswordAlgorithm(_) => 0x001d,
        Attribute::UserHash(_) => 0x001e,
        Attribute::ConnectionId(_) => 0x002a,
        Attribute::AdditionalAddressFamily(_) => 0x8000,
        Attribute::AddressErrorCode { .. } => 0x8001,
        Attribute::PasswordAlgorithms(_) => 0x8002,
        Attribute::AlternateDomain(_) => 0x8003,
    }
}

/// The outcome of reading a value.
pub(super) enum Value {
    Known(Attribute),
    Unknown,
    Malformed,
}

/// Reads the value of attribute `number`.
pub(super) fn decode(number: u16, value: &[u8], transaction: TransactionId) -> Value {
    let attribute = match number {
        0x0001 => address(value).map(Attribute::MappedAddress),
        0x0003 => word(value).map(|flags| Attribute::ChangeRequest {
            ip: flags & CHANGE_IP != 0,
            port: flags & CHANGE_PORT != 0,
        }),
        0x0004 => address(value).map(Attribute::SourceAddress),
        0x0005 => address(value).map(Attribute::ChangedAddress),
        0x0006 => with::<codec::UsernameDecoder>(value).map(|name| Attribute::Username(name.name().into())),
        0x0009 => with::<codec::ErrorCodeDecoder>(value)
            .map(|error| Attribute::ErrorCode { code: error.code(), reason: error.reason_phrase().into() }),
        0x000a => with::<codec::UnknownAttributesDecoder>(value).map(|list| {
            Attribute::UnknownAttributes(list.unknowns().iter().map(|kind| kind.as_u16()).collect())
        }),
        0x0014 => with::<codec::RealmDecoder>(value).map(|realm| Attribute::Realm(realm.text().into())),
        0x0015 => with::<codec::NonceDecoder>(value).map(|nonce| Attribute::Nonce(nonce.value().into())),
        0x0020 => hidden(value, transaction).map(Attribute::XorMappedAddress),
        0x0026 => u16::try_from(value.len()).ok().map(Attribute::Padding),
        0x0027 => word(value).map(|port| Attribute::ResponsePort((port >> 16) as u16)),
        0x8022 => {
            with::<codec::SoftwareDecoder>(value).map(|name| Attribute::Software(name.description().into()))
        }
        0x8023 => address(value).map(Attribute::AlternateServer),
        0x802b => address(value).map(Attribute::ResponseOrigin),
        0x802c => address(value).map(Attribute::OtherAddress),
        0xffb0 => word(value).map(|ms| Attribute::DialBack((ms >> 16) as u16)),
        0xffb1 => word(value).map(|codes| {
            let [near, far, ..] = codes.to_be_bytes();
            Attribute::DialledBack { near: outcome(near), far: outcome(far) }
        }),
        0x000c => word(value).map(|word| Attribute::ChannelNumber((word >> 16) as u16)),
        0x000d => word(value).map(Attribute::Lifetime),
        0x0012 => hidden(value, transaction).map(Attribute::XorPeerAddress),
        0x0013 => Some(Attribute::Data(Bytes::copy_from_slice(value))),
        0x0016 => hidden(value, transaction).map(Attribute::XorRelayedAddress),
        0x0017 => family(value).map(Attribute::RequestedAddressFamily),
        0x0018 => match value {
            [flags] => Some(Attribute::EvenPort { reserve: flags & 0x80 != 0 }),
            _ => None,
        },
        0x0019 => word(value).map(|word| Attribute::RequestedTransport((word >> 24) as u8)),
        0x001d => match algorithms(value).as_deref() {
            Some([only]) => Some(Attribute::PasswordAlgorithm(only.clone())),
            _ => None,
        },
        0x001e => value.try_into().ok().map(Attribute::UserHash),
        0x002a => word(value).map(Attribute::ConnectionId),
        0x8000 => family(value).map(Attribute::AdditionalAddressFamily),
        0x8001 => address_error(value),
        0x8002 => algorithms(value).map(Attribute::PasswordAlgorithms),
        0x8003 => text(value, DOMAIN_BYTES).map(Attribute::AlternateDomain),
        _ => return Value::Unknown,
    };
    attribute.map_or(Value::Malformed, Value::Known)
}

/// Writes the value of an attribute.
pub(super) fn encode(attribute: &Attribute, transaction: TransactionId) -> Result<Vec<u8>, WireError> {
    let value = match attribute {
        Attribute::MappedAddress(address)
        | Attribute::SourceAddress(address)
        | Attribute::ChangedAddress(address)
        | Attribute::AlternateServer(address)
        | Attribute::ResponseOrigin(address)
        | Attribute::OtherAddress(address) => into::<SocketAddrEncoder>(*address),
        Attribute::XorMappedAddress(address)
        | Attribute::XorPeerAddress(address)
        | Attribute::XorRelayedAddress(address) => {
            into::<SocketAddrEncoder>(socket_addr_xor(*address, id(transaction)))
        }
        Attribute::ChangeRequest { ip, port } => {
            let flags = if *ip { CHANGE_IP } else { 0 } | if *port { CHANGE_PORT } else { 0 };
            Some(flags.to_be_bytes().to_vec())
        }
        Attribute::Username(name) => {
            codec::Username::new(name.clone()).ok().and_then(into::<codec::UsernameEncoder>)
        }
        Attribute::ErrorCode { code, reason } => {
            codec::ErrorCode::new(*code, reason.chars().take(REASON_CHARS).collect())
                .ok()
                .and_then(into::<codec::ErrorCodeEncoder>)
        }
        Attribute::UnknownAttributes(numbers) => {
            into::<codec::UnknownAttributesEncoder>(codec::UnknownAttributes::new(
                numbers.iter().map(|number| stun_codec::AttributeType::new(*number)).collect(),
            ))
        }
        Attribute::Realm(text) => codec::Realm::new(text.clone()).ok().and_then(into::<codec::RealmEncoder>),
        Attribute::Nonce(text) => codec::Nonce::new(text.clone()).ok().and_then(into::<codec::NonceEncoder>),
        Attribute::Software(text) => {
            codec::Software::new(text.clone()).ok().and_then(into::<codec::SoftwareEncoder>)
        }
        Attribute::Padding(length) => Some(vec![0; usize::from(*length)]),
        Attribute::DialledBack { near, far } => Some(vec![outcome_code(*near), outcome_code(*far), 0, 0]),
        Attribute::ResponsePort(half) | Attribute::DialBack(half) | Attribute::ChannelNumber(half) => {
            Some((u32::from(*half) << 16).to_be_bytes().to_vec())
        }
        Attribute::Lifetime(word) | Attribute::ConnectionId(word) => Some(word.to_be_bytes().to_vec()),
        Attribute::Data(data) => Some(data.to_vec()),
        Attribute::RequestedAddressFamily(family) | Attribute::AdditionalAddressFamily(family) => {
            Some(vec![family_number(*family), 0, 0, 0])
        }
        Attribute::EvenPort { reserve } => Some(vec![u8::from(*reserve) << 7]),
        Attribute::RequestedTransport(protocol) => Some(vec![*protocol, 0, 0, 0]),
        Attribute::AddressErrorCode { family, code, reason } => (300..700).contains(code).then(|| {
            let mut value = vec![family_number(*family), 0, (code / 100) as u8, (code % 100) as u8];
            value.extend(reason.chars().take(REASON_CHARS).collect::<String>().into_bytes());
            value
        }),
        Attribute::PasswordAlgorithm(one) => encode_algorithms(std::slice::from_ref(one)),
        Attribute::PasswordAlgorithms(all) => encode_algorithms(all),
        Attribute::UserHash(hash) => Some(hash.to_vec()),
        Attribute::AlternateDomain(name) => (name.len() <= DOMAIN_BYTES).then(|| name.clone().into_bytes()),
    };
    value.ok_or(WireError::Unencodable { attribute: number(attribute) })
}

/// The outcomes of a SYN by their codes in DIALLED-BACK. Any other code reads as `Unavailable`.
const OUTCOMES: [SynOutcome; 5] = [
    SynOutcome::Unavailable,
    SynOutcome::Connected,
    SynOutcome::Kept(SynAnswer::Silence),
    SynOutcome::Kept(SynAnswer::Reset),
    SynOutcome::Kept(SynAnswer::Icmp),
];

fn outcome(code: u8) -> SynOutcome {
    OUTCOMES.get(usize::from(code)).copied().unwrap_or(SynOutcome::Unavailable)
}

fn outcome_code(outcome: SynOutcome) -> u8 {
    OUTCOMES.iter().position(|known| *known == outcome).unwrap_or(0) as u8
}

fn with<D: Decode + Default>(value: &[u8]) -> Option<D::Item> {
    D::default().decode_from_bytes(value).ok()
}

fn into<E: Encode + Default>(item: E::Item) -> Option<Vec<u8>> {
    E::default().encode_into_bytes(item).ok()
}

fn address(value: &[u8]) -> Option<SocketAddr> {
    with::<SocketAddrDecoder>(value)
}

fn hidden(value: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    address(value).map(|hidden| socket_addr_xor(hidden, id(transaction)))
}

fn text(value: &[u8], most: usize) -> Option<String> {
    std::str::from_utf8(value).ok().filter(|text| text.len() <= most).map(str::to_owned)
}

fn family(value: &[u8]) -> Option<Family> {
    match value {
        [0x01, _, _, _] => Some(Family::V4),
        [0x02, _, _, _] => Some(Family::V6),
        _ => None,
    }
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 0x01,
        Family::V6 => 0x02,
    }
}

fn address_error(value: &[u8]) -> Option<Attribute> {
    let (head, reason) = value.split_first_chunk::<4>()?;
    let (class, number) = (u16::from(head[2] & 0x07), u16::from(head[3]));
    let reason = text(reason, 4 * REASON_CHARS).filter(|reason| reason.chars().count() <= REASON_CHARS)?;
    let is_sane = (3..=6).contains(&class) && number < 100;
    is_sane.then_some(())?;
    Some(Attribute::AddressErrorCode { family: family(head)?, code: class * 100 + number, reason })
}

/// Reads a list of algorithms. Each is a number, the length of its parameters and the parameters, filled up to four
/// bytes.
fn algorithms(mut value: &[u8]) -> Option<Vec<PasswordAlgorithm>> {
    let mut all = Vec::new();
    while let Some((head, rest)) = value.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let parameters = rest.get(..length)?.to_vec();
        all.push(PasswordAlgorithm { number: u16::from_be_bytes([head[0], head[1]]), parameters });
        // The last one may come without its own filling, because the attribute is filled up itself.
        value = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    value.is_empty().then_some(all)
}

fn encode_algorithms(all: &[PasswordAlgorithm]) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    for PasswordAlgorithm { number, parameters } in all {
        value.extend(number.to_be_bytes());
        value.extend(u16::try_from(parameters.len()).ok()?.to_be_bytes());
        value.extend(parameters);
        value.resize(value.len().next_multiple_of(4), 0);
    }
    Some(value)
}

fn word(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// Returns the part of the id that hides IPv6 addresses. Without the cookie nothing may be hidden, which the guard in
/// `wire.rs` checks.
fn id(transaction: TransactionId) -> stun_codec::TransactionId {
    let mut bits = [0; 12];
    bits.copy_from_slice(&transaction.as_bytes()[4..]);
    stun_codec::TransactionId::new(bits)
}

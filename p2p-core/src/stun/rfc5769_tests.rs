//! The vectors of RFC 5769, byte for byte.

use super::message::{Attribute, Class};
use super::wire::{Algorithm, Ending, IntegrityError, Key, Parsed, WireError};
use super::{Message, Transport};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(u8::is_ascii_hexdigit)
        .map(|digit| (digit as char).to_digit(16).unwrap() as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

/// The vector of section 2.1. It has PRIORITY and ICE-CONTROLLED, which we do not know, and padding of spaces.
const REQUEST: &str = "0001 0058 2112a442 b7e7a701bc34d686fa87dfae
    8022 0010 5354554e207465737420636c69656e74
    0024 0004 6e0001ff
    8029 0008 932ff9b151263b36
    0006 0009 6576746a3a68367659 202020
    0008 0014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
    8028 0004 e57a3bcf";

/// The vector of section 2.2.
const RESPONSE_V4: &str = "0101 003c 2112a442 b7e7a701bc34d686fa87dfae
    8022 000b 7465737420766563746f72 20
    0020 0008 0001a147e112a643
    0008 0014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
    8028 0004 c07d4c96";

/// The vector of section 2.3.
const RESPONSE_V6: &str = "0101 0048 2112a442 b7e7a701bc34d686fa87dfae
    8022 000b 7465737420766563746f72 20
    0020 0014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
    0008 0014 a382954e4be67bf11784c97c8292c275bfe3ed41
    8028 0004 c8fb0b4c";

/// The vector of section 2.4.
const LONG_TERM: &str = "0001 0060 2112a442 78ad3433c6ad72c029da412e
    0006 0012 e3839ee38388e383aae38383e382afe382b9 0000
    0015 001c 662f2f3439396b39353464364f4c33346f4c39465354767936347341
    0014 000b 6578616d706c652e6f7267 00
    0008 0014 f67024656dd64a3e02b8e0712e85c9a28ca89666";

#[test]
fn the_request() {
    let bytes = bytes(REQUEST);
    let parsed = Parsed::decode(&bytes, Transport::Udp).unwrap();
    assert_eq!(parsed.message.class, Class::Request);
    assert_eq!(
        parsed.message.attributes,
        [Attribute::Software("STUN test client".into()), Attribute::Username("evtj:h6vY".into()),]
    );
    assert_eq!(parsed.unknown, [0x0024], "PRIORITY must be understood, ICE-CONTROLLED need not");
    assert!(parsed.is_fingerprinted);
    assert_eq!(parsed.verify(&Key::short_term(PASSWORD)), Ok(Algorithm::Sha1));
}

#[test]
fn the_responses() {
    for (hex, mapped) in
        [(RESPONSE_V4, "192.0.2.1:32853"), (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let bytes = bytes(hex);
        let parsed = Parsed::decode(&bytes, Transport::Udp).unwrap();
        assert_eq!(parsed.message.class, Class::Success);
        assert_eq!(parsed.message.mapped(), Some(mapped.parse().unwrap()));
        assert_eq!(parsed.message.attributes[0], Attribute::Software("test vector".into()));
        assert!(parsed.unknown.is_empty() && parsed.is_fingerprinted);
        assert_eq!(parsed.verify(&Key::short_term(PASSWORD)), Ok(Algorithm::Sha1));
    }
}

#[test]
fn long_term_credentials() {
    let bytes = bytes(LONG_TERM);
    let parsed = Parsed::decode(&bytes, Transport::Udp).unwrap();
    let username = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";
    assert_eq!(
        parsed.message.attributes,
        [
            Attribute::Username(username.into()),
            Attribute::Nonce("f//499k954d6OL34oL9FSTvy64sA".into()),
            Attribute::Realm("example.org".into()),
        ]
    );
    let key = |password| Key::long_term(username, "example.org", password);
    assert_eq!(parsed.verify(&key("TheMatrIX")), Ok(Algorithm::Sha1));
    assert_eq!(parsed.verify(&key("TheMatrix")), Err(IntegrityError::Wrong));
    // Our bytes for the same content differ only in padding, and this vector pads with zeros as we do.
    let written = parsed.message.encode_with(
        Transport::Udp,
        Ending { signature: Some((Algorithm::Sha1, &key("TheMatrIX"))), fingerprint: false },
    );
    assert_eq!(written, Ok(bytes.clone()));
}

#[test]
fn every_flipped_bit_is_seen() {
    for hex in [REQUEST, RESPONSE_V4, RESPONSE_V6] {
        let bytes = bytes(hex);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A flip may hide the fingerprint's own header, but then the integrity must still fail or hold.
            let seen = match Parsed::decode(&bad, Transport::Udp) {
                Err(_) => true,
                Ok(parsed) => !parsed.is_fingerprinted || parsed.verify(&Key::short_term(PASSWORD)).is_err(),
            };
            assert!(seen, "bit {bit}");
        }
    }
}

#[test]
fn the_fingerprint_ends_a_message() {
    let mut bytes = bytes(RESPONSE_V4);
    let crc = bytes.len() - 1;
    bytes[crc] ^= 1;
    assert!(matches!(Parsed::decode(&bytes, Transport::Udp), Err(WireError::Fingerprint)));
}

#[test]
fn a_message_without_signature_is_not_trusted() {
    let bytes = Message::binding(&mut crate::Seed::from_u64(1)).encode(Transport::Udp).unwrap();
    let parsed = Parsed::decode(&bytes, Transport::Udp).unwrap();
    assert_eq!(parsed.verify(&Key::short_term(PASSWORD)), Err(IntegrityError::Missing));
}

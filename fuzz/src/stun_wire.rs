use p2p_core::stun::frame::Framer;
use p2p_core::stun::wire::{Algorithm, Ending, IntegrityError, Key, Parsed, WireError};
use p2p_core::stun::{Message, Transport};

/// STUN messages: read, written again, signed, forged, and cut out of a stream.
pub fn stun_wire(data: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        if let Ok(parsed) = Parsed::decode(data, transport) {
            let _ = parsed.verify(&key());
            assert_eq!(
                parsed.verify(&key()).is_err_and(|error| error == IntegrityError::Missing),
                parsed.algorithm().is_none()
            );
            again(&parsed.message, data);
        }
    }
    stream(data);
}

/// The key of the seeds.
pub fn key() -> Key {
    Key::short_term("secret")
}

/// What was understood can be said again, and means the same.
fn again(message: &Message, dice: &[u8]) {
    let bytes = match message.encode(Transport::Tcp) {
        Ok(bytes) => bytes,
        // Text may take more room than it did.
        Err(WireError::TooLarge { .. }) => return,
        Err(error) => panic!("{message:?}: {error}"),
    };
    let parsed = Parsed::decode(&bytes, Transport::Tcp).expect("our own message");
    assert_eq!(parsed.message, *message);
    assert!(parsed.unknown.is_empty());
    for algorithm in [Algorithm::Sha1, Algorithm::Sha256] {
        let ending = Ending { signature: Some((algorithm, &key())), fingerprint: false };
        let Ok(mut signed) = message.encode_with(Transport::Tcp, ending) else { return };
        let verdict = Parsed::decode(&signed, Transport::Tcp).map(|parsed| parsed.verify(&key()));
        assert_eq!(verdict, Ok(Ok(algorithm)));
        let bit = dice.iter().fold(0, |sum: usize, byte| sum.wrapping_mul(31) + usize::from(*byte));
        let at = bit / 8 % signed.len();
        signed[at] ^= 1 << (bit % 8);
        let forged = Parsed::decode(&signed, Transport::Tcp).map(|parsed| parsed.verify(&key()));
        assert!(!matches!(forged, Ok(Ok(_))), "a flipped bit at {at} was not noticed: {message:?}");
    }
}

/// A stream is cut into the same messages however it arrives.
fn stream(data: &[u8]) {
    let cut = |step: usize| {
        let (mut framer, mut found) = (Framer::default(), Vec::new());
        for mut chunk in data.chunks(step) {
            while !chunk.is_empty() {
                match framer.feed(&mut chunk) {
                    Ok(Some(message)) => found.push(message),
                    Ok(None) => {}
                    Err(_) => return found,
                }
            }
        }
        found
    };
    let whole = cut(data.len().max(1));
    assert_eq!(cut(1), whole);
    assert!(whole.iter().all(|message| message.len() <= Transport::Tcp.most_bytes()));
}

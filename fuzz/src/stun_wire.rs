//! The target for STUN: one message, a stream of them, and the answers of a server.

use std::net::SocketAddr;

use p2p_core::stun::frame::Framer;
use p2p_core::stun::wire::{Key, Parsed};
use p2p_core::stun::{Responder, Transport};

/// Checks that no bytes panic, and that what was understood can be written and then reads the same. A stream is cut
/// the same in any pieces. No request is answered with more than its documented multiple.
pub fn stun_wire(data: &[u8]) {
    for transport in [Transport::Udp, Transport::Tcp] {
        message(data, transport);
    }
    assert_eq!(frames(data, 1), frames(data, data.len().max(1)));

    let here = SocketAddr::from(([203, 0, 113, 1], 3478));
    let server = Responder::new(here).with_alternate(SocketAddr::from(([203, 0, 113, 2], 3479)));
    let client = SocketAddr::from(([198, 51, 100, 7], 4242));
    if let Ok(reply) = server.respond(data, client, here, Transport::Udp) {
        assert!(reply.bytes.len() * 10 <= data.len() * 34, "too much of an answer");
        assert_eq!(reply.to, client);
        Parsed::decode(&reply.bytes, Transport::Udp).expect("we understand our own answers");
    }
}

fn message(data: &[u8], transport: Transport) {
    let Ok(parsed) = Parsed::decode(data, transport) else {
        return;
    };
    assert!(parsed.verify(&Key::short_term("nobody signs with this")).is_err());
    let said = parsed.message.encode(transport).expect("what was read can be written");
    let again = Parsed::decode(&said, transport).expect("and read again");
    assert_eq!(again.message.encode(transport).as_ref(), Ok(&said));
}

/// Returns the messages before the first error, and true when there was one.
fn frames(data: &[u8], step: usize) -> (Vec<Vec<u8>>, bool) {
    let (mut framer, mut messages) = (Framer::default(), Vec::new());
    for mut piece in data.chunks(step) {
        loop {
            match framer.feed(&mut piece) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, true),
            }
        }
    }
    (messages, false)
}

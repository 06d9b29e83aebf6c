//! Our stream, with the pipe's records inside it or without.

#[path = "../../../p2p-node/src/pipe/record.rs"]
mod record;

use std::time::Instant;

use p2p_core::proof::Cipher;
use p2p_core::transport::{Read, TransportConfig, Stream, Token, Tokens};
use p2p_core::{Machine, Seed};
use record::{MOST_PLAIN, OVERHEAD, PLAIN_AT, RecordKey, record_len};

use crate::{CHUNK, DATAGRAM, WINDOW, Wire};

fn end(me: u8, now: Instant) -> Stream {
    let tokens = Tokens { ours: Token([me; 8]), theirs: Token([1 - me; 8]) };
    let mut config = TransportConfig::new(tokens);
    (config.most_send, config.most_receive, config.datagram) = (WINDOW * 2, WINDOW, DATAGRAM);
    Stream::new(config, Seed::from_u64(me.into()), now)
}

/// Carries this number of bytes from one end to the other.
pub(crate) fn carry(bytes: usize, is_sealed: bool) {
    let mut wire = Wire::new();
    let mut ends = [end(0, wire.now), end(1, wire.now)];
    let key = || RecordKey::new(Cipher::Aes256Gcm, &[7; 32]).expect("a key");
    let (mut seal, mut open) = (key(), key());
    let chunk = vec![0x5a; CHUNK];
    let (mut taken, mut given) = (0, 0);
    let (mut out, mut sent) = (Vec::new(), 0);
    // The record has a length, once it is known, and the bytes that have come of it.
    let mut input = vec![0; MOST_PLAIN + OVERHEAD];
    let mut filled = 0;
    let mut datagram = [0; DATAGRAM];
    while given < bytes {
        for (me, end) in ends.iter_mut().enumerate() {
            while let Some(datagram) = wire.receive(me) {
                end.handle_datagram(&datagram, wire.now);
                wire.spare.push(datagram);
            }
            end.handle_timeout(wire.now);
        }
        loop {
            if sent == out.len() {
                if taken >= bytes {
                    break;
                }
                out.clear();
                sent = 0;
                match is_sealed {
                    true => seal.seal(&chunk, &mut out).expect("sealed"),
                    false => out.extend_from_slice(&chunk),
                }
                taken += CHUNK;
            }
            let count = ends[0].write(&out[sent..], wire.now).expect("it is open");
            sent += count;
            if count == 0 {
                break;
            }
        }
        loop {
            let wanted = match record_len(&input[..filled]).expect("a record").filter(|_| is_sealed) {
                Some(length) => length,
                None if is_sealed => 2,
                None => input.len(),
            };
            if is_sealed && filled == wanted && filled > 2 {
                given += open.open(&mut input[..filled]).expect("opened");
                assert_eq!(input[PLAIN_AT], 0x5a);
                filled = 0;
                continue;
            }
            match ends[1].read(&mut input[filled..wanted], wire.now).expect("it is open") {
                Read::Bytes(count) if is_sealed => filled += count,
                Read::Bytes(count) => given += count,
                Read::Nothing => break,
                Read::End => unreachable!("nobody has said so"),
            }
        }
        for (me, end) in ends.iter_mut().enumerate() {
            while let Some(length) = end.poll_transmit(&mut datagram) {
                wire.send(1 - me, &datagram[..length]);
            }
            while end.poll_event().is_some() {}
        }
        if given < bytes {
            wire.pass(ends.each_ref().map(|end| end.deadline().map(|deadline| deadline.at)));
        }
    }
}

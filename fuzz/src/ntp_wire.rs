//! The target for NTP: one packet, and a client who is answered with it.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_core::clock::ntp::packet::HEADER;
use p2p_core::clock::ntp::{Act, Client, ClientConfig, Packet};
use p2p_core::sim::epoch;
use p2p_core::sim::laws::drain;
use p2p_core::{Clock, Machine, Seed, UnixTime};

/// Checks that no bytes panic, and that what was read is written the same. A client gets anything as an answer,
/// rightly addressed or not. It never claims a smaller error than its round trip allows.
pub fn ntp_wire(data: &[u8]) {
    if let Ok(packet) = Packet::decode(data) {
        assert_eq!(packet.encode(), data[..HEADER]);
    }
    let server = SocketAddr::from(([203, 0, 113, 1], 123));
    let clock = Clock::new(epoch(), UnixTime::from_secs(1_800_000_000));
    let config = ClientConfig { servers: 1, ..ClientConfig::default() };
    let mut client = Client::new(config, clock, Seed::from_u64(1), epoch()).expect("one server");
    client.handle_resolved(0, Ok(vec![server]), epoch());
    let rtt = Duration::from_millis(40);
    for answer in data.chunks(HEADER) {
        let drained = drain(&mut client);
        let Some(at) = drained.wait.map(|wait| wait.at) else { return };
        let asked = drained.acts.iter().find_map(|act| match act {
            Act::Send { bytes, .. } => Some(bytes),
            _ => None,
        });
        if let Some(question) = asked {
            let mut bytes = answer.to_vec();
            // Nobody guesses 64 bits, so the bytes are made an answer, if they are anything.
            if let Some(origin) = bytes.get_mut(24..32) {
                origin.copy_from_slice(&question[40..]);
            }
            let heard = at - Duration::from_secs(2) + rtt;
            client.handle_datagram(0, server, &bytes, heard);
            for measured in drain(&mut client).events.into_iter().filter_map(|report| report.measured) {
                let error = measured.offset(heard).error;
                assert!(error <= Duration::from_secs(1) + rtt, "{error:?} is of no use");
            }
        }
        client.handle_timeout(at);
    }
}

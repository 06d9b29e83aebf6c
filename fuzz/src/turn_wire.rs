//! The target for TURN: frames out of a stream, and an allocation that receives anything at all.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_core::sim::epoch;
use p2p_core::sim::turn::{FaultyServer, FaultyServerConfig};
use p2p_core::stun::wire::Header;
use p2p_core::stun::{Attribute, Class, Message, Transport};
use p2p_core::turn::allocation::{Event, Misuse};
use p2p_core::turn::channel::split;
use p2p_core::turn::frame::{Frame, Framer};
use p2p_core::turn::server::Act;
use p2p_core::turn::{Allocation, AllocationConfig, Carrier, Credentials};
use p2p_core::{Machine, Output, Seed};

const SERVER: ([u8; 4], u16) = ([203, 0, 113, 1], 3478);
const CLIENT: ([u8; 4], u16) = ([198, 51, 100, 7], 40_000);
const PEER: ([u8; 4], u16) = ([192, 0, 2, 9], 5_000);
/// The most packets that an allocation may cost for each input.
const MOST_PACKETS: usize = 8;

/// Checks that a stream is cut the same in any pieces, within its bound. Then it sends anything from the server's
/// address without the key, unsigned answers to our own requests included. Nothing panics, and each costs a few
/// packets at most. The allocation lives, with its peer bound, until time ends it.
pub fn turn_wire(data: &[u8]) {
    assert_eq!(frames(data, 1), frames(data, data.len().max(1)));
    assert_eq!(frames(data, 7), frames(data, data.len().max(1)));
    if let Ok((number, payload)) = split(data) {
        assert_eq!(number.header(payload.len()).as_ref(), data.first_chunk());
    }
    hears(data);
}

/// Returns the frames before the first error, and true when there was one.
fn frames(data: &[u8], step: usize) -> (Vec<Frame>, bool) {
    let (mut framer, mut frames) = (Framer::default(), Vec::new());
    framer.allow_channels();
    for piece in data.chunks(step) {
        let mut piece = piece.to_vec().into();
        loop {
            match framer.feed(&mut piece) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
        assert!(framer.held() < 65_556, "more than a frame is held");
    }
    (frames, false)
}

/// An allocation with a bound peer, whose server sends nothing of its own any more.
struct Deserted {
    allocation: Allocation,
    now: Instant,
    /// The header of the last request.
    asked: Option<Header>,
}

impl Deserted {
    fn new() -> Self {
        let server = SocketAddr::from(SERVER);
        let credentials = Credentials::new("user", "secret").expect("short");
        let config = AllocationConfig::new(server, Carrier::Udp, credentials);
        let now = epoch();
        let mut allocation = Allocation::new(config, Seed::from_u64(1), now).expect("UDP relays UDP");
        allocation.bind(SocketAddr::from(PEER), now).expect("the first peer");
        let server = FaultyServerConfig::new(server, "user", "secret");
        let mut server = FaultyServer::new(server, Seed::from_u64(2), now);
        let tuple = server.tuple(Transport::Udp, SocketAddr::from(CLIENT));
        for _ in 0..8 {
            loop {
                match allocation.poll_output() {
                    Output::Act(packet) => server.handle_client(tuple, &packet.into_bytes(), now),
                    Output::Event(_) => {}
                    Output::Wait(_) => break,
                }
            }
            loop {
                match server.poll_output() {
                    Output::Act(Act::Send { bytes, .. }) => allocation.handle_data(bytes, now),
                    Output::Act(_) | Output::Event(_) => {}
                    Output::Wait(_) => break,
                }
            }
        }
        assert!(allocation.header(SocketAddr::from(PEER), 0, now).is_some(), "a channel stands");
        Self { allocation, now, asked: None }
    }

    fn drain(&mut self) {
        let mut packets = 0;
        loop {
            match self.allocation.poll_output() {
                Output::Act(packet) => {
                    packets += 1;
                    if let Ok(header) = Header::decode(&packet.into_bytes()) {
                        self.asked = Some(header);
                    }
                }
                Output::Event(Event::Failed(_) | Event::Moved(_) | Event::Closed | Event::Refused(..)) => {
                    panic!("without the key, somebody ended it")
                }
                Output::Event(_) => {}
                Output::Wait(_) => break,
            }
        }
        assert!(packets <= MOST_PACKETS, "{packets} packets for one input");
    }
}

/// Takes steps: a length, with its highest bit for an answer to our last request, and then that number of bytes.
fn hears(mut data: &[u8]) {
    let mut here = Deserted::new();
    let end = here.now + Duration::from_secs(500);
    while let Some((step, rest)) = data.split_first() {
        let (piece, rest) = rest.split_at(usize::from(step & 0x3f).min(rest.len()));
        data = rest;
        match (step >> 6, here.asked) {
            (0, _) => here.allocation.handle_data(piece.to_vec().into(), here.now),
            (1, _) if here.now < end => {
                here.now += Duration::from_secs(u64::from(step & 0x3f));
                here.allocation.handle_timeout(here.now);
            }
            (2, Some(asked)) => here.allocation.handle_data(refusal(&asked, piece).into(), here.now),
            _ => here.allocation.handle_doubt(here.now),
        }
        here.drain();
    }
    let peer = SocketAddr::from(PEER);
    assert!(here.allocation.lease().is_some());
    assert_eq!(here.allocation.send(peer, "data".into(), here.now), Ok::<_, Misuse>(()));
}

/// Returns an unsigned answer to our own request, as somebody on the path would make it.
fn refusal(asked: &Header, piece: &[u8]) -> Vec<u8> {
    let class = if piece.first().is_some_and(|byte| byte & 1 == 1) { Class::Success } else { Class::Error };
    let codes = [300, 400, 401, 403, 420, 437, 438, 441, 486, 500, 508];
    let code = codes[usize::from(piece.get(1).copied().unwrap_or_default()) % codes.len()];
    let text = |at: usize| String::from_utf8_lossy(piece.get(at..).unwrap_or_default()).into_owned();
    let message = Message::new(class, asked.method, asked.transaction)
        .with(Attribute::ErrorCode { code, reason: String::new() })
        .with(Attribute::Realm(if piece.len().is_multiple_of(2) { "example.org".into() } else { text(2) }))
        .with(Attribute::Nonce(text(3)))
        .with(Attribute::Lifetime(1))
        .with(Attribute::XorRelayedAddress(SocketAddr::from(([203, 0, 113, 6], 6))));
    message.encode(Transport::Udp).expect("short words")
}

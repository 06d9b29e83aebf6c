use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use p2p_core::attempt::AttemptId;
use p2p_core::peer::{Contents, Identity, PeerAddr};
use p2p_core::signal::{Body, Inbox, InboxConfig, InboxEvent, InboxLimits, Scribe, Signal, open};
use p2p_core::sim::epoch;
use p2p_core::sim::laws::drain;
use p2p_core::{Clock, Seed, UnixTime};

/// The secret of the peer that all signals here are for.
pub const RECEIVER: [u8; 32] = [100; 32];
/// The secrets of the peers that write them.
pub const SENDERS: [[u8; 32]; 3] = [[1; 32], [2; 32], [3; 32]];

/// The most bytes of an input that is taken as steps of an inbox, each of which may cost an opening. No signal is so
/// short.
const MOST_STEPS: usize = 48;

/// Reads signals in the clear and sealed signals, and runs an inbox under any order of good, old, repeated and bad
/// ones.
pub fn signal(data: &[u8]) {
    let receiver = Identity::from_bytes(RECEIVER);
    if data.len() <= MOST_STEPS {
        return live(receiver, data);
    }
    if let Ok(signal) = Signal::from_bytes(data) {
        assert_eq!(signal.from, signal.sender.id());
        assert_eq!(Signal::from_bytes(&signal.to_bytes()), Ok(signal));
    }
    if let Ok(signal) = open(&receiver, data) {
        assert_eq!(signal.to, receiver.id());
    }
}

fn clock() -> Clock {
    Clock::new(epoch(), UnixTime::from_secs(1_800_000_000))
}

/// Eight good signals of each sender, 20 s apart.
static GOOD: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let to = Identity::from_bytes(RECEIVER).id();
    let mut good = Vec::new();
    for secret in SENDERS {
        let identity = Identity::from_bytes(secret);
        let contents =
            Contents { brokers: Vec::new(), machine: None, interfaces: Vec::new(), issued: UnixTime(1) };
        let address = PeerAddr::sign(&identity, contents).expect("a small address");
        let mut scribe = Scribe::new(identity, clock(), Seed::new(secret));
        scribe.set_address(address).expect("its own address");
        for nth in 0..8 {
            let (ttl, now) = (Duration::from_secs(30), epoch() + Duration::from_secs(20 * nth));
            let sealed = scribe.write(to, AttemptId([9; 16]), Body::Bye, ttl, now);
            good.push(sealed.expect("a good signal").to_vec());
        }
    }
    good
});

/// Runs an inbox with little memory, in whose life each byte is a step. The lower five bits choose what comes in, and
/// the upper three the time until then.
fn live(identity: Identity, data: &[u8]) {
    let limits = InboxLimits { most_senders: 2, most_seen: 2, ..InboxLimits::default() };
    let config = InboxConfig { identity, clock: clock(), limits };
    let mut inbox = Inbox::new(config, Seed::from_u64(1), epoch());
    let mut delivered = BTreeSet::new();
    let mut now = epoch();
    for step in data {
        now += Duration::from_secs(u64::from(step >> 5) * 5);
        match GOOD.get(usize::from(step & 31)) {
            Some(good) => inbox.handle_sealed(u32::from(step & 1), good, now),
            None if step & 31 == 31 => {
                let off = u64::from(*step) * 2;
                inbox.handle_clock(Clock::new(epoch(), UnixTime::from_secs(1_799_999_700 + off)), now);
            }
            None => {
                let mut forged = GOOD[0].clone();
                forged[usize::from(*step)] ^= 1;
                inbox.handle_sealed(2, &forged, now);
            }
        }
        let drained = drain(&mut inbox);
        assert_eq!(drained.wait, None);
        for InboxEvent::Signal { signal, .. } in drained.events {
            assert!(delivered.insert((signal.from, signal.seq)), "{signal:?} came twice");
        }
    }
}

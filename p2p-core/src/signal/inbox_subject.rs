//! An [`Inbox`] for the laws and the fuzzer.

use std::sync::LazyLock;

use bytes::Bytes;

use super::*;
use crate::UnixTime;
use crate::attempt::AttemptId;
use crate::peer::{Contents, PeerAddr};
use crate::signal::seal::{seal, seal_bytes};
use crate::signal::{Body, SIZES};
use crate::sim::epoch;
use crate::sim::laws::{Dice, Subject};

/// An [`Inbox`] and all that brokers can bring it: signals of friends and strangers, good, old, repeated, damaged.
#[derive(Debug)]
pub struct InboxSubject(Inbox);

impl Subject for InboxSubject {
    type Machine = Inbox;

    fn new(mut seed: Seed, now: Instant) -> Self {
        // Opens little, so that the laws are checked quickly.
        let limits = InboxLimits { channel: Rate { per_second: 2, burst: 5 }, ..InboxLimits::default() };
        let limits = match seed.chance(0.5) {
            true => InboxLimits { most_senders: 2, most_seen: 2, ..limits },
            false => limits,
        };
        let config = InboxConfig { identity: identity(RECEIVER), clock: clock(0), limits };
        Self(Inbox::new(config, seed, now))
    }

    fn machine(&mut self) -> &mut Inbox {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let inbox = &mut self.0;
        let channel = dice.below(4) as u32;
        let good = dice.pick(&SIGNALS).map_or(&[][..], |signal| signal);
        match dice.below(10) {
            0..5 => inbox.handle_sealed(channel, good, now),
            5 => inbox.handle_sealed(channel, &good[..dice.below(512) as usize], now),
            6 => {
                let mut changed = good.to_vec();
                changed[dice.below(512) as usize] ^= 1 << dice.below(8);
                inbox.handle_sealed(channel, &changed, now);
            }
            7 => {
                let mut random = vec![0; *dice.pick(&SIZES).unwrap_or(&0)];
                dice.seed().fill(&mut random);
                inbox.handle_sealed(channel, &random, now);
            }
            8 => inbox.handle_clock(Clock::new(now, UnixTime(dice.number())), now),
            _ => inbox.handle_clock(clock(dice.below(200) as i64 - 100), now),
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

const RECEIVER: u64 = 1_000;

fn identity(number: u64) -> Identity {
    Identity::generate(&mut Seed::from_u64(number))
}

/// A clock that is this many seconds ahead (or, negative, behind).
fn clock(secs: i64) -> Clock {
    let unix = UnixTime::from_secs(1_800_000_000_u64.saturating_add_signed(secs));
    Clock::new(epoch() + Duration::from_secs(3_600), unix)
}

/// Signals of several senders, of which some are dated as nobody should.
static SIGNALS: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    let receiver = identity(RECEIVER).id();
    let signal = |number: u64, seq: u64, issued: UnixTime, lives: Duration| {
        let sender = identity(number);
        let contents = Contents {
            brokers: Vec::new(),
            machine: None,
            interfaces: Vec::new(),
            issued: UnixTime::from_secs(1),
        };
        let signal = Signal {
            from: sender.id(),
            to: receiver,
            attempt: AttemptId([7; 16]),
            seq,
            issued,
            expires: issued.after(lives),
            sender: PeerAddr::sign(&sender, contents).expect("a small address"),
            body: Body::Bye,
        };
        seal(&sender, &receiver, &signal, &mut Seed::from_u64(seq)).expect("a small signal")
    };
    let base = clock(0).unix(epoch() + Duration::from_secs(3_600));
    let mut all = Vec::new();
    for number in 1..5 {
        for nth in 0..6 {
            let issued = base.after(Duration::from_secs(nth * 20 + number));
            all.push(signal(number, nth * 7, issued, Duration::from_secs(10 + 40 * nth)));
        }
    }
    all.push(signal(RECEIVER, 1, base, Duration::from_secs(30)));
    let nonsense = seal_bytes(&identity(1), &receiver, vec![3; 50], &mut Seed::from_u64(1));
    all.push(nonsense.expect("few bytes"));
    all
});

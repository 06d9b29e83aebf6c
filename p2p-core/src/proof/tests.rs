//! Two proofs that talk over a virtual wire.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::attempt::{AttemptId, RefusalReason, Role};
use crate::peer::Identity;
use crate::sim::epoch;
use crate::sim::laws::drain;
use crate::{Machine, Seed};

const WITHIN: Duration = Duration::from_secs(3);
const ATTEMPT: AttemptId = AttemptId([7; 16]);

fn identity(number: u64) -> Identity {
    Identity::generate(&mut Seed::from_u64(number))
}

fn config(identity: &Identity, counterpart: Counterpart) -> ProofConfig {
    ProofConfig { identity: identity.clone(), counterpart, cipher: Cipher::Aes256Gcm, within: WITHIN }
}

/// One end, and what it sent and learned so far.
struct End {
    proof: Proof,
    events: Vec<Event>,
    hung_up: bool,
}

impl End {
    fn new(config: ProofConfig, seed: u64) -> Self {
        Self { proof: Proof::new(config, Seed::from_u64(seed), epoch()), events: Vec::new(), hung_up: false }
    }

    /// Returns the bytes that it wants to send.
    fn said(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        let drained = drain(&mut self.proof);
        self.events.extend(drained.events);
        for act in drained.acts {
            match act {
                Act::Send(bytes) => out.extend_from_slice(&bytes),
                Act::HangUp => self.hung_up = true,
            }
        }
        out.freeze()
    }
}

/// A caller and a called end, one of which dialled.
struct Pair {
    caller: End,
    called: End,
    caller_dialled: bool,
    /// True when the end that was dialled wishes a bare connection.
    listener_plain: bool,
}

impl Pair {
    fn new(caller_dialled: bool, adjust: impl Fn(&mut ProofConfig, &mut ProofConfig)) -> Self {
        let (anna, bert) = (identity(1), identity(2));
        let dialled = |peer, role| Counterpart::Dialled { peer, attempt: ATTEMPT, role, plain: false };
        let (mut a, mut b) = if caller_dialled {
            (config(&anna, dialled(bert.id(), Role::Caller)), config(&bert, Counterpart::Unknown))
        } else {
            (config(&anna, Counterpart::Unknown), config(&bert, dialled(anna.id(), Role::Answerer)))
        };
        adjust(&mut a, &mut b);
        Self { caller: End::new(a, 10), called: End::new(b, 11), caller_dialled, listener_plain: false }
    }

    fn listener(&mut self) -> &mut End {
        if self.caller_dialled { &mut self.called } else { &mut self.caller }
    }

    /// Carries bytes both ways, `chunk` at a time, until both are silent.
    fn talk(&mut self, chunk: usize, now: Instant) {
        loop {
            let (to_called, to_caller) = (self.caller.said(), self.called.said());
            if to_called.is_empty() && to_caller.is_empty() {
                return;
            }
            for (end, bytes) in [(&mut self.called, to_called), (&mut self.caller, to_caller)] {
                for part in bytes.chunks(chunk) {
                    assert_eq!(
                        end.proof.handle_bytes(part, now),
                        part.len(),
                        "stage {:?}",
                        end.proof.stage()
                    );
                }
            }
        }
    }

    fn run(&mut self, chunk: usize) {
        let now = epoch();
        self.talk(chunk, now);
        let claimed = self.listener().events.clone();
        assert!(matches!(claimed[..], [Event::Claimed(_)]), "{claimed:?}");
        let plain = self.listener_plain;
        self.listener().proof.welcome(plain, now).unwrap();
        self.talk(chunk, now);
        assert_eq!(self.caller.events.last(), Some(&Event::Proven));
        assert_ne!(self.called.events.last(), Some(&Event::Kept), "only Go keeps");
        self.caller.proof.go(now).unwrap();
        self.talk(chunk, now);
    }

    fn sessions(self) -> (Session, Session) {
        (self.caller.proof.into_session().unwrap(), self.called.proof.into_session().unwrap())
    }
}

#[test]
fn both_ends_agree_whoever_dialled_and_however_the_bytes_are_cut() {
    for caller_dialled in [true, false] {
        for chunk in [1, 3, 64, 4_096] {
            let mut pair = Pair::new(caller_dialled, |_, _| ());
            pair.run(chunk);
            let (caller, called) = pair.sessions();
            assert_eq!(caller.claim, Claim { peer: identity(2).id(), attempt: ATTEMPT, role: Role::Caller });
            assert_eq!(
                called.claim,
                Claim { peer: identity(1).id(), attempt: ATTEMPT, role: Role::Answerer }
            );
            assert_eq!(caller.send_key, called.receive_key);
            assert_eq!(caller.receive_key, called.send_key);
            assert_ne!(caller.send_key, caller.receive_key);
            assert_eq!(caller.binding, called.binding);
            assert!(!caller.plain && !called.plain);
        }
    }
}

#[test]
fn plain_takes_two_and_so_does_aes() {
    for (ours, theirs) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut pair = Pair::new(true, |caller, called| {
            let Counterpart::Dialled { plain, .. } = &mut caller.counterpart else { unreachable!() };
            *plain = ours;
            called.cipher = if theirs { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 };
        });
        pair.listener_plain = theirs;
        pair.run(4_096);
        let (caller, called) = pair.sessions();
        assert_eq!((caller.plain, called.plain), (ours && theirs, ours && theirs));
        assert_eq!(caller.cipher, called.cipher);
        assert_eq!(caller.cipher == Cipher::Aes256Gcm, theirs);
    }
}

#[test]
fn a_refusal_is_told() {
    let mut pair = Pair::new(true, |_, _| ());
    pair.talk(4_096, epoch());
    pair.called.proof.refuse(RefusalReason::Busy, epoch()).unwrap();
    pair.talk(4_096, epoch());
    assert_eq!(pair.caller.events, [Event::Failed(ProofError::Refused(RefusalReason::Busy))]);
    assert_eq!(pair.called.events.last(), Some(&Event::Failed(ProofError::Declined(RefusalReason::Busy))));
    assert!(pair.caller.hung_up && pair.called.hung_up);
}

#[test]
fn who_was_not_dialled_cannot_answer() {
    // The caller wants Bert (2), and reaches Carl (3).
    let mut pair = Pair::new(true, |_, called| called.identity = identity(3));
    pair.talk(4_096, epoch());
    assert_eq!(pair.called.events, [Event::Failed(ProofError::Stranger)]);
    assert!(pair.called.hung_up);
}

#[test]
fn our_own_listener_is_not_a_peer() {
    let mut pair = Pair::new(true, |_, _| ());
    let me = identity(1);
    let dialled = Counterpart::Dialled { peer: me.id(), attempt: ATTEMPT, role: Role::Caller, plain: false };
    pair.caller = End::new(config(&me, dialled), 3);
    assert!(pair.caller.said().is_empty());
    assert_eq!(pair.caller.events, [Event::Failed(ProofError::Ourselves)]);
}

#[test]
fn a_port_scanner_is_gone_at_once() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-OpenSSH\r\n", &[0; 64], &[0xff; 64]] {
        let mut end = End::new(config(&identity(1), Counterpart::Unknown), 1);
        let taken = end.proof.handle_bytes(garbage, epoch());
        end.said();
        assert_eq!(end.events, [Event::Failed(ProofError::Garbled)]);
        assert!(end.hung_up && taken <= garbage.len());
    }
}

#[test]
fn silence_ends_at_the_deadline() {
    for counterpart in [
        Counterpart::Unknown,
        Counterpart::Dialled { peer: identity(2).id(), attempt: ATTEMPT, role: Role::Caller, plain: false },
    ] {
        let mut end = End::new(config(&identity(1), counterpart), 1);
        end.said();
        end.proof.handle_timeout(epoch() + WITHIN - Duration::from_millis(1));
        assert!(end.said().is_empty() && end.events.is_empty());
        end.proof.handle_timeout(epoch() + WITHIN);
        end.said();
        assert_eq!(end.events, [Event::Failed(ProofError::TimedOut)]);
    }
}

#[test]
fn a_replayed_hello_goes_nowhere() {
    let mut pair = Pair::new(true, |_, _| ());
    let hello = pair.caller.said();
    // Mallory sends Anna's Hello again, to a new connection of Bert's.
    let mut again = End::new(config(&identity(2), Counterpart::Unknown), 99);
    again.proof.handle_bytes(&hello, epoch());
    again.said();
    assert!(matches!(again.events[..], [Event::Claimed(_)]));
    again.proof.welcome(false, epoch()).unwrap();
    again.said();
    // Without Anna's ephemeral secret Mallory can make no valid Go: neither her old one …
    pair.called.proof.handle_bytes(&hello, epoch());
    pair.called.said();
    pair.called.proof.welcome(false, epoch()).unwrap();
    pair.talk(4_096, epoch());
    pair.caller.proof.go(epoch()).unwrap();
    let go = pair.caller.said();
    again.proof.handle_bytes(&go, epoch());
    again.said();
    assert_eq!(again.events.last(), Some(&Event::Failed(ProofError::Stranger)));
}

#[test]
fn the_users_bytes_are_left_alone() {
    let mut pair = Pair::new(true, |_, _| ());
    pair.talk(4_096, epoch());
    pair.called.proof.welcome(false, epoch()).unwrap();
    pair.talk(4_096, epoch());
    pair.caller.proof.go(epoch()).unwrap();
    let mut bytes = pair.caller.said().to_vec();
    let go = bytes.len();
    bytes.extend_from_slice(b"hello from the user");
    assert_eq!(pair.called.proof.handle_bytes(&bytes, epoch()), go);
    pair.called.said();
    assert_eq!(pair.called.events.last(), Some(&Event::Kept));
}

#[test]
fn out_of_turn_is_an_error_and_harms_nothing() {
    let mut pair = Pair::new(true, |_, _| ());
    assert_eq!(pair.caller.proof.go(epoch()), Err(ProofError::OutOfTurn));
    assert_eq!(pair.caller.proof.welcome(false, epoch()), Err(ProofError::OutOfTurn));
    assert_eq!(pair.called.proof.refuse(RefusalReason::Busy, epoch()), Err(ProofError::OutOfTurn));
    pair.run(4_096);
    pair.sessions();
}

proptest! {
    #[test]
    fn a_flipped_bit_never_passes(caller_dialled: bool, at in 0usize..2_000, bit in 0u8..8) {
        let mut pair = Pair::new(caller_dialled, |_, _| ());
        let mut position = 0;
        let mut flip = |bytes: Bytes| {
            let mut bytes = bytes.to_vec();
            if (position..position + bytes.len()).contains(&at) {
                bytes[at - position] ^= 1 << bit;
            }
            position += bytes.len();
            bytes
        };
        for _ in 0..8 {
            let (a, b) = (flip(pair.caller.said()), flip(pair.called.said()));
            pair.called.proof.handle_bytes(&a, epoch());
            pair.caller.proof.handle_bytes(&b, epoch());
            let _ = pair.listener().proof.welcome(false, epoch());
            let _ = pair.caller.proof.go(epoch());
        }
        let harmed = at < position;
        let kept = pair.called.proof.stage() == Stage::Kept;
        prop_assert_eq!(kept, !harmed);
    }

    #[test]
    fn any_bytes_are_survived(dialled: bool, chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..8)) {
        let counterpart = match dialled {
            true => Counterpart::Dialled { peer: identity(2).id(), attempt: ATTEMPT, role: Role::Answerer, plain: false },
            false => Counterpart::Unknown,
        };
        let mut end = End::new(config(&identity(1), counterpart), 1);
        for chunk in chunks {
            prop_assert!(end.proof.handle_bytes(&chunk, epoch()) <= chunk.len());
            end.said();
        }
        prop_assert!(end.proof.stage() != Stage::Kept);
    }
}

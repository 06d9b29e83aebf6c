use std::time::Duration;

use p2p_core::attempt::{AttemptId, Role};
use p2p_core::peer::Identity;
use p2p_core::proof::{Act, Cipher, Claim, Counterpart, MOST_FRAME, Proof, ProofConfig, Session, Stage};
use p2p_core::sim::epoch;
use p2p_core::sim::laws::drain;
use p2p_core::{Machine, Seed};

/// The secret of the end that is dialled.
pub const LISTENER: [u8; 32] = [100; 32];
/// The secret of the end that dials.
pub const DIALLER: [u8; 32] = [1; 32];

const ATTEMPT: AttemptId = AttemptId([9; 16]);
/// The most frames of an altered transcript; a good one has three or four.
const MOST_FRAMES: usize = 16;

/// Runs one end alone with a stranger who sends these bytes, or two ends with somebody between them who changes
/// frames. The first byte chooses.
pub fn proof(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    match mode % 4 {
        0 => alone(listener(), data),
        1 => alone(dialler(Role::Caller), data),
        2 => altered(Role::Caller, data),
        _ => altered(Role::Answerer, data),
    }
}

/// Returns the first bytes that the dialler of the transcripts sends.
pub fn hello() -> Vec<u8> {
    said(&mut dialler(Role::Caller))
}

fn end(secret: [u8; 32], counterpart: Counterpart) -> Proof {
    let config = ProofConfig {
        identity: Identity::from_bytes(secret),
        counterpart,
        cipher: Cipher::ChaCha20Poly1305,
        within: Duration::from_secs(3),
    };
    Proof::new(config, Seed::new(secret), epoch())
}

fn listener() -> Proof {
    end(LISTENER, Counterpart::Unknown)
}

fn dialler(role: Role) -> Proof {
    let peer = Identity::from_bytes(LISTENER).id();
    end(DIALLER, Counterpart::Dialled { peer, attempt: ATTEMPT, role, plain: false })
}

/// Returns everything that the end has to send now.
fn said(proof: &mut Proof) -> Vec<u8> {
    let mut bytes = Vec::new();
    for act in drain(proof).acts {
        if let Act::Send(frame) = act {
            bytes.extend_from_slice(&frame);
        }
    }
    bytes
}

/// Decides for the owner: everybody is welcome, and the first proven connection is kept.
fn decide(proof: &mut Proof) {
    match proof.stage() {
        Stage::Deciding => proof.welcome(false, epoch()).expect("it is to be decided on"),
        Stage::Proven => proof.go(epoch()).expect("it is proven"),
        Stage::Hearing | Stage::Kept | Stage::Failed => {}
    }
}

fn alone(mut proof: Proof, data: &[u8]) {
    said(&mut proof);
    for chunk in data.chunks(1 + data.len() / 3) {
        let taken = proof.handle_bytes(chunk, epoch());
        assert!(taken <= chunk.len() && proof.wants() <= 2 + MOST_FRAME);
        decide(&mut proof);
        said(&mut proof);
    }
    assert_ne!(proof.stage(), Stage::Kept, "nobody has the secrets that it takes");
    proof.handle_timeout(epoch() + Duration::from_secs(3));
    assert_eq!(proof.stage(), Stage::Failed, "patience ends");
    assert_eq!(drain(&mut proof).wait, None);
}

/// Changes one frame as three bytes say. Returns true when it did.
fn alter(frame: &mut Vec<u8>, how: &[u8]) -> bool {
    let &[what, at, with] = how else { return false };
    let (before, at) = (frame.clone(), usize::from(at) % frame.len().max(1));
    match what % 8 {
        0 if at < frame.len() => frame[at] ^= with,
        1 => frame.truncate(at),
        2 => frame.insert(at, with),
        3 => frame.extend_from_within(..),
        4 => frame.clear(),
        5 => *frame = hello(),
        _ => {}
    }
    *frame != before
}

fn altered(role: Role, data: &[u8]) {
    let (mut here, mut there) = (dialler(role), listener());
    let mut changes = data.chunks(3);
    let mut is_altered = false;
    for number in 0..MOST_FRAMES {
        let (from, to) = if number % 2 == 0 { (&mut here, &mut there) } else { (&mut there, &mut here) };
        decide(from);
        let mut frame = said(from);
        if !frame.is_empty() {
            is_altered |= alter(&mut frame, changes.next().unwrap_or_default());
        }
        to.handle_bytes(&frame, epoch());
    }
    let (here, there) = (here.into_session(), there.into_session());
    if !is_altered {
        assert!(here.is_some() && there.is_some(), "nobody was between them");
    }
    let identity = |secret| Identity::from_bytes(secret).id();
    for (session, peer, role) in [(&here, LISTENER, role), (&there, DIALLER, role.other())] {
        if let Some(session) = session {
            assert_eq!(session.claim, Claim { peer: identity(peer), attempt: ATTEMPT, role });
        }
    }
    if let (Some(here), Some(there)) = (here, there) {
        agree(&here, &there);
    }
}

fn agree(here: &Session, there: &Session) {
    assert_eq!((here.binding, here.cipher, here.plain), (there.binding, there.cipher, there.plain));
    assert_eq!((here.send_key, here.receive_key), (there.receive_key, there.send_key));
}

//! The seal of signals, by which only the receiver can read and the sender is authenticated: Noise X.
//!
//! A sealed signal is one version byte and one Noise message. The prologue (a label, the version, the receiver's id)
//! is its associated data. So what was sealed for one purpose, version or receiver opens for no other. The receiver
//! alone learns the sender. The seal does not protect against replays, which is the task of the
//! [`Inbox`](super::Inbox). Whoever steals a receiver's key can open what was sealed to it before.
//!
//! The plaintext is padded with zeros until the whole has one of four [`SIZES`]. So a broker cannot tell a `Bye` from
//! a `DialMe`, nor count a peer's interfaces. Nearly all signals have the smallest size.

use bytes::Bytes;
use zeroize::Zeroizing;

use super::message::Signal;
use super::wire::{self, VERSION, WireError};
use crate::Seed;
use crate::noise;
use crate::peer::{Identity, PeerId};

/// The sizes a sealed signal may have, in bytes.
pub const SIZES: [usize; 4] = [512, 1_024, 2_048, 4_096];

/// The largest of [`SIZES`].
pub const MOST_SEALED: usize = SIZES[SIZES.len() - 1];

/// The bytes of a seal: the version byte, and what Noise adds.
const OVERHEAD: usize = 1 + noise::X_OVERHEAD;

/// A reason why a signal cannot be sealed. It is always the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The signal, or the address in it, is another peer's.
    #[error("a signal can only be sealed by the peer it comes from, with that peer's own address in it")]
    NotOurs,
    /// The signal is addressed to another peer than the receiver.
    #[error("a signal can only be sealed to the peer it is addressed to")]
    Receiver,
    /// The signal is larger than the largest size.
    #[error("a signal of {len} bytes is too big to be sealed: {} at most", MOST_SEALED - OVERHEAD)]
    TooBig {
        /// The length of the signal, in bytes.
        len: usize,
    },
}

/// A reason why sealed bytes are not a signal to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No sealed signal has this many bytes.
    #[error("{len} bytes are no sealed signal: it was cut off, or is something else")]
    Size {
        /// The number of bytes there are.
        len: usize,
    },
    /// The signal was sealed by a later version of this program.
    #[error(
        "sealed by version {version}, and only version {VERSION} is known here: one side must be updated"
    )]
    Version {
        /// The version of the seal.
        version: u8,
    },
    /// The seal does not fit the bytes.
    #[error("not sealed to us, or changed on the way")]
    Broken,
    /// The padding is not all zeros.
    #[error("the padding of a signal is not empty: the program that sealed it is at fault")]
    Padding,
    /// The plaintext is not a signal.
    #[error("sealed, but {0}")]
    Wire(#[from] WireError),
    /// The signal was sealed by another peer than the owner of the address in it.
    #[error("sealed by somebody else than the peer it claims to come from")]
    Sender,
    /// The signal is addressed to another peer.
    #[error("sealed to us, but addressed to somebody else")]
    Receiver,
}

fn prologue(receiver: &PeerId) -> Vec<u8> {
    [&b"p2p signal\0"[..], &[VERSION], receiver.as_bytes()].concat()
}

/// Seals `signal` to `receiver`.
///
/// # Errors
/// [`SealError`] when it is not `identity`'s own, not for `receiver`, or too big.
pub fn seal(
    identity: &Identity,
    receiver: &PeerId,
    signal: &Signal,
    seed: &mut Seed,
) -> Result<Bytes, SealError> {
    let ours = identity.id();
    if signal.from != ours || signal.sender.id() != ours {
        return Err(SealError::NotOurs);
    }
    if signal.to != *receiver {
        return Err(SealError::Receiver);
    }
    seal_bytes(identity, receiver, signal.to_bytes(), seed)
}

/// Seals any plaintext, as an honest sender does, and as a test forges.
pub(super) fn seal_bytes(
    identity: &Identity,
    receiver: &PeerId,
    mut plain: Vec<u8>,
    seed: &mut Seed,
) -> Result<Bytes, SealError> {
    let len = plain.len();
    let size = SIZES.into_iter().find(|size| len + OVERHEAD <= *size).ok_or(SealError::TooBig { len })?;
    plain.resize(size - OVERHEAD, 0);
    let mut sealed = vec![0; size];
    sealed[0] = VERSION;
    let written = noise::builder(noise::X, Some(seed.fork("seal")))
        .local_private_key(&*Zeroizing::new(identity.noise_secret()))
        .and_then(|builder| {
            builder
                .remote_public_key(&receiver.noise_public())?
                .prologue(&prologue(receiver))?
                .build_initiator()
        })
        .and_then(|mut handshake| handshake.write_message(&plain, &mut sealed[1..]))
        .expect("both keys have 32 bytes, the seed never runs dry, and there is room");
    debug_assert_eq!(written + 1, size);
    Ok(sealed.into())
}

/// Checks size and version, which is the cheap part of [`open`].
pub(super) fn check_envelope(sealed: &[u8]) -> Result<(), OpenError> {
    match sealed.first() {
        Some(&VERSION) if SIZES.contains(&sealed.len()) => Ok(()),
        Some(&version) if SIZES.contains(&sealed.len()) => Err(OpenError::Version { version }),
        _ => Err(OpenError::Size { len: sealed.len() }),
    }
}

/// Opens bytes that were sealed to `identity`, and proves that the sender of the signal sealed them.
///
/// # Errors
/// [`OpenError`]: not a sealed signal, not to us, changed on the way, or its sender lies about itself.
pub fn open(identity: &Identity, sealed: &[u8]) -> Result<Signal, OpenError> {
    check_envelope(sealed)?;
    let ours = identity.id();
    let mut handshake = noise::builder(noise::X, None)
        .local_private_key(&*Zeroizing::new(identity.noise_secret()))
        .and_then(|builder| builder.prologue(&prologue(&ours))?.build_responder())
        .expect("the key has 32 bytes");
    let mut plain = vec![0; sealed.len()];
    let len = handshake.read_message(&sealed[1..], &mut plain).map_err(|_| OpenError::Broken)?;
    plain.truncate(len);
    let (message, padding) = plain.split_at(wire::announced_size(&plain)?);
    if padding.iter().any(|byte| *byte != 0) {
        return Err(OpenError::Padding);
    }
    let signal = Signal::from_bytes(message)?;
    if handshake.get_remote_static() != Some(&signal.from.noise_public()) {
        return Err(OpenError::Sender);
    }
    if signal.to != ours {
        return Err(OpenError::Receiver);
    }
    Ok(signal)
}

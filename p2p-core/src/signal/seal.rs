//! Sealed to the receiver, authenticated by the sender: Noise X.
//!
//! A sealed signal is one version byte and one Noise message. The prologue (a label, the version, the
//! receiver's id) is its associated data: what was sealed for one purpose, version or receiver opens for no
//! other. The receiver alone learns who the sender is. There is no protection against replays in it, that is
//! the [`Inbox`](super::Inbox)'s part; and who steals a receiver's key can open what was sealed to it before.
//!
//! The plaintext is padded with zeros until the whole has one of four [`SIZES`], so a broker cannot tell a
//! `Bye` from a `DialMe`, nor count somebody's interfaces. Nearly all signals take the smallest.

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

/// The version byte and what Noise adds.
const OVERHEAD: usize = 1 + noise::X_OVERHEAD;

/// Why a signal cannot be sealed. Always the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// It, or the address in it, is somebody else's.
    #[error("a signal can only be sealed by the peer it comes from, with that peer's own address in it")]
    NotOurs,
    /// It is addressed to somebody other than the receiver.
    #[error("a signal can only be sealed to the peer it is addressed to")]
    Receiver,
    /// It does not fit.
    #[error("a signal of {len} bytes is too big to be sealed: {} at most", MOST_SEALED - OVERHEAD)]
    TooBig {
        /// Its length, in bytes.
        len: usize,
    },
}

/// Why sealed bytes are not a signal to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No sealed signal has this many bytes.
    #[error("{len} bytes are no sealed signal: it was cut off, or is something else")]
    Size {
        /// How many there are.
        len: usize,
    },
    /// Sealed by a later version of this program.
    #[error(
        "sealed by version {version}, and only version {VERSION} is known here: one side must be updated"
    )]
    Version {
        /// Its version.
        version: u8,
    },
    /// The seal does not fit.
    #[error("not sealed to us, or changed on the way")]
    Broken,
    /// The padding is not all zeros.
    #[error("the padding of a signal is not empty: the program that sealed it is at fault")]
    Padding,
    /// What was sealed is no signal.
    #[error("sealed, but {0}")]
    Wire(#[from] WireError),
    /// Sealed by somebody who is not the owner of the address in it.
    #[error("sealed by somebody else than the peer it claims to come from")]
    Sender,
    /// Addressed to somebody else.
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

/// Seals any plaintext: what an honest sender does, and what a test forges with.
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

/// The cheap part of [`open`]: size and version.
pub(super) fn check_envelope(sealed: &[u8]) -> Result<(), OpenError> {
    match sealed.first() {
        Some(&VERSION) if SIZES.contains(&sealed.len()) => Ok(()),
        Some(&version) if SIZES.contains(&sealed.len()) => Err(OpenError::Version { version }),
        _ => Err(OpenError::Size { len: sealed.len() }),
    }
}

/// Opens what was sealed to `identity`, and proves who sealed it.
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

//! The reasons for which a proof fails.

use crate::attempt::RefusalReason;

/// Why a proof failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// Not our protocol: a port scanner, another service, or a broken connection.
    #[error("what answered does not speak p2p")]
    Garbled,
    /// It does not know our key, or it is not the peer we dialled.
    #[error("whoever is there could not prove to be the right peer")]
    Stranger,
    /// We reached our own listener.
    #[error("the connection led back to ourselves")]
    Ourselves,
    /// The peer is there, and said no.
    #[error("the peer refused: {0}")]
    Refused(RefusalReason),
    /// We said no.
    #[error("we refused: {0}")]
    Declined(RefusalReason),
    /// Silence, or too slow.
    #[error("the other end did not finish the proof in time")]
    TimedOut,
    /// The connection ended.
    #[error("the connection was closed during the proof")]
    Lost,
    /// The owner called something the proof was not ready for.
    #[error("the proof was driven out of turn")]
    OutOfTurn,
}

codes!(ProofError {
    Self::Garbled => "proof_garbled",
    Self::Stranger => "proof_stranger",
    Self::Ourselves => "proof_ourselves",
    Self::Refused(_) => "refused",
    Self::Declined(_) => "declined",
    Self::TimedOut => "proof_timed_out",
    Self::Lost => "proof_lost",
    Self::OutOfTurn => "proof_out_of_turn",
});

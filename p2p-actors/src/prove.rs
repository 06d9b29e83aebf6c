//! Runs a proof on a connection.

use std::future::poll_fn;
use std::io::{ErrorKind, Result as IoResult};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use p2p_core::proof::{Act, Event, MOST_FRAME, Proof, ProofError, Stage};
use p2p_core::{Machine, Output};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::unconstrained;
use tokio::time::timeout_at;
use tracing::trace;

use crate::carrier::CarrierStream;
use crate::drive::now;

/// How long the last frame of a proof may wait for room in a connection that nothing else was written to.
const SAY_WITHIN: Duration = Duration::from_secs(3);

/// A connection and the proof that runs on it.
pub(crate) struct Proving<S = CarrierStream> {
    pub(crate) stream: S,
    pub(crate) proof: Proof,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Proving<S> {
    /// A proof on a fresh connection.
    pub(crate) fn new(stream: S, proof: Proof) -> Self {
        Self { stream, proof }
    }

    /// Goes on until the owner must decide, or until it is over. Never reads a byte too many.
    pub(crate) async fn advance(&mut self) -> Result<Stage, ProofError> {
        loop {
            let mut out = Vec::new();
            let mut failure = None;
            let deadline = loop {
                match self.proof.poll_output() {
                    Output::Act(Act::Send(bytes)) => out.extend_from_slice(&bytes),
                    Output::Act(Act::HangUp) => failure = failure.or(Some(ProofError::Lost)),
                    Output::Event(Event::Failed(error)) => failure = Some(error),
                    Output::Event(Event::Claimed(_) | Event::Proven | Event::Kept) => {}
                    Output::Wait(deadline) => break deadline,
                }
            };
            if !out.is_empty()
                && self.say(&out, failure.is_some(), deadline.map(|deadline| deadline.at)).await.is_err()
            {
                // Even a proof that is over is worth nothing when its last word did not go out.
                self.proof.handle_lost(now());
                return Err(failure.unwrap_or(ProofError::Lost));
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
            match self.proof.stage() {
                Stage::Hearing => self.hear(deadline.map(|deadline| deadline.at)).await,
                Stage::Failed => return Err(ProofError::Lost),
                stage @ (Stage::Deciding | Stage::Proven | Stage::Kept) => return Ok(stage),
            }
        }
    }

    /// Sends a frame. A last word is sent if the connection takes it, and not waited for.
    async fn say(&mut self, frame: &[u8], last: bool, deadline: Option<Instant>) -> IoResult<()> {
        if last {
            return self.say_at_once(frame).await;
        }
        let said = async {
            self.stream.write_all(frame).await?;
            self.stream.flush().await
        };
        let deadline = deadline.unwrap_or_else(|| now() + SAY_WITHIN);
        timeout_at(deadline.into(), said).await?
    }

    /// Sends what the connection takes without waiting: asks it once, whatever this task's budget for IO is.
    async fn say_at_once(&mut self, frame: &[u8]) -> IoResult<()> {
        let once = poll_fn(|cx| {
            let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, frame) else {
                return Poll::Ready(Err(ErrorKind::WouldBlock.into()));
            };
            // What a connection gathers is sent now or by itself; nobody stays to wait for it.
            let _ = Pin::new(&mut self.stream).poll_flush(cx);
            Poll::Ready(written.map(drop))
        });
        unconstrained(once).await
    }

    async fn hear(&mut self, deadline: Option<Instant>) {
        let mut buffer = [0; 2 + MOST_FRAME];
        let most = self.proof.wants().min(buffer.len());
        let read = self.stream.read(&mut buffer[..most]);
        let read = match deadline {
            Some(deadline) => timeout_at(deadline.into(), read).await,
            None => Ok(read.await),
        };
        match read {
            Ok(Ok(0)) => self.proof.handle_lost(now()),
            Ok(Ok(length)) => {
                self.proof.handle_bytes(&buffer[..length], now());
            }
            Ok(Err(error)) => {
                trace!(%error, "read during the proof");
                self.proof.handle_lost(now());
            }
            Err(_) => self.proof.handle_timeout(now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use p2p_core::Seed;
    use p2p_core::attempt::{AttemptId, RefusalReason, Role};
    use p2p_core::peer::Identity;
    use p2p_core::proof::{Cipher, Counterpart, ProofConfig};
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn proving(number: u64, stream: DuplexStream, counterpart: Counterpart) -> Proving<DuplexStream> {
        let config = ProofConfig {
            identity: identity(number),
            counterpart,
            cipher: Cipher::ChaCha20Poly1305,
            within: Duration::from_secs(3),
        };
        Proving::new(stream, Proof::new(config, Seed::from_u64(number), now()))
    }

    fn identity(number: u64) -> Identity {
        Identity::generate(&mut Seed::from_u64(number))
    }

    fn pair(room: usize) -> (Proving<DuplexStream>, Proving<DuplexStream>) {
        let (a, b) = duplex(room);
        let (peer, attempt) = (identity(2).id(), AttemptId([7; 16]));
        let dialled = Counterpart::Dialled { peer, attempt, role: Role::Caller, plain: false };
        (proving(1, a, dialled), proving(2, b, Counterpart::Unknown))
    }

    #[tokio::test]
    async fn a_proof_runs_on_any_stream_and_leaves_the_users_bytes_alone() {
        let (mut caller, mut called) = pair(16);
        let call = async {
            assert_eq!(caller.advance().await, Ok(Stage::Proven));
            caller.proof.go(now()).unwrap();
            assert_eq!(caller.advance().await, Ok(Stage::Kept));
            caller.stream.write_all(b"first").await.unwrap();
        };
        let answer = async {
            assert_eq!(called.advance().await, Ok(Stage::Deciding));
            called.proof.welcome(false, now()).unwrap();
            assert_eq!(called.advance().await, Ok(Stage::Kept));
            let mut first = [0; 5];
            called.stream.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"first");
        };
        tokio::join!(call, answer);
        let (ours, theirs) = (caller.proof.into_session().unwrap(), called.proof.into_session().unwrap());
        assert_eq!(ours.binding, theirs.binding);
    }

    #[tokio::test]
    async fn a_last_word_goes_out_if_there_is_room_and_is_never_waited_for() {
        for room in [true, false] {
            let (mut caller, mut called) = pair(1_000);
            let introduced = async {
                tokio::select! {
                    biased;
                    stage = called.advance() => stage,
                    _ = caller.advance() => unreachable!("nothing was answered"),
                }
            };
            assert_eq!(introduced.await, Ok(Stage::Deciding));
            if !room {
                called.stream.write_all(&[0; 1_000]).await.unwrap();
            }
            called.proof.refuse(RefusalReason::Busy, now()).unwrap();
            assert_eq!(called.advance().now_or_never(), Some(Err(ProofError::Declined(RefusalReason::Busy))));
            if room {
                assert_eq!(caller.advance().await, Err(ProofError::Refused(RefusalReason::Busy)));
            }
        }
    }
}

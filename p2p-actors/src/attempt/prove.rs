//! Runs a proof on a socket.

use std::time::{Duration, Instant};

use p2p_core::proof::{Act, Event, MOST_FRAME, Proof, ProofError, Stage};
use p2p_core::{Machine, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tracing::trace;

use crate::drive::now;

/// How long the last frame of a proof may wait for room in a socket that nothing else was written to.
const SAY_WITHIN: Duration = Duration::from_secs(3);

/// A connection and the proof that runs on it.
pub(crate) struct Proving {
    pub(crate) stream: TcpStream,
    pub(crate) proof: Proof,
}

impl Proving {
    /// A proof on a fresh connection. Small frames must not wait for each other.
    pub(crate) fn new(stream: TcpStream, proof: Proof) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            trace!(%error, "TCP_NODELAY");
        }
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

    /// Sends a frame. A last word is sent if the socket takes it, and not waited for.
    async fn say(&mut self, frame: &[u8], last: bool, deadline: Option<Instant>) -> std::io::Result<()> {
        if last {
            return self.stream.try_write(frame).map(|_| ());
        }
        let deadline = deadline.unwrap_or_else(|| now() + SAY_WITHIN);
        timeout_at(deadline.into(), self.stream.write_all(frame)).await?
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

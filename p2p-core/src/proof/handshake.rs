//! The machine that runs a proof.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use snow::{HandshakeState, TransportState};
use zeroize::Zeroizing;

use super::session::{Claim, data_key};
use super::wire::{self, Hello, Welcome, Wish, Word};
use super::{Cipher, MOST_FRAME, ProofError, Session};
use crate::attempt::{AttemptId, RefusalReason, Role};
use crate::noise::{IK, builder};
use crate::peer::{Identity, PeerId};
use crate::{Deadline, Machine, Output, Seed};

/// The most time for a proof, whatever the configuration says.
const MOST_WITHIN: Duration = Duration::from_secs(3_600);
const LABEL: &[u8] = b"p2p/2 proof";

/// Binds the handshake to the id of the one who was dialled: that and its negative have one X25519 key. The dialler's is in
/// the first payload, which the handshake binds as well.
fn prologue(dialled: &PeerId) -> Vec<u8> {
    [LABEL, dialled.as_bytes()].concat()
}

/// The configuration of one end of a proof.
#[derive(Clone, Debug)]
pub struct ProofConfig {
    /// The identity of this node.
    pub identity: Identity,
    /// The peer expected at the other end, if we dialled.
    pub counterpart: Counterpart,
    /// The cipher that is fast on this machine.
    pub cipher: Cipher,
    /// The time for the whole proof. A legitimate peer needs two round trips and under a millisecond of arithmetic. 3
    /// s is right for the Internet; an hour is the most.
    pub within: Duration,
}

/// The peer that is expected at the other end.
#[derive(Clone, Copy, Debug)]
pub enum Counterpart {
    /// We dialled, so the other end must be this peer.
    Dialled {
        /// The peer that must prove itself.
        peer: PeerId,
        /// The attempt the connection is for.
        attempt: AttemptId,
        /// Our part in the attempt.
        role: Role,
        /// True when we wish the bare TCP connection after the proof. Both ends must wish it.
        plain: bool,
    },
    /// Somebody dialled us. The owner decides when the claim is known.
    Unknown,
}

/// An effect that a proof wants done to its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends these bytes.
    Send(Bytes),
    /// Closes the connection, after sending all bytes before it. It follows [`Event::Failed`].
    HangUp,
}

/// An event of a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer that dialled us has made its claim. The owner answers with [`Proof::welcome`] or [`Proof::refuse`].
    Claimed(Claim),
    /// The other end is the right peer, and alive. We are the caller, so the owner calls [`Proof::go`] or closes.
    Proven,
    /// Both ends keep this connection. The owner takes [`Proof::into_session`]. Later bytes on the connection belong
    /// to the pipe.
    Kept,
    /// The proof has failed.
    Failed(ProofError),
}

/// The stage that a proof has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The proof waits for the other end's next frame.
    Hearing,
    /// The proof waits for the owner's [`Proof::welcome`] or [`Proof::refuse`].
    Deciding,
    /// The proof waits for the owner's [`Proof::go`].
    Proven,
    /// The proof is over and the connection is kept.
    Kept,
    /// The proof is over and has failed.
    Failed,
}

/// The claim that a responder decides on, and the state that its answer needs.
struct Pending {
    noise: Box<HandshakeState>,
    claim: Claim,
    wish: Wish,
}

/// A finished handshake.
struct Settled {
    noise: Box<TransportState>,
    session: Box<Session>,
}

enum State {
    /// We dialled and sent Hello.
    AwaitWelcome {
        noise: Box<HandshakeState>,
        peer: PeerId,
        attempt: AttemptId,
        role: Role,
    },
    /// We were dialled and wait for Hello.
    AwaitHello {
        seed: Box<Seed>,
    },
    /// The other end has made its claim.
    Deciding(Pending),
    /// We are the caller and were dialled, so we wait for Ready as a sign of life.
    AwaitReady(Settled),
    /// We are the caller, and the other end is proven.
    Proven(Settled),
    /// We are the called end and wait for Go.
    AwaitGo(Settled),
    Kept(Box<Session>),
    Failed,
    /// A step is being taken. This state is never seen from outside.
    Stepping,
}

/// One end of a proof.
pub struct Proof {
    identity: Identity,
    wish: Wish,
    state: State,
    input: BytesMut,
    output: VecDeque<Output<Act, Event>>,
    deadline: Instant,
}

/// Never shows a key.
impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proof").field("stage", &self.stage()).finish_non_exhaustive()
    }
}

impl Proof {
    /// Starts a proof on a connection that was just made.
    pub fn new(config: ProofConfig, mut seed: Seed, now: Instant) -> Self {
        let plain = matches!(config.counterpart, Counterpart::Dialled { plain: true, .. });
        let wish = Wish { plain, cipher: config.cipher };
        let mut proof = Self {
            identity: config.identity,
            wish,
            state: State::Stepping,
            input: BytesMut::new(),
            output: VecDeque::new(),
            deadline: now + config.within.min(MOST_WITHIN),
        };
        let begun = match config.counterpart {
            Counterpart::Dialled { peer, attempt, role, .. } => {
                proof.say_hello(peer, attempt, role, &mut seed)
            }
            Counterpart::Unknown => Ok(State::AwaitHello { seed: Box::new(seed) }),
        };
        match begun {
            Ok(state) => proof.state = state,
            Err(error) => proof.fail(error),
        }
        proof
    }

    /// Returns the least number of bytes that the proof is waiting for. A reader that takes no more than this leaves
    /// all bytes of the user's for the pipe. It is zero while it is not the other end's turn.
    pub fn wants(&self) -> usize {
        if self.stage() != Stage::Hearing {
            return 0;
        }
        let length = match self.input.first_chunk::<2>() {
            Some(length) => 2 + usize::from(u16::from_be_bytes(*length)),
            None => 2,
        };
        length - self.input.len()
    }

    /// Returns the stage of the proof.
    pub fn stage(&self) -> Stage {
        match self.state {
            State::AwaitWelcome { .. }
            | State::AwaitHello { .. }
            | State::AwaitReady(_)
            | State::AwaitGo(_) => Stage::Hearing,
            State::Deciding(_) => Stage::Deciding,
            State::Proven(_) => Stage::Proven,
            State::Kept(_) => Stage::Kept,
            State::Failed | State::Stepping => Stage::Failed,
        }
    }

    /// Returns the claim of the other end, while that is to be decided on.
    pub fn claim(&self) -> Option<Claim> {
        match &self.state {
            State::Deciding(pending) => Some(pending.claim),
            _ => None,
        }
    }

    /// Takes bytes that arrived, and returns the number taken. The rest belongs to a later stage, or to the pipe.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) -> usize {
        self.handle_timeout(now);
        let mut taken = 0;
        while self.wants() > 0 && taken < bytes.len() {
            let some = self.wants().min(bytes.len() - taken);
            self.input.extend_from_slice(&bytes[taken..taken + some]);
            taken += some;
            if let Err(error) = self.on_input() {
                self.fail(error);
            }
        }
        taken
    }

    /// Notes that the connection ended.
    pub fn handle_lost(&mut self, _now: Instant) {
        self.fail(ProofError::Lost);
    }

    /// Accepts the claim; `plain` is true if we wish the bare TCP connection after the proof.
    ///
    /// # Errors
    /// [`ProofError::OutOfTurn`] when there is no claim to decide on.
    pub fn welcome(&mut self, plain: bool, now: Instant) -> Result<(), ProofError> {
        self.handle_timeout(now);
        let pending = self.take_pending()?;
        self.wish.plain = plain;
        let their_wish = pending.wish;
        match self.answer(pending, &Welcome::Yes(self.wish)) {
            Ok((noise, claim)) => self.on_agreed(noise, claim, their_wish),
            Err(error) => self.fail(error),
        }
        Ok(())
    }

    /// Declines the claim, and tells the other end the reason.
    ///
    /// # Errors
    /// [`ProofError::OutOfTurn`] when there is no claim to decide on.
    pub fn refuse(&mut self, reason: RefusalReason, now: Instant) -> Result<(), ProofError> {
        self.handle_timeout(now);
        let pending = self.take_pending()?;
        let error = self.answer(pending, &Welcome::No(reason)).err();
        self.fail(error.unwrap_or(ProofError::Declined(reason)));
        Ok(())
    }

    /// Keeps this connection. Only the caller can, and only once it is proven.
    ///
    /// # Errors
    /// [`ProofError::OutOfTurn`] when it is not proven, or we are not the caller.
    pub fn go(&mut self, now: Instant) -> Result<(), ProofError> {
        self.handle_timeout(now);
        match std::mem::replace(&mut self.state, State::Stepping) {
            State::Proven(settled) => {
                if let Err(error) = self.say(settled, Word::Go).map(|settled| self.keep(settled)) {
                    self.fail(error);
                }
                Ok(())
            }
            other => {
                self.state = other;
                Err(ProofError::OutOfTurn)
            }
        }
    }

    /// Ends the proof silently. A connection that was not kept is closed.
    pub fn close(&mut self, _now: Instant) {
        if !matches!(self.stage(), Stage::Kept | Stage::Failed) {
            self.state = State::Failed;
            self.output.push_back(Output::Act(Act::HangUp));
        }
    }

    /// Returns the session, once the proof is [`Stage::Kept`].
    pub fn into_session(self) -> Option<Session> {
        match self.state {
            State::Kept(session) => Some(*session),
            _ => None,
        }
    }

    fn say_hello(
        &mut self,
        peer: PeerId,
        attempt: AttemptId,
        role: Role,
        seed: &mut Seed,
    ) -> Result<State, ProofError> {
        if peer == self.identity.id() {
            return Err(ProofError::Ourselves);
        }
        let (secret, key) = (Zeroizing::new(self.identity.noise_secret()), peer.noise_public());
        let prologue = prologue(&peer);
        let mut noise = builder(IK, Some(seed.fork("proof")))
            .local_private_key(&*secret)
            .and_then(|builder| builder.remote_public_key(&key)?.prologue(&prologue)?.build_initiator())
            .map_err(|_| ProofError::Stranger)?;
        let hello = Hello { from: self.identity.id(), to: peer, attempt, role, wish: self.wish };
        let message = write(&mut noise, &hello)?;
        self.send(&wire::knock(&peer, &message));
        Ok(State::AwaitWelcome { noise: Box::new(noise), peer, attempt, role })
    }

    /// Takes one frame if it is whole.
    fn on_input(&mut self) -> Result<(), ProofError> {
        let Some(length) = self.input.first_chunk::<2>() else {
            return Ok(());
        };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 || length > MOST_FRAME {
            return Err(ProofError::Garbled);
        }
        if self.input.len() < 2 + length {
            return Ok(());
        }
        let frame = std::mem::take(&mut self.input).freeze();
        self.on_frame(&frame[2..])
    }

    fn on_frame(&mut self, body: &[u8]) -> Result<(), ProofError> {
        match std::mem::replace(&mut self.state, State::Stepping) {
            State::AwaitHello { seed } => self.on_hello(*seed, body),
            State::AwaitWelcome { mut noise, peer, attempt, role } => {
                match read::<Welcome>(&mut noise, body)? {
                    Welcome::No(reason) => Err(ProofError::Refused(reason)),
                    Welcome::Yes(wish) => {
                        let claim = Claim { peer, attempt, caller: role == Role::Caller };
                        self.on_agreed(noise, claim, wish);
                        Ok(())
                    }
                }
            }
            State::AwaitReady(settled) => {
                let settled = hear(settled, body, Word::Ready)?;
                self.state = State::Proven(settled);
                self.output.push_back(Output::Event(Event::Proven));
                Ok(())
            }
            State::AwaitGo(settled) => {
                let settled = hear(settled, body, Word::Go)?;
                self.keep(settled);
                Ok(())
            }
            other => {
                self.state = other;
                Err(ProofError::Garbled)
            }
        }
    }

    /// Checks the code in the first frame before any key is touched, so strangers cost one hash.
    fn on_hello(&mut self, mut seed: Seed, body: &[u8]) -> Result<(), ProofError> {
        let me = self.identity.id();
        let message = wire::open_door(&me, body)?;
        let (secret, prologue) = (Zeroizing::new(self.identity.noise_secret()), prologue(&me));
        let mut noise = builder(IK, Some(seed.fork("proof")))
            .local_private_key(&*secret)
            .and_then(|builder| builder.prologue(&prologue)?.build_responder())
            .map_err(|_| ProofError::Garbled)?;
        let hello: Hello = read(&mut noise, message)?;
        if hello.to != me || noise.get_remote_static() != Some(&hello.from.noise_public()[..]) {
            return Err(ProofError::Stranger);
        }
        if hello.from == me {
            return Err(ProofError::Ourselves);
        }
        let claim = Claim { peer: hello.from, attempt: hello.attempt, caller: hello.role == Role::Answerer };
        self.state = State::Deciding(Pending { noise: Box::new(noise), claim, wish: hello.wish });
        self.output.push_back(Output::Event(Event::Claimed(claim)));
        Ok(())
    }

    fn take_pending(&mut self) -> Result<Pending, ProofError> {
        match std::mem::replace(&mut self.state, State::Stepping) {
            State::Deciding(pending) => Ok(pending),
            other => {
                self.state = other;
                Err(ProofError::OutOfTurn)
            }
        }
    }

    fn answer(
        &mut self,
        pending: Pending,
        welcome: &Welcome,
    ) -> Result<(Box<HandshakeState>, Claim), ProofError> {
        let Pending { mut noise, claim, .. } = pending;
        let message = write(&mut noise, welcome)?;
        self.send(&message);
        Ok((noise, claim))
    }

    /// Derives the keys after both handshake messages, and finds out whose turn it is.
    fn on_agreed(&mut self, mut noise: Box<HandshakeState>, claim: Claim, theirs: Wish) {
        let Ok(binding) = noise.get_handshake_hash().try_into() else {
            return self.fail(ProofError::Garbled);
        };
        let (from_initiator, from_responder) = noise.dangerously_get_raw_split();
        let (from_initiator, from_responder) =
            (Zeroizing::new(from_initiator), Zeroizing::new(from_responder));
        let (send, receive) = if noise.is_initiator() {
            (from_initiator, from_responder)
        } else {
            (from_responder, from_initiator)
        };
        let session = Box::new(Session {
            claim,
            plain: self.wish.plain && theirs.plain,
            cipher: Cipher::common(self.wish.cipher, theirs.cipher),
            send_key: data_key(&send),
            receive_key: data_key(&receive),
            binding,
        });
        let we_dialled = noise.is_initiator();
        let Ok(noise) = noise.into_transport_mode() else {
            return self.fail(ProofError::Garbled);
        };
        let settled = Settled { noise: Box::new(noise), session };
        match (claim.caller, we_dialled) {
            (true, true) => {
                self.state = State::Proven(settled);
                self.output.push_back(Output::Event(Event::Proven));
            }
            (true, false) => self.state = State::AwaitReady(settled),
            (false, true) => match self.say(settled, Word::Ready) {
                Ok(settled) => self.state = State::AwaitGo(settled),
                Err(error) => self.fail(error),
            },
            (false, false) => self.state = State::AwaitGo(settled),
        }
    }

    fn say(&mut self, mut settled: Settled, word: Word) -> Result<Settled, ProofError> {
        let mut message = [0; MOST_FRAME];
        let length = settled
            .noise
            .write_message(&wire::encode(&word)?, &mut message)
            .map_err(|_| ProofError::Garbled)?;
        self.send(&message[..length]);
        Ok(settled)
    }

    fn send(&mut self, body: &[u8]) {
        self.output.push_back(Output::Act(Act::Send(wire::frame(body))));
    }

    fn keep(&mut self, settled: Settled) {
        self.state = State::Kept(settled.session);
        self.output.push_back(Output::Event(Event::Kept));
    }

    fn fail(&mut self, error: ProofError) {
        if !matches!(self.state, State::Kept(_) | State::Failed) {
            self.state = State::Failed;
            self.output.push_back(Output::Event(Event::Failed(error)));
            self.output.push_back(Output::Act(Act::HangUp));
        }
    }
}

impl Machine for Proof {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        if now >= self.deadline {
            self.fail(ProofError::TimedOut);
        }
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        let over = matches!(self.stage(), Stage::Kept | Stage::Failed);
        self.output.pop_front().unwrap_or_else(|| {
            Output::Wait((!over).then(|| Deadline::new(self.deadline, "the proof must be over")))
        })
    }
}

/// Returns the next handshake message with `payload` in it.
fn write<T: serde::Serialize>(noise: &mut HandshakeState, payload: &T) -> Result<Vec<u8>, ProofError> {
    let mut message = [0; MOST_FRAME];
    let length =
        noise.write_message(&wire::encode(payload)?, &mut message).map_err(|_| ProofError::Garbled)?;
    Ok(message[..length].to_vec())
}

/// Returns the payload of a handshake message. An end that cannot make one that decrypts is a stranger.
fn read<T: serde::de::DeserializeOwned>(noise: &mut HandshakeState, message: &[u8]) -> Result<T, ProofError> {
    let mut payload = [0; MOST_FRAME];
    let length = noise.read_message(message, &mut payload).map_err(|_| ProofError::Stranger)?;
    wire::decode(&payload[..length])
}

fn hear(mut settled: Settled, body: &[u8], expected: Word) -> Result<Settled, ProofError> {
    let mut payload = [0; MOST_FRAME];
    let length = settled.noise.read_message(body, &mut payload).map_err(|_| ProofError::Stranger)?;
    if wire::decode::<Word>(&payload[..length])? == expected { Ok(settled) } else { Err(ProofError::Garbled) }
}

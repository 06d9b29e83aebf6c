//! The machine that runs a proof.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use snow::{HandshakeState, TransportState};

use super::session::{Claim, data_key};
use super::wire::{self, Hello, Welcome, Wish, Word};
use super::{Cipher, MOST_FRAME, ProofError, Session};
use crate::attempt::{AttemptId, RefusalReason, Role};
use crate::noise::{IK, builder};
use crate::peer::{Identity, PeerId};
use crate::{Deadline, Machine, Output, Seed};

/// No proof may take longer, whatever the configuration says.
const MOST_WITHIN: Duration = Duration::from_secs(3_600);
const PROLOGUE: &[u8] = b"p2p/1 proof";

/// What one end brings to a proof.
#[derive(Clone, Debug)]
pub struct ProofConfig {
    /// Who we are.
    pub identity: Identity,
    /// Whether we dialled.
    pub counterpart: Counterpart,
    /// The cipher that is fast on this machine.
    pub cipher: Cipher,
    /// How long all of it may take. A legitimate peer needs two round trips and under a millisecond of
    /// arithmetic; 3 s is right for the Internet; an
    /// hour is the most.
    pub within: Duration,
}

/// Whom we expect at the other end.
#[derive(Clone, Copy, Debug)]
pub enum Counterpart {
    /// We dialled: it must be this peer, and we are this in this attempt.
    Dialled {
        /// The peer that must prove itself.
        peer: PeerId,
        /// The attempt the connection is for.
        attempt: AttemptId,
        /// Our part in the attempt.
        role: Role,
        /// Whether we wish the bare TCP connection after the proof. It takes both ends to wish it.
        plain: bool,
    },
    /// Somebody dialled us: the owner decides when the claim is known.
    Unknown,
}

/// What a proof wants done to its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Send these bytes.
    Send(Bytes),
    /// Close the connection: after [`Event::Failed`], and after sending what was said before.
    HangUp,
}

/// What a proof has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody who dialled us says who they are. Answer with [`Proof::welcome`] or [`Proof::refuse`].
    Claimed(Claim),
    /// The other end is who it should be, and alive. We are the caller: say [`Proof::go`], or close.
    Proven,
    /// This is the connection both ends keep: take [`Proof::into_session`]. What comes next on it belongs to
    /// the pipe.
    Kept,
    /// It is over.
    Failed(ProofError),
}

/// How far a proof is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for the other end's next frame.
    Hearing,
    /// Waiting for the owner's [`Proof::welcome`] or [`Proof::refuse`].
    Deciding,
    /// Waiting for the owner's [`Proof::go`].
    Proven,
    /// Over, and won.
    Kept,
    /// Over, and lost.
    Failed,
}

/// What a responder decided on, and what it needs to answer.
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
    /// We dialled and said Hello.
    AwaitWelcome {
        noise: Box<HandshakeState>,
        peer: PeerId,
        attempt: AttemptId,
        role: Role,
    },
    /// Somebody dialled us.
    AwaitHello {
        seed: Box<Seed>,
    },
    /// They said who they are.
    Deciding(Pending),
    /// We are the caller and were dialled: are they alive?
    AwaitReady(Settled),
    /// We are the caller, they are who they should be.
    Proven(Settled),
    /// We are the called one: is this the connection?
    AwaitGo(Settled),
    Kept(Box<Session>),
    Failed,
    /// While a step is being taken; never seen from outside.
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

    /// How many bytes the proof is waiting for, at least. Who reads no more than this from the connection
    /// leaves every byte of the user's for the pipe. Zero while it is not the other end's turn.
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

    /// How far it is.
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

    /// Who the other end says it is, while that is to be decided on.
    pub fn claim(&self) -> Option<Claim> {
        match &self.state {
            State::Deciding(pending) => Some(pending.claim),
            _ => None,
        }
    }

    /// Bytes arrived. Answers how many were taken: the rest belongs to a later stage, or to the pipe.
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

    /// The connection ended.
    pub fn handle_lost(&mut self, _now: Instant) {
        self.fail(ProofError::Lost);
    }

    /// Accepts the claim; `plain` if we wish the bare TCP connection after the proof.
    ///
    /// # Errors
    /// When there is no claim to decide on.
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

    /// Declines the claim, and tells the other end why.
    ///
    /// # Errors
    /// When there is no claim to decide on.
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
    /// When it is not proven, or not ours to say.
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

    /// Ends the proof, silently. A connection that was not kept is closed.
    pub fn close(&mut self, _now: Instant) {
        if !matches!(self.stage(), Stage::Kept | Stage::Failed) {
            self.state = State::Failed;
            self.output.push_back(Output::Act(Act::HangUp));
        }
    }

    /// What the proof was for, once it is [`Stage::Kept`].
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
        let (secret, key) = (self.identity.noise_secret(), peer.noise_public());
        let mut noise = builder(IK, Some(seed.fork("proof")))
            .local_private_key(&secret)
            .and_then(|builder| builder.remote_public_key(&key)?.prologue(PROLOGUE)?.build_initiator())
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
                        let claim = Claim { peer, attempt, role };
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

    /// No key is touched before the code at the door is right: strangers cost one hash.
    fn on_hello(&mut self, mut seed: Seed, body: &[u8]) -> Result<(), ProofError> {
        let me = self.identity.id();
        let message = wire::open_door(&me, body)?;
        let secret = self.identity.noise_secret();
        let mut noise = builder(IK, Some(seed.fork("proof")))
            .local_private_key(&secret)
            .and_then(|builder| builder.prologue(PROLOGUE)?.build_responder())
            .map_err(|_| ProofError::Garbled)?;
        let hello: Hello = read(&mut noise, message)?;
        let static_key = noise.get_remote_static().unwrap_or_default();
        if hello.to != me || hello.from.noise_public() != static_key {
            return Err(ProofError::Stranger);
        }
        if hello.from == me {
            return Err(ProofError::Ourselves);
        }
        let claim = Claim { peer: hello.from, attempt: hello.attempt, role: hello.role.other() };
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

    /// Both handshake messages are through: derive the keys, and find out whose turn it is.
    fn on_agreed(&mut self, mut noise: Box<HandshakeState>, claim: Claim, theirs: Wish) {
        let binding = noise.get_handshake_hash().try_into().unwrap_or_default();
        let (from_initiator, from_responder) = noise.dangerously_get_raw_split();
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
        match (claim.role, we_dialled) {
            (Role::Caller, true) => {
                self.state = State::Proven(settled);
                self.output.push_back(Output::Event(Event::Proven));
            }
            (Role::Caller, false) => self.state = State::AwaitReady(settled),
            (Role::Answerer, true) => match self.say(settled, Word::Ready) {
                Ok(settled) => self.state = State::AwaitGo(settled),
                Err(error) => self.fail(error),
            },
            (Role::Answerer, false) => self.state = State::AwaitGo(settled),
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

/// The next handshake message with `payload` in it.
fn write<T: serde::Serialize>(noise: &mut HandshakeState, payload: &T) -> Result<Vec<u8>, ProofError> {
    let mut message = [0; MOST_FRAME];
    let length =
        noise.write_message(&wire::encode(payload)?, &mut message).map_err(|_| ProofError::Garbled)?;
    Ok(message[..length].to_vec())
}

/// The payload of a handshake message. Whoever cannot make one that decrypts is a stranger.
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

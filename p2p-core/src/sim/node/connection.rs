//! The connections a node knows by number, and those that its user has.

use std::time::Instant;

use bytes::Bytes;

use crate::attempt::AttemptId;
use crate::node::{ConnectionId, ConnectionInfo, Established, Owner};
use crate::proof::Session;
use crate::sim::tcp::TcpSocket;
use crate::sim::world::Context;

/// What carries the bytes of a connection.
#[derive(Clone, Debug)]
pub(super) enum ConnectionLine {
    /// A TCP connection, or a dial that is to lead to one; and what came before it was anybody's to read.
    Tcp { socket: TcpSocket, early: Bytes },
    /// The stream of the circuit of this attempt.
    Stream(AttemptId),
}

/// A connection, until its user lets go of it.
#[derive(Debug)]
pub(super) struct DrivenConnection {
    /// The owner at whose end it is closed; `None` once it is the user's.
    pub(super) owner: Option<Owner>,
    pub(super) line: ConnectionLine,
    /// A read that waits for bytes: so many at most.
    pub(super) wanted: Option<usize>,
    /// Tells that it stands: a dial has led to it.
    pub(super) is_up: bool,
}

/// What a read brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadResult {
    Bytes(Bytes),
    Nothing,
    /// Nothing follows any more.
    End,
}

impl DrivenConnection {
    pub(super) fn new(owner: Owner, line: ConnectionLine, is_up: bool) -> Self {
        Self { owner: Some(owner), line, wanted: None, is_up }
    }
}

/// Reads from a TCP connection once.
pub(crate) fn read_tcp(
    socket: TcpSocket,
    early: &mut Bytes,
    at_most: usize,
    context: &mut Context<'_>,
) -> ReadResult {
    if !early.is_empty() {
        return ReadResult::Bytes(early.split_to(at_most.min(early.len())));
    }
    let tcp = context.host.tcp_mut();
    match tcp.read_at_most(socket, at_most) {
        Ok(bytes) if !bytes.is_empty() => ReadResult::Bytes(bytes),
        Ok(_) if !tcp.is_ended(socket) => ReadResult::Nothing,
        Ok(_) | Err(_) => ReadResult::End,
    }
}

/// A connection that both ends keep, as its user has it: readable and writable in clear.
#[derive(Debug)]
pub struct KeptPipe {
    /// Its number.
    pub connection: ConnectionId,
    /// The other end, and the keys of the pipe.
    pub session: Session,
    /// The story of the connection.
    pub info: ConnectionInfo,
    /// The time at which the node handed it over.
    pub at: Instant,
    /// What the other end said and the story has not taken.
    pub heard: Vec<u8>,
    /// The other end has said that nothing follows, or the connection broke.
    pub is_ended: bool,
}

impl KeptPipe {
    pub(super) fn new(established: Established, at: Instant) -> Self {
        let Established { connection, session, info } = established;
        Self { connection, session, info, at, heard: Vec::new(), is_ended: false }
    }

    /// Tells whether both are the two ends of one connection: the keys of a pipe come of one proof and no other.
    pub fn is_other_end_of(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.session, &other.session);
        ours.binding == theirs.binding
            && ours.send_key == theirs.receive_key
            && ours.claim.attempt == theirs.claim.attempt
    }
}

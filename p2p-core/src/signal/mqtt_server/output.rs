//! What a server says: effects, decisions, and what it has seen.

use std::time::Duration;

/// A client's connection, for as long as the server lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientNumber(pub(super) u64);

/// An effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Something is to be written to this client: call [`take_outgoing`](super::MqttServer::take_outgoing) until it gives nothing.
    Write(ClientNumber),
    /// Close the connection of this client when all is written.
    HangUp(ClientNumber),
}

/// A decision for the driver to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// This client has connected, with the password if there is one.
    Connected(ClientNumber),
}

/// What is to be read of a client next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// More bytes.
    More,
    /// Nothing for so long: it sends too much. Then come again with the same bytes.
    Later(Duration),
    /// Nothing until something was written: it does not read its answers. Then come again with the same bytes.
    Full,
    /// Nothing any more.
    Over,
}

/// What a server has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MqttServerCounters {
    /// Clients that have connected.
    pub connected: u64,
    /// Clients refused: wrong password, unsupported version, or a wish that is not served.
    pub refused: u64,
    /// Messages published within the rates.
    pub published: u64,
    /// Messages given to a subscriber.
    pub delivered: u64,
    /// Messages for a topic that nobody listens to.
    pub unheard: u64,
    /// Messages beyond a rate, refused or dropped.
    pub limited: u64,
    /// Messages lost to a subscriber that does not read.
    pub lost: u64,
    /// Clients ended for breaking the protocol.
    pub broken: u64,
    /// Clients ended because they were silent.
    pub silent: u64,
}

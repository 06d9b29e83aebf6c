//! What a TURN server decides (RFC 8656, RFC 6062): its tables and the answers to its clients, without sockets.

pub mod allocation;
pub mod auth;
mod connect;
pub mod core;
pub mod credential;
pub mod ledger;
pub mod nonce;
pub mod peers;
pub mod request;

#[cfg(test)]
mod connect_tests;
#[cfg(test)]
mod core_tests;
#[cfg(test)]
mod story;

/// What the server has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Allocations made.
    pub allocations: u64,
    /// Requests granted, allocations among them.
    pub granted: u64,
    /// Requests refused that were signed as they should be, or were broken.
    pub refused: u64,
    /// Requests answered with a realm and a nonce: unsigned, badly signed, with an old nonce.
    pub challenged: u64,
    /// Allocations refused because the credential had expired.
    pub expired: u64,
    /// Requests refused because of the peer they named.
    pub forbidden: u64,
    /// Datagrams and connections relayed to or from peers without permission, dropped.
    pub unpermitted: u64,
    /// Datagrams relayed, in both directions.
    pub relayed: u64,
    /// Datagrams dropped because the user or the server had used up its rate.
    pub throttled: u64,
    /// Connections with peers handed to clients (RFC 6062).
    pub joined: u64,
}

//! What the two ends of a relayed connection tell each other by sealed signal.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::attempt::RefusalReason;
use crate::transport::Token;
use crate::{Reach, Seed};

/// Addresses lent by TURN servers in one offer at most, for datagrams and for connections each.
pub const MOST_RELAYED: usize = 4;

/// "This is how I can be reached through a relay."
///
/// ```text
/// caller ── token, nothing lent yet ──▶ called     so that both ask their servers at the same time
/// caller ◀── token, nothing lent yet ── called
/// caller ── lent: 192.0.2.1:49160 ────▶ called     permits, knocks
/// caller ◀── lent: 192.0.2.1:49161 ──── called
/// ```
///
/// Said again, with a higher serial number, whenever a server lends another address: also when the connection is long
/// in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayOffer {
    /// Rises with every offer of one end in one attempt; only the highest counts.
    pub serial: u32,
    /// What a datagram for this end must carry.
    pub token: Token,
    /// Relayed addresses for datagrams (RFC 8656).
    pub datagrams: Vec<SocketAddr>,
    /// Relayed addresses for connections (RFC 6062).
    pub connections: Vec<SocketAddr>,
    /// Whether servers are still being asked.
    pub has_more: bool,
    /// There will be no relayed connection, and why.
    pub refusal: Option<RefusalReason>,
}

/// The reason why an offer of a relayed connection cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRelayOffer {
    /// It names more addresses of one kind than [`MOST_RELAYED`].
    #[error("{0} relayed addresses: {MOST_RELAYED} of a kind at most")]
    TooMany(usize),
    /// It names an address at which nobody can be reached.
    #[error("{0} as a relayed address")]
    Address(SocketAddr),
}

impl RelayOffer {
    /// "No", and why.
    pub fn refused(reason: RefusalReason, seed: &mut Seed) -> Self {
        let (datagrams, connections) = (Vec::new(), Vec::new());
        let (serial, token) = (u32::MAX, Token::new(seed));
        Self { serial, token, datagrams, connections, has_more: false, refusal: Some(reason) }
    }

    /// Checks what a peer has written, before it is used.
    ///
    /// # Errors
    /// [`BadRelayOffer`] says what cannot be.
    pub fn validate(&self) -> Result<(), BadRelayOffer> {
        for all in [&self.datagrams, &self.connections] {
            if all.len() > MOST_RELAYED {
                return Err(BadRelayOffer::TooMany(all.len()));
            }
            let is_useless =
                |address: &&SocketAddr| address.port() == 0 || Reach::of(address.ip()) == Reach::Nowhere;
            if let Some(address) = all.iter().find(is_useless) {
                return Err(BadRelayOffer::Address(*address));
            }
        }
        Ok(())
    }

    /// Returns true where nothing is relayed, and nothing will be.
    pub fn is_empty(&self) -> bool {
        !self.has_more && self.datagrams.is_empty() && self.connections.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(datagrams: &[&str]) -> RelayOffer {
        let datagrams = datagrams.iter().map(|text| text.parse().unwrap()).collect();
        RelayOffer {
            serial: 1,
            token: Token([0; 8]),
            datagrams,
            connections: Vec::new(),
            has_more: false,
            refusal: None,
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert_eq!(offer(&[]).validate(), Ok(()));
        assert!(offer(&[]).is_empty());
        assert_eq!(offer(&["192.0.2.1:1", "[2001:db8::1]:1"]).validate(), Ok(()));
        for absurd in ["192.0.2.1:0", "0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1"] {
            let why = BadRelayOffer::Address(absurd.parse().unwrap());
            assert_eq!(offer(&[absurd]).validate(), Err(why));
        }
        let many = offer(&["192.0.2.1:1"; MOST_RELAYED + 1]).validate();
        assert_eq!(many, Err(BadRelayOffer::TooMany(MOST_RELAYED + 1)));
    }
}

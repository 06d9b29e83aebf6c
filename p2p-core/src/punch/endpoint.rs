//! One end of a punch, as it tells the other: its address, its ports, and what its NAT does with SYNs of others.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::nat::forecast::{BadForecast, PortForecast};
use crate::nat::meets::Seat;
use crate::nat::{Filtering, SynAnswer};

/// Sockets that an end announces or uses for one round at most.
pub const MOST_SOCKETS: u16 = 1_024;

/// One end of a punch, as the other must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address, as the other end has to dial it.
    pub address: IpAddr,
    /// The external ports of its next SYNs.
    pub ports: PortForecast,
    /// The SYNs of others that its NAT lets in.
    pub filtering: Filtering,
    /// The answer of its NAT to a SYN it does not let in; `None` when not known.
    pub syn: Option<SynAnswer>,
    /// True where it can send a SYN that opens its own NAT and dies before the other one: it has found a hop between
    /// them that says nothing.
    pub low_ttl: bool,
    /// The number of sockets it can use, 1 … [`MOST_SOCKETS`].
    pub sockets: u16,
}

/// The reason why an end of a punch cannot be as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    /// Its ports cannot be.
    #[error(transparent)]
    Ports(#[from] BadForecast),
    /// It has no socket, or more than [`MOST_SOCKETS`].
    #[error("{0} sockets: 1 to {MOST_SOCKETS} are allowed")]
    Sockets(u16),
}

impl Endpoint {
    /// Checks what a peer has told, before it is used.
    ///
    /// # Errors
    /// [`BadEndpoint`] says what cannot be.
    pub fn validate(&self) -> Result<(), BadEndpoint> {
        self.ports.validate()?;
        let is_allowed = (1..=MOST_SOCKETS).contains(&self.sockets);
        is_allowed.then_some(()).ok_or(BadEndpoint::Sockets(self.sockets))
    }

    /// Returns what this end is for the other, in the words of the table.
    pub(super) fn seat(&self) -> Seat {
        Seat::announced(&self.ports, self.filtering, self.syn)
    }

    /// Returns true where a SYN that is not let in may get an answer that ends the dial.
    pub(super) fn may_answer(&self) -> bool {
        self.answers() || (self.syn.is_none() && !self.is_reachable())
    }

    /// Returns true where such a SYN certainly gets an answer.
    pub(super) fn answers(&self) -> bool {
        self.seat().is_harsh()
    }

    fn is_reachable(&self) -> bool {
        self.seat().is_reachable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_absurd_is_told() {
        let end = |ports, sockets| Endpoint {
            address: IpAddr::from([203, 0, 113, 1]),
            ports: PortForecast::Fixed(ports),
            filtering: Filtering::AddressAndPortDependent,
            syn: None,
            low_ttl: false,
            sockets,
        };
        assert_eq!(end(vec![1], 64).validate(), Ok(()));
        assert_eq!(end(vec![], 64).validate(), Err(BadEndpoint::Ports(BadForecast::List(0))));
        for sockets in [0, u16::MAX] {
            assert_eq!(end(vec![1], sockets).validate(), Err(BadEndpoint::Sockets(sockets)));
        }
    }
}

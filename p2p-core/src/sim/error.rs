//! The reasons for which a world cannot be.

use std::net::IpAddr;

use thiserror::Error;

use super::link::LinkConfigError;
use super::nat::NatConfigError;
use crate::Family;

/// A world that cannot be: the fault of who builds it.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum WorldError {
    /// An impossible NAT.
    #[error(transparent)]
    Nat(#[from] NatConfigError),
    /// An impossible link.
    #[error(transparent)]
    Link(#[from] LinkConfigError),
    /// Two owners of one address on one network.
    #[error("address {0} is taken already on this network")]
    AddressTaken(IpAddr),
    /// The NAT of one family has an address of the other.
    #[error("{ip} is an external address of the {family} NAT, but of the other family")]
    Family {
        /// The family of the NAT.
        family: Family,
        /// The address.
        ip: IpAddr,
    },
    /// The router has nothing for that family.
    #[error("the router has no NAT for {0}")]
    NoNat(Family),
}

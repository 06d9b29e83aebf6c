//! The known properties of a NAT, in two vocabularies.
//!
//! The words of RFC 4787 and RFC 5382 (mapping × filtering) say what a NAT does. The words of the original P2PD
//! (seven types × five deltas) say what that means for a peer who wants to hit the next port. Both are kept per
//! transport, because many NATs treat TCP and UDP differently.
//!
//! | part | meaning |
//! |---|---|
//! | [`probe`] | a machine that decides which server to ask what next, and ends with a report |
//! | [`observe`], [`verdict`] | the observations, and conclusions with their confidence |
//! | [`vote`] | the servers that are to be trusted; pure |
//! | [`classify`], [`delta`], [`block`] | the properties of a NAT from observations; pure |
//! | [`report`] | all of it for one address of ours, for people and for the published address |
//! | [`forecast`] | pure: by which rule ports follow each other, and what a peer is told of it |
//! | [`predict`] | pure: the next external ports, best first, and how probable each is |
//! | [`hop`] | machine: where a SYN dies beyond our NAT and nobody says so |
//! | [`meets`] | pure: who can meet whom, how, at what cost |

pub mod block;
pub mod classify;
pub mod delta;
pub mod forecast;
pub mod hop;
pub mod meets;
pub mod observe;
pub mod predict;
pub mod probe;
pub mod report;
pub mod verdict;
pub mod vote;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::stun::dial_back::SynAnswer;

/// One of the seven types of RFC 3489, as the original P2PD counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NatType {
    /// Neither a NAT nor a firewall is in front.
    Open,
    /// A stateful firewall is in front, and nothing is translated.
    SymmetricFirewall,
    /// The mapping and the filtering do not depend on the endpoint.
    FullCone,
    /// The mapping does not depend on the endpoint, and the filtering depends on the address.
    Restricted,
    /// The mapping does not depend on the endpoint, and the filtering depends on address and port.
    PortRestricted,
    /// The mapping depends on the destination.
    Symmetric,
    /// No packet passes.
    Blocked,
}

impl NatType {
    /// All types, from friendly to hostile.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::SymmetricFirewall,
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::Blocked,
    ];
}

impl fmt::Display for NatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::SymmetricFirewall => "symmetric-firewall",
            Self::FullCone => "full-cone",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::Blocked => "blocked",
        })
    }
}

/// The rule by which the mapped port of the next mapping follows from known ones, as the original P2PD counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DeltaKind {
    /// The mapped port is the local port.
    Equal,
    /// The mapped port moves as the local port moves.
    Preserving,
    /// The port of each new mapping is the last one plus the value, whatever the local port.
    Independent,
    /// The mapped port is the last one plus the value, but only while the local port moves by one.
    Dependent,
    /// The mapped port follows no rule.
    Random,
}

impl DeltaKind {
    /// All kinds, from predictable to unpredictable.
    pub const ALL: [Self; 5] =
        [Self::Equal, Self::Preserving, Self::Independent, Self::Dependent, Self::Random];
}

impl fmt::Display for DeltaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "equal",
            Self::Preserving => "preserving",
            Self::Independent => "independent",
            Self::Dependent => "dependent",
            Self::Random => "random",
        })
    }
}

/// A delta and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Delta {
    /// The rule that the next mapped port follows.
    pub kind: DeltaKind,
    /// The step, in ports; negative when the NAT counts down. Zero where the kind has none.
    pub value: i16,
}

/// The dependence of a mapping on the destination (RFC 4787, section 4.1; RFC 5382, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mapping {
    /// There is one mapping for all destinations.
    EndpointIndependent,
    /// There is one mapping for each destination address.
    AddressDependent,
    /// There is one mapping for each destination address and port.
    AddressAndPortDependent,
}

/// The outside endpoints that may send inbound through a mapping (RFC 4787, section 5; RFC 5382, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Filtering {
    /// Any endpoint may send inbound.
    EndpointIndependent,
    /// Addresses that we have sent to may send inbound.
    AddressDependent,
    /// Addresses and ports that we have sent to may send inbound.
    AddressAndPortDependent,
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port, not below `first`.
    pub last: u16,
}

impl PortRange {
    /// Returns the ports `first` to `last`, or `None` when they are the wrong way round.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Returns the number of ports, 1 … 65,536.
    pub fn size(&self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }

    /// Tells whether `port` is in the range.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Returns `port` brought into the range, as if the range were a circle.
    pub fn wrap(&self, port: i64) -> u16 {
        let offset = (port - i64::from(self.first)).rem_euclid(i64::from(self.size()));
        self.first.saturating_add(u16::try_from(offset).unwrap_or(u16::MAX))
    }
}

/// The known properties of a NAT for one transport. `None` is "not known", never "no".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NatFacts {
    /// The type, in the words of the original P2PD.
    pub nat: Option<NatType>,
    /// The rule by which mapped ports follow each other.
    pub delta: Option<Delta>,
    /// The mapping behaviour.
    pub mapping: Option<Mapping>,
    /// The filtering behaviour.
    pub filtering: Option<Filtering>,
    /// The answer to an unsolicited SYN.
    pub syn: Option<SynAnswer>,
    /// True when a mapped address works from the inside (RFC 4787, section 6).
    pub hairpin: Option<bool>,
    /// The ports this NAT gives out, when it does not use all of them.
    pub range: Option<PortRange>,
    /// The block of ports this host was given, on a carrier NAT that hands out blocks.
    pub block: Option<PortRange>,
    /// The new mappings a second that others behind the same NAT make.
    pub rate: Option<u16>,
}

impl NatFacts {
    /// Returns the mapping behaviour: as measured, or as the type implies.
    pub fn mapping_or_guess(&self) -> Option<Mapping> {
        self.mapping.or(match self.nat {
            Some(NatType::Symmetric) => Some(Mapping::AddressAndPortDependent),
            Some(_) => Some(Mapping::EndpointIndependent),
            None => None,
        })
    }

    /// Returns the filtering behaviour: as measured, or as the type implies.
    pub fn filtering_or_guess(&self) -> Option<Filtering> {
        self.filtering.or(match self.nat {
            Some(NatType::Open | NatType::FullCone) => Some(Filtering::EndpointIndependent),
            Some(NatType::Restricted) => Some(Filtering::AddressDependent),
            _ => None,
        })
    }
}

/// The known properties of the NAT in front of one interface, for each transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Nat {
    /// The properties measured over TCP.
    pub tcp: NatFacts,
    /// The properties measured over UDP.
    pub udp: NatFacts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_knows_its_size() {
        assert_eq!(PortRange::new(0, u16::MAX).map(|range| range.size()), Some(65_536));
        assert_eq!(PortRange::new(5, 5).map(|range| range.size()), Some(1));
        assert_eq!(PortRange::new(6, 5), None);
        assert!(PortRange { first: 10, last: 20 }.contains(20));
        assert!(!PortRange { first: 10, last: 20 }.contains(21));
        assert_eq!(
            [9, 10, 20, 21, -1].map(|port| PortRange { first: 10, last: 20 }.wrap(port)),
            [20, 10, 20, 10, 10]
        );
    }
}

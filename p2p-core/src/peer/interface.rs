//! One address of one network interface, as its owner knows it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::addr::{Family, Reach};
use crate::nat::{DeltaKind, Nat, NatFacts, NatType, PortRange};

/// One address of one network interface, and what is in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InterfaceAddr {
    /// The number of the interface among its owner's; two addresses of one interface have the same number.
    pub nic: u8,
    /// The interface's own address. IPv4 is never written as IPv4-mapped IPv6.
    pub local: IpAddr,
    /// The length of its network's prefix: up to 32 for IPv4, up to 128 for IPv6.
    pub prefix: u8,
    /// The address that servers outside see in place of it, in the same family; `None` when not known.
    pub external: Option<IpAddr>,
    /// The TCP port its owner listens on there; 0 when it does not listen.
    pub listen: u16,
    /// The external TCP port that a port map leads to `listen`, never 0.
    pub mapped: Option<u16>,
    /// The known facts of the NAT in front.
    #[serde(with = "brief")]
    pub nat: Nat,
}

impl InterfaceAddr {
    /// Returns the family of the local address.
    pub fn family(&self) -> Family {
        Family::of(self.local)
    }

    /// Returns the address to dial from the same network. `None` when it does not listen or nobody can be dialled
    /// there.
    ///
    /// A link-local IPv6 address comes without a scope, because a scope is a number of the dialling machine.
    pub fn local_target(&self) -> Option<SocketAddr> {
        target(self.local, self.listen)
    }

    /// Returns the address to dial from outside. `None` when there is nothing to dial, or the external port is not
    /// known.
    ///
    /// The port is the mapped one. Without a port map it is the listening port, if nothing translates it or the NAT
    /// is known to keep ports. Where there is no NAT, the address equals [`InterfaceAddr::local_target`].
    pub fn external_target(&self) -> Option<SocketAddr> {
        let external = self.external?;
        let port = match self.mapped {
            Some(port) if self.listen != 0 => port,
            None if external == self.local || self.is_port_kept() => self.listen,
            _ => return None,
        };
        target(external, port)
    }

    fn is_port_kept(&self) -> bool {
        let facts = &self.nat.tcp;
        matches!(facts.nat, Some(NatType::Open | NatType::SymmetricFirewall))
            || facts.delta.is_some_and(|delta| delta.kind == DeltaKind::Equal)
    }

    /// Checks that the fields fit each other, and returns the first fault as an error.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let most = match self.local {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let is_upright = |range: Option<PortRange>| range.is_none_or(|range| range.first <= range.last);
        let is_sound = |facts: &NatFacts| is_upright(facts.range) && is_upright(facts.block);
        if self.local != self.local.to_canonical() {
            Err("its local address is IPv4 in the clothes of IPv6")
        } else if self.prefix > most {
            Err("its prefix is longer than its address")
        } else if self
            .external
            .is_some_and(|ip| ip.is_ipv4() != self.local.is_ipv4() || ip != ip.to_canonical())
        {
            Err("its external address is of another family")
        } else if self.mapped == Some(0) {
            Err("its mapped port is 0")
        } else if !(is_sound(&self.nat.tcp) && is_sound(&self.nat.udp)) {
            Err("a range of ports of its NAT ends before it begins")
        } else {
            Ok(())
        }
    }
}

fn target(ip: IpAddr, port: u16) -> Option<SocketAddr> {
    (port != 0 && Reach::of(ip) != Reach::Nowhere).then_some(SocketAddr::new(ip, port))
}

/// A shorter form of NAT facts on the wire: facts of which none is known take one byte instead of nine.
mod brief {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::nat::{Nat, NatFacts};

    fn known(facts: &NatFacts) -> Option<&NatFacts> {
        (*facts != NatFacts::default()).then_some(facts)
    }

    pub(super) fn serialize<S: Serializer>(nat: &Nat, serializer: S) -> Result<S::Ok, S::Error> {
        (known(&nat.tcp), known(&nat.udp)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Nat, D::Error> {
        let (tcp, udp) = <(Option<NatFacts>, Option<NatFacts>)>::deserialize(deserializer)?;
        Ok(Nat { tcp: tcp.unwrap_or_default(), udp: udp.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Delta;

    fn behind_nat() -> InterfaceAddr {
        InterfaceAddr {
            nic: 0,
            local: "192.168.1.7".parse().unwrap(),
            prefix: 24,
            external: Some("203.0.113.9".parse().unwrap()),
            listen: 40_000,
            mapped: None,
            nat: Nat::default(),
        }
    }

    fn targets(addr: InterfaceAddr) -> (Option<String>, Option<String>) {
        (
            addr.local_target().map(|target| target.to_string()),
            addr.external_target().map(|target| target.to_string()),
        )
    }

    #[test]
    fn targets_follow_what_is_known() {
        let local = Some("192.168.1.7:40000".to_owned());
        let mut addr = behind_nat();
        assert_eq!(targets(addr), (local.clone(), None), "the external port is a guess");
        addr.nat.tcp.delta = Some(Delta { kind: DeltaKind::Equal, value: 0 });
        assert_eq!(targets(addr), (local.clone(), Some("203.0.113.9:40000".to_owned())));
        addr.mapped = Some(5_000);
        assert_eq!(targets(addr), (local.clone(), Some("203.0.113.9:5000".to_owned())));
        addr.listen = 0;
        assert_eq!(targets(addr), (None, None), "it does not listen");
        addr = behind_nat();
        addr.external = None;
        assert_eq!(targets(addr), (local, None));
        addr.external = Some(addr.local);
        assert_eq!(addr.external_target(), addr.local_target(), "no NAT");
        addr.local = "224.0.0.251".parse().unwrap();
        addr.external = Some("0.0.0.0".parse().unwrap());
        addr.mapped = Some(1);
        assert_eq!(targets(addr), (None, None), "nobody is there");
    }

    #[test]
    fn unsound_ones_are_named() {
        let unsound = |change: fn(&mut InterfaceAddr)| {
            let mut addr = behind_nat();
            assert_eq!(addr.check(), Ok(()));
            change(&mut addr);
            addr.check().unwrap_err()
        };
        assert!(unsound(|addr| addr.prefix = 33).contains("prefix"));
        assert!(unsound(|addr| addr.mapped = Some(0)).contains("mapped"));
        assert!(unsound(|addr| addr.external = Some("::1".parse().unwrap())).contains("external"));
        assert!(unsound(|addr| addr.local = "::ffff:1.2.3.4".parse().unwrap()).contains("local"));
        assert!(unsound(|addr| addr.nat.udp.block = Some(PortRange { first: 2, last: 1 })).contains("range"));
    }
}

//! Address types that tell which of a socket's addresses they hold, and the reach of an IP address.
//!
//! Behind NATs one socket has three addresses. A bare [`SocketAddr`] in a signature invites mixing them up, so each
//! has a type of its own.

mod prefix;
mod special;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use prefix::{IpPrefix, NoPrefix};
pub use special::{SpecialBlock, is_globally_reachable};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// Internet Protocol version 4.
    V4,
    /// Internet Protocol version 6.
    V6,
}

impl Family {
    /// Returns the family of an address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

macro_rules! meaning {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub SocketAddr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

meaning! {
    /// An address on one of our own interfaces, as `bind` takes it.
    Local
}
meaning! {
    /// The address that a server outside sees in place of a [`Local`] one (RFC 8489: server-reflexive).
    Mapped
}
meaning! {
    /// An address on a TURN server that stands for us (RFC 8656).
    Relayed
}

/// Returns true where two addresses are one place, whatever form and scope they are written in.
pub(crate) fn is_same_address(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
}

/// The part of the world in which an IP address can be dialled.
///
/// It guards against signals that name third parties. An address that reaches [`Reach::Nowhere`] is never dialled. An
/// address that is narrower than [`Reach::Global`] is dialled only when there is a reason to think that the peer is
/// there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// No host: unspecified, "this network", multicast, reserved and broadcast addresses, and those out of use.
    Nowhere,
    /// The machine itself (127.0.0.0/8, ::1).
    Loopback,
    /// The link (169.254.0.0/16, fe80::/10).
    Link,
    /// The site: RFC 1918, RFC 6598 (carrier NAT), RFC 2544 (benchmarks), unique and site-local IPv6 (RFC 4193,
    /// RFC 3879), local translation (RFC 8215).
    Site,
    /// The whole Internet, and documentation addresses, which stand for it in laboratories and examples.
    Global,
}

impl Reach {
    /// Returns the reach of `ip` by the table of [`SpecialBlock`], after unwrapping an IPv4-mapped IPv6 address. An
    /// IPv6 address that holds an IPv4 address (NAT64, 6to4, IPv4-compatible) reaches no further than that.
    pub fn of(ip: IpAddr) -> Self {
        special::reach(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_by_the_registries() {
        for (ip, reach) in [
            ("0.0.0.0", Reach::Nowhere),
            ("0.1.2.3", Reach::Nowhere),
            ("224.0.0.251", Reach::Nowhere),
            ("255.255.255.255", Reach::Nowhere),
            ("ff02::1", Reach::Nowhere),
            ("::", Reach::Nowhere),
            ("127.0.0.53", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("169.254.169.254", Reach::Link),
            ("fe80::1", Reach::Link),
            ("10.0.0.1", Reach::Site),
            ("172.31.255.1", Reach::Site),
            ("192.168.1.1", Reach::Site),
            ("100.64.0.1", Reach::Site),
            ("100.127.255.255", Reach::Site),
            ("fd00::1", Reach::Site),
            ("fec0::1", Reach::Site),
            ("198.18.0.1", Reach::Site),
            ("192.0.0.8", Reach::Nowhere),
            ("64:ff9b::c0a8:101", Reach::Site),
            ("64:ff9b:1::7f00:1", Reach::Loopback),
            ("64:ff9b::808:808", Reach::Global),
            ("2002:c0a8:101::1", Reach::Site),
            ("::10.0.0.1", Reach::Site),
            ("100.128.0.1", Reach::Global),
            ("203.0.113.9", Reach::Global),
            ("2001:db8::1", Reach::Global),
        ] {
            assert_eq!(Reach::of(ip.parse().unwrap()), reach, "{ip}");
        }
    }

    #[test]
    fn a_mapped_address_belongs_to_its_real_family() {
        assert_eq!(Family::of("::ffff:1.2.3.4".parse().unwrap()), Family::V4);
        assert_eq!(Family::of("2001:db8::1".parse().unwrap()), Family::V6);
    }
}

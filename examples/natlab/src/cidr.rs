//! An IP address with the length of its prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use p2p_core::Family;

/// An IP address with a prefix length, as in `192.168.1.7/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    ip: IpAddr,
    length: u8,
}

impl Cidr {
    /// Makes `ip/length`, or returns `None` when the prefix is longer than the address.
    pub fn new(ip: IpAddr, length: u8) -> Option<Self> {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        (length <= most).then_some(Self { ip, length })
    }

    /// Returns the whole address space of a family.
    pub fn everything(family: Family) -> Self {
        let ip = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self { ip, length: 0 }
    }

    /// Returns the address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Returns the length of the prefix, in bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Returns the family of the address.
    pub fn family(&self) -> Family {
        Family::of(self.ip)
    }

    /// Returns the same prefix with all host bits zero.
    pub fn network(&self) -> Self {
        Self { ip: masked(self.ip, self.length), length: self.length }
    }

    /// Tells whether `ip` has this prefix.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.ip.is_ipv4() == ip.is_ipv4() && masked(ip, self.length) == masked(self.ip, self.length)
    }

    /// Tells whether two prefixes have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.ip) && self.length <= other.length
            || other.contains(self.ip) && other.length <= self.length
    }

    /// Returns the `number`th address of this prefix, with this prefix length; `None` when it does not have that
    /// many.
    pub fn nth(&self, number: u32) -> Option<Self> {
        let bits = if self.ip.is_ipv4() { 32 } else { 128 } - u32::from(self.length);
        if bits < 32 && u64::from(number) >= 1 << bits {
            return None;
        }
        let ip = match masked(self.ip, self.length) {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() | number)),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() | u128::from(number))),
        };
        Some(Self { ip, length: self.length })
    }

    /// Tells whether `ip` can be given to an interface. It must have this prefix, and be neither the first nor, in
    /// IPv4, the last address of it.
    pub fn is_usable(&self, ip: IpAddr) -> bool {
        let narrow = if ip.is_ipv4() { self.length >= 31 } else { self.length >= 127 };
        self.contains(ip)
            && (narrow
                || (ip != self.network().ip
                    && match (ip, self.ip) {
                        (IpAddr::V4(ip), IpAddr::V4(_)) => {
                            ip.to_bits() | (u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0))
                                != u32::MAX
                        }
                        _ => true,
                    }))
    }
}

fn masked(ip: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address with a prefix length, as in 192.168.1.0/24");
        let (ip, length) = text.split_once('/').ok_or_else(wrong)?;
        let ip = ip.parse().map_err(|_| wrong())?;
        let length = length.parse().map_err(|_| wrong())?;
        Self::new(ip, length).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_contain_and_overlap() {
        assert!(cidr("10.0.0.0/8").contains("10.255.0.1".parse().unwrap()));
        assert!(!cidr("10.0.0.0/8").contains("11.0.0.1".parse().unwrap()));
        assert!(!cidr("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.1.0.0/16")));
        assert!(cidr("10.1.0.0/16").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.1.0.0/16").overlaps(&cidr("10.2.0.0/16")));
        assert!(cidr("fd00::/8").overlaps(&cidr("fd12::/64")));
    }

    #[test]
    fn addresses_are_counted_within_the_prefix() {
        assert_eq!(cidr("192.168.1.0/24").nth(7), Some(cidr("192.168.1.7/24")));
        assert_eq!(cidr("192.168.1.0/24").nth(256), None);
        assert_eq!(cidr("2a0f::/16").nth(2), Some(cidr("2a0f::2/16")));
        assert_eq!(cidr("1.2.3.4/32").nth(0), Some(cidr("1.2.3.4/32")));
        assert_eq!(cidr("1.2.3.4/32").nth(1), None);
    }

    #[test]
    fn first_and_last_are_not_for_interfaces() {
        let net = cidr("192.168.1.0/24");
        for (ip, usable) in
            [("192.168.1.0", false), ("192.168.1.1", true), ("192.168.1.255", false), ("1.1.1.1", false)]
        {
            assert_eq!(net.is_usable(ip.parse().unwrap()), usable, "{ip}");
        }
        assert!(cidr("10.0.0.0/31").is_usable("10.0.0.1".parse().unwrap()));
        assert!(!cidr("fd00::/64").is_usable("fd00::".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1.2.3.4", "1.2.3.4/33", "::/129", "x/8", "1.2.3.4/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}

//! An address prefix (RFC 4632, RFC 4291): a block of IP addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A block of IP addresses: one address, and the number of its first bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpPrefix {
    address: IpAddr,
    bits: u8,
}

/// The text or the pair of address and length is no [`IpPrefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network such as 10.0.0.0/8 or fd00::/8, or one IP address")]
pub struct NoPrefix;

impl IpPrefix {
    /// Takes every address whose first `bits` bits are those of `address`. An IPv4-mapped address is an IPv4 address.
    ///
    /// # Errors
    /// [`NoPrefix`] when the address has fewer bits, or some are set behind them: then it is not clear what is meant.
    pub fn new(address: IpAddr, bits: u8) -> Result<Self, NoPrefix> {
        let prefix = match address {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && bits >= 96 => {
                Self { address: address.to_canonical(), bits: bits - 96 }
            }
            _ => Self { address, bits },
        };
        let (whole, width) = number(prefix.address);
        let is_clean = prefix.bits <= width
            && whole.checked_shl(128 - u32::from(width) + u32::from(prefix.bits)).unwrap_or(0) == 0;
        if is_clean { Ok(prefix) } else { Err(NoPrefix) }
    }

    /// A prefix whose bits are known to be right: for tables.
    pub(super) const fn of_table(address: IpAddr, bits: u8) -> Self {
        Self { address, bits }
    }

    /// Tells whether `ip` is in the block. An IPv4-mapped address counts as the IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ((ours, width), (theirs, other)) = (number(self.address), number(ip.to_canonical()));
        width == other && (ours ^ theirs).checked_shr(u32::from(width - self.bits)).unwrap_or(0) == 0
    }
}

/// An address as a number, and how many bits that has.
fn number(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(ip) => (ip.to_bits().into(), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    }
}

impl FromStr for IpPrefix {
    type Err = NoPrefix;

    fn from_str(text: &str) -> Result<Self, NoPrefix> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| NoPrefix)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NoPrefix)?;
        Self::new(address, bits.unwrap_or(number(address).1))
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_what_shares_its_first_bits() {
        let prefix = |text: &str| text.parse::<IpPrefix>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::10.1.1.1"),
            ("::ffff:10.0.0.0/104", "10.1.1.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::1/128", "2001:db8::1", "2001:db8::2"),
        ] {
            assert!(prefix(text).contains(ip(inside)), "{inside} is in {text}");
            assert!(!prefix(text).contains(ip(outside)), "{outside} is not in {text}");
            assert_eq!(prefix(&prefix(text).to_string()), prefix(text));
        }
        for wrong in
            ["10.0.0.1/8", "10.0.0.0/33", "10/8", "::1/0", "fd00::/129", "", "/8", "10.0.0.0/", "a/8"]
        {
            assert_eq!(wrong.parse::<IpPrefix>(), Err(NoPrefix), "{wrong}");
        }
    }
}

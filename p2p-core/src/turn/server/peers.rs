//! Whom the relay may reach.
//!
//! A relay stands where its clients do not: inside a provider's network, on the server itself. Whatever it can
//! reach there, its users can reach through it. So it reaches the Internet only, unless told otherwise.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::Reach;

/// A network: an IP address and how many of its first bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    bits: u8,
}

/// Why a text is no [`Net`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network such as 10.0.0.0/8 or fd00::/8, or one IP address")]
pub struct NoNet;

impl Net {
    /// Every address whose first `bits` bits are those of `address`. An IPv4-mapped address is an IPv4 address.
    ///
    /// # Errors
    /// When it has fewer bits, or some are set behind them: then it is not clear what is meant.
    pub fn new(address: IpAddr, bits: u8) -> Result<Self, NoNet> {
        let net = match address {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && bits >= 96 => {
                Self { address: address.to_canonical(), bits: bits - 96 }
            }
            _ => Self { address, bits },
        };
        let (whole, width) = number(net.address);
        let is_clean = net.bits <= width
            && whole.checked_shl(128 - u32::from(width) + u32::from(net.bits)).unwrap_or(0) == 0;
        if is_clean { Ok(net) } else { Err(NoNet) }
    }

    /// Whether `ip` is in it. An IPv4-mapped address counts as the IPv4 address.
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

impl FromStr for Net {
    type Err = NoNet;

    fn from_str(text: &str) -> Result<Self, NoNet> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| NoNet)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NoNet)?;
        Self::new(address, bits.unwrap_or(number(address).1))
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// What may be done about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// It is where our own relayed addresses are: those may be reached, nothing else there.
    Relayed,
    Forbidden,
}

/// Whom the relay may reach. What is denied is denied; of the rest, what is allowed is allowed; of the rest, the
/// Internet is, this server's own addresses are not.
#[derive(Clone, Debug)]
pub struct Policy {
    pub allow: Vec<Net>,
    pub deny: Vec<Net>,
    /// Where we relay from.
    pub relays: Vec<IpAddr>,
}

impl Policy {
    /// `is_ours` says whether an address is one of this machine's.
    pub fn judge(&self, ip: IpAddr, is_ours: impl FnOnce(IpAddr) -> bool) -> Verdict {
        let reach = Reach::of(ip);
        if is_within(&self.deny, ip) || reach == Reach::Nowhere {
            Verdict::Forbidden
        } else if self.is_allowed(ip) {
            Verdict::Allowed
        } else if self.relays.contains(&ip) {
            Verdict::Relayed
        } else if reach != Reach::Global || is_ours(ip) {
            Verdict::Forbidden
        } else {
            Verdict::Allowed
        }
    }

    /// Whether it is allowed by name, if it is not denied.
    pub fn is_allowed(&self, ip: IpAddr) -> bool {
        is_within(&self.allow, ip)
    }
}

fn is_within(nets: &[Net], ip: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks() {
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
            assert!(net(text).contains(ip(inside)), "{inside} is in {text}");
            assert!(!net(text).contains(ip(outside)), "{outside} is not in {text}");
            assert_eq!(net(&net(text).to_string()), net(text));
        }
        for wrong in
            ["10.0.0.1/8", "10.0.0.0/33", "10/8", "::1/0", "fd00::/129", "", "/8", "10.0.0.0/", "a/8"]
        {
            assert_eq!(wrong.parse::<Net>(), Err(NoNet), "{wrong}");
        }
    }

    #[test]
    fn the_internet_and_nothing_else() {
        let policy =
            Policy { allow: vec![], deny: vec![net("203.0.113.66")], relays: vec![ip("198.51.100.1")] };
        let judge = |text: &str| policy.judge(ip(text), |ours| ours == ip("203.0.113.9"));
        for (text, verdict) in [
            ("203.0.113.1", Verdict::Allowed),
            ("2001:db8::1", Verdict::Allowed),
            ("64:ff9b::203.0.113.1", Verdict::Allowed),
            ("203.0.113.66", Verdict::Forbidden),
            ("203.0.113.9", Verdict::Forbidden),
            ("198.51.100.1", Verdict::Relayed),
            ("127.0.0.1", Verdict::Forbidden),
            ("::1", Verdict::Forbidden),
            ("10.0.0.1", Verdict::Forbidden),
            ("100.64.0.1", Verdict::Forbidden),
            ("192.168.1.1", Verdict::Forbidden),
            ("169.254.169.254", Verdict::Forbidden),
            ("fe80::1", Verdict::Forbidden),
            ("fd00::1", Verdict::Forbidden),
            ("224.0.0.1", Verdict::Forbidden),
            ("255.255.255.255", Verdict::Forbidden),
            ("ff02::1", Verdict::Forbidden),
            ("0.0.0.0", Verdict::Forbidden),
            ("::", Verdict::Forbidden),
            ("::ffff:127.0.0.1", Verdict::Forbidden),
            ("::ffff:10.0.0.1", Verdict::Forbidden),
            ("::127.0.0.1", Verdict::Forbidden),
            ("64:ff9b::10.0.0.1", Verdict::Forbidden),
            ("64:ff9b:1::7f00:1", Verdict::Forbidden),
            ("2002:7f00:1::1", Verdict::Forbidden),
            ("2002:c0a8:101::1", Verdict::Forbidden),
        ] {
            assert_eq!(judge(text), verdict, "{text}");
        }
    }

    #[test]
    fn what_is_allowed_by_name() {
        let policy = Policy {
            allow: vec![net("127.0.0.0/8"), net("10.0.0.0/8"), net("224.0.0.0/4")],
            deny: vec![net("10.9.0.0/16")],
            relays: vec![ip("127.0.0.1")],
        };
        let judge = |text: &str| policy.judge(ip(text), |_| true);
        assert_eq!(judge("127.0.0.1"), Verdict::Allowed);
        assert_eq!(judge("::ffff:127.0.0.1"), Verdict::Allowed);
        assert_eq!(judge("10.8.0.1"), Verdict::Allowed);
        assert_eq!(judge("10.9.0.1"), Verdict::Forbidden, "denied comes first");
        assert_eq!(judge("224.0.0.1"), Verdict::Forbidden, "there is nobody to relay to");
        assert_eq!(judge("64:ff9b::10.8.0.1"), Verdict::Forbidden, "not named");
    }
}

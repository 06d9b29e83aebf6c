//! Whom the relay may reach.
//!
//! A relay stands where its clients do not: inside a provider's network, on the server itself. Whatever it can
//! reach there, its users can reach through it. So it reaches the Internet only, unless told otherwise.

use std::net::{IpAddr, Ipv4Addr};

use super::config::RelayerConfig;
use crate::addr::{IpPrefix, is_globally_reachable};

/// What may be done about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerVerdict {
    /// Whoever is there may be spoken to.
    Allowed,
    /// On the Internet: allowed unless it is one of this machine's own addresses.
    Public,
    /// Our own relayed addresses are there: those may be reached, nothing else.
    Relayed,
    /// Nobody there is spoken to.
    Forbidden,
}

impl RelayerConfig {
    /// Judges a peer's address. What is denied is denied; of the rest, what is allowed is allowed; of the rest, the
    /// Internet is.
    pub(super) fn judge(&self, ip: IpAddr) -> PeerVerdict {
        if is_within(&self.deny_peers, ip) || !is_one_host(ip) {
            PeerVerdict::Forbidden
        } else if self.is_allowed(ip) {
            PeerVerdict::Allowed
        } else if self.relays.contains(&ip) {
            PeerVerdict::Relayed
        } else if is_globally_reachable(ip) {
            PeerVerdict::Public
        } else {
            PeerVerdict::Forbidden
        }
    }

    /// Tells whether `ip` is allowed by name, if it is not denied.
    pub(super) fn is_allowed(&self, ip: IpAddr) -> bool {
        is_within(&self.allow_peers, ip)
    }
}

/// Tells whether a single host can be at `ip`. Nothing is relayed to groups, whatever the configuration says.
fn is_one_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    !ip.is_multicast() && !ip.is_unspecified() && ip != Ipv4Addr::BROADCAST
}

fn is_within(prefixes: &[IpPrefix], ip: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpPrefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_internet_and_nothing_else() {
        let mut config = RelayerConfig::new("realm");
        config.deny_peers = vec![prefix("8.8.4.4")];
        config.relays = vec![ip("198.51.100.1")];
        for (text, verdict) in [
            ("8.8.8.8", PeerVerdict::Public),
            ("2606:4700::1111", PeerVerdict::Public),
            ("64:ff9b::8.8.8.8", PeerVerdict::Public),
            ("8.8.4.4", PeerVerdict::Forbidden),
            ("198.51.100.1", PeerVerdict::Relayed),
            ("203.0.113.1", PeerVerdict::Forbidden),
            ("2001:db8::1", PeerVerdict::Forbidden),
            ("127.0.0.1", PeerVerdict::Forbidden),
            ("10.0.0.1", PeerVerdict::Forbidden),
            ("168.63.129.16", PeerVerdict::Forbidden),
            ("169.254.169.254", PeerVerdict::Forbidden),
            ("224.0.0.1", PeerVerdict::Forbidden),
            ("255.255.255.255", PeerVerdict::Forbidden),
            ("ff02::1", PeerVerdict::Forbidden),
            ("0.0.0.0", PeerVerdict::Forbidden),
            ("::", PeerVerdict::Forbidden),
            ("::ffff:127.0.0.1", PeerVerdict::Forbidden),
            ("64:ff9b::10.0.0.1", PeerVerdict::Forbidden),
            ("64:ff9b:1::808:808", PeerVerdict::Forbidden),
            ("2002:7f00:1::1", PeerVerdict::Forbidden),
        ] {
            assert_eq!(config.judge(ip(text)), verdict, "{text}");
        }
    }

    #[test]
    fn what_is_allowed_by_name() {
        let mut config = RelayerConfig::new("realm");
        config.allow_peers =
            ["127.0.0.0/8", "10.0.0.0/8", "168.63.129.16", "0.0.0.0/4", "224.0.0.0/3"].map(prefix).to_vec();
        config.deny_peers = vec![prefix("10.9.0.0/16")];
        config.relays = vec![ip("127.0.0.1")];
        let judge = |text: &str| config.judge(ip(text));
        assert_eq!(judge("127.0.0.1"), PeerVerdict::Allowed);
        assert_eq!(judge("::ffff:127.0.0.1"), PeerVerdict::Allowed);
        assert_eq!(judge("10.8.0.1"), PeerVerdict::Allowed);
        assert_eq!(judge("168.63.129.16"), PeerVerdict::Allowed);
        assert_eq!(judge("240.0.0.1"), PeerVerdict::Allowed, "some use it inside");
        assert_eq!(judge("10.9.0.1"), PeerVerdict::Forbidden, "denied comes first");
        for nobody in ["224.0.0.1", "255.255.255.255", "0.0.0.0"] {
            assert_eq!(judge(nobody), PeerVerdict::Forbidden, "{nobody}: there is nobody to relay to");
        }
        assert_eq!(judge("64:ff9b::10.8.0.1"), PeerVerdict::Forbidden, "not named");
    }
}

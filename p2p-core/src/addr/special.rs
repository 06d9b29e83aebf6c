//! Blocks of addresses with a purpose of their own: the one table behind every question about them.
//!
//! The source is IANA's special-purpose registries (RFC 6890), with what is multicast or not assigned at all.
//! The first row that holds an address decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Reach;
use super::prefix::IpPrefix;

/// A block of addresses with a purpose of its own.
#[derive(Clone, Copy, Debug)]
pub struct SpecialBlock {
    /// The block.
    pub prefix: IpPrefix,
    /// The name in the registry.
    pub name: &'static str,
    /// The document that set it aside.
    pub source: &'static str,
    /// The reach of its addresses, at most.
    pub reach: Reach,
    /// Tells whether the Internet carries packets to its addresses ("Globally Reachable" in the registries).
    pub is_global: bool,
    /// The place of an IPv4 address in its addresses.
    embeds: Embeds,
}

/// The place of an IPv4 address in an IPv6 address.
#[derive(Clone, Copy, Debug)]
enum Embeds {
    /// There is none.
    Nothing,
    /// In the last 32 bits.
    Last,
    /// Behind the first 16 bits (RFC 3056).
    SixToFour,
    /// In one of the four forms that fit behind a prefix of 48 bits (RFC 6052, section 2.2).
    BehindPrefix48,
}

impl SpecialBlock {
    /// Returns the row of `ip`, after unwrapping an IPv4-mapped IPv6 address.
    pub fn of(ip: IpAddr) -> &'static Self {
        let ip = ip.to_canonical();
        let table = if ip.is_ipv4() { V4 } else { V6 };
        table.iter().find(|row| row.prefix.contains(ip)).unwrap_or(&NOBODY)
    }
}

/// Tells whether the Internet carries packets to `ip`: its own block and that of every IPv4 address inside it are globally
/// reachable by IANA's registries. Documentation addresses are not, although [`Reach`] takes them for the Internet.
pub fn is_globally_reachable(ip: IpAddr) -> bool {
    let row = SpecialBlock::of(ip);
    row.is_global && embedded(row, ip).all(|ip| is_globally_reachable(ip.into()))
}

/// The reach of `ip`: that of its block, or of an IPv4 address inside it if that is narrower.
pub(super) fn reach(ip: IpAddr) -> Reach {
    let row = SpecialBlock::of(ip);
    embedded(row, ip).map(|ip| reach(ip.into())).fold(row.reach, Reach::min)
}

/// The IPv4 addresses that a translator or a tunnel may make of `ip`.
fn embedded(row: &SpecialBlock, ip: IpAddr) -> impl Iterator<Item = Ipv4Addr> + use<> {
    let bits = match ip {
        IpAddr::V4(_) => 0,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let at = |places: &[u32]| places.iter().fold(0, |v4, place| v4 << 8 | u32::from((bits >> place) as u8));
    let found = match row.embeds {
        Embeds::Nothing => Vec::new(),
        Embeds::Last => vec![at(&[24, 16, 8, 0])],
        Embeds::SixToFour => vec![at(&[104, 96, 88, 80])],
        // Bits 64 to 71 are left out. Which of the four a translator uses is not known: a form whose address begins
        // with 0 is not the one.
        Embeds::BehindPrefix48 => [[72, 64, 48, 40], [64, 48, 40, 32], [48, 40, 32, 24], [24, 16, 8, 0]]
            .map(|places| at(&places))
            .into_iter()
            .filter(|v4| v4 >> 24 != 0)
            .collect(),
    };
    found.into_iter().map(Ipv4Addr::from_bits)
}

const YES: bool = true;
const NO: bool = false;

const fn v4(bits: u32, length: u8) -> IpPrefix {
    IpPrefix::of_table(IpAddr::V4(Ipv4Addr::from_bits(bits)), length)
}

/// The first four groups of the address are given; the others are 0.
const fn v6(groups: [u16; 4], length: u8) -> IpPrefix {
    let [a, b, c, d] = groups;
    IpPrefix::of_table(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)), length)
}

const fn row(
    prefix: IpPrefix,
    reach: Reach,
    is_global: bool,
    name: &'static str,
    source: &'static str,
) -> SpecialBlock {
    SpecialBlock { prefix, name, source, reach, is_global, embeds: Embeds::Nothing }
}

const fn with(row: SpecialBlock, embeds: Embeds) -> SpecialBlock {
    SpecialBlock { embeds, ..row }
}

const LOCALHOST_V6: IpPrefix = IpPrefix::of_table(IpAddr::V6(Ipv6Addr::LOCALHOST), 128);
const NOBODY: SpecialBlock = row(v6([0; 4], 0), Reach::Nowhere, NO, "Unassigned", "RFC 4291");

/// IPv4, by rows. The last holds every address.
#[rustfmt::skip]
const V4: &[SpecialBlock] = &[
    row(v4(0x0000_0000, 8),  Reach::Nowhere,  NO,  "This network",        "RFC 791, section 3.2"),
    row(v4(0x0a00_0000, 8),  Reach::Site,     NO,  "Private use",         "RFC 1918"),
    row(v4(0x6440_0000, 10), Reach::Site,     NO,  "Shared address space", "RFC 6598"),
    row(v4(0x7f00_0000, 8),  Reach::Loopback, NO,  "Loopback",            "RFC 1122, section 3.2.1.3"),
    // Answered by the host below a virtual machine, to whom it tells secrets: public by number only.
    row(v4(0xa83f_8110, 32), Reach::Nowhere,  NO,  "Azure platform",      "Microsoft's documentation"),
    row(v4(0xa9fe_0000, 16), Reach::Link,     NO,  "Link local",          "RFC 3927"),
    row(v4(0xac10_0000, 12), Reach::Site,     NO,  "Private use",         "RFC 1918"),
    row(v4(0xc000_0000, 24), Reach::Nowhere,  NO,  "IETF protocol assignments", "RFC 6890, section 2.1"),
    row(v4(0xc000_0200, 24), Reach::Global,   NO,  "Documentation (TEST-NET-1)", "RFC 5737"),
    row(v4(0xc058_6300, 24), Reach::Nowhere,  NO,  "6to4 relay anycast",  "RFC 7526"),
    row(v4(0xc0a8_0000, 16), Reach::Site,     NO,  "Private use",         "RFC 1918"),
    row(v4(0xc612_0000, 15), Reach::Site,     NO,  "Benchmarking",        "RFC 2544"),
    row(v4(0xc633_6400, 24), Reach::Global,   NO,  "Documentation (TEST-NET-2)", "RFC 5737"),
    row(v4(0xcb00_7100, 24), Reach::Global,   NO,  "Documentation (TEST-NET-3)", "RFC 5737"),
    row(v4(0xe000_0000, 4),  Reach::Nowhere,  NO,  "Multicast",           "RFC 1112, section 4"),
    row(v4(0xf000_0000, 4),  Reach::Nowhere,  NO,  "Reserved, and broadcast", "RFC 1112, section 4"),
    row(v4(0x0000_0000, 0),  Reach::Global,   YES, "Unicast",             "RFC 791"),
];

/// IPv6, by rows. The last holds every address. Mapped IPv4 addresses are not here: they are looked up as IPv4.
#[rustfmt::skip]
const V6: &[SpecialBlock] = &[
    row(LOCALHOST_V6,                     Reach::Loopback, NO,  "Loopback",          "RFC 4291, section 2.5.3"),
    row(v6([0, 0, 0, 0], 128),            Reach::Nowhere,  NO,  "Unspecified",       "RFC 4291, section 2.5.2"),
    with(row(v6([0, 0, 0, 0], 96),        Reach::Global,   NO,  "IPv4-compatible",   "RFC 4291, section 2.5.5.1"),
        Embeds::Last),
    with(row(v6([0x64, 0xff9b, 0, 0], 96), Reach::Global,  YES, "IPv4-IPv6 translation", "RFC 6052"),
        Embeds::Last),
    with(row(v6([0x64, 0xff9b, 1, 0], 48), Reach::Site,    NO,  "Local IPv4-IPv6 translation", "RFC 8215"),
        Embeds::BehindPrefix48),
    row(v6([0x100, 0, 0, 0], 64),         Reach::Nowhere,  NO,  "Discard only",      "RFC 6666"),
    row(v6([0x100, 0, 0, 1], 64),         Reach::Nowhere,  NO,  "Dummy prefix",      "RFC 9780"),
    row(v6([0x2001, 0, 0, 0], 32),        Reach::Nowhere,  NO,  "Teredo",            "RFC 4380"),
    // Not addresses of hosts but hashes of keys, which nobody routes.
    row(v6([0x2001, 0x20, 0, 0], 28),     Reach::Nowhere,  NO,  "ORCHIDv2",          "RFC 7343"),
    row(v6([0x2001, 0, 0, 0], 23),        Reach::Nowhere,  NO,  "IETF protocol assignments", "RFC 2928"),
    row(v6([0x2001, 0xdb8, 0, 0], 32),    Reach::Global,   NO,  "Documentation",     "RFC 3849"),
    with(row(v6([0x2002, 0, 0, 0], 16),   Reach::Global,   YES, "6to4",              "RFC 3056"),
        Embeds::SixToFour),
    row(v6([0x3fff, 0, 0, 0], 20),        Reach::Global,   NO,  "Documentation",     "RFC 9637"),
    row(v6([0x5f00, 0, 0, 0], 16),        Reach::Nowhere,  NO,  "Segment routing SIDs", "RFC 9602"),
    row(v6([0xfc00, 0, 0, 0], 7),         Reach::Site,     NO,  "Unique local",      "RFC 4193"),
    row(v6([0xfe80, 0, 0, 0], 10),        Reach::Link,     NO,  "Link local",        "RFC 4291, section 2.5.6"),
    row(v6([0xfec0, 0, 0, 0], 10),        Reach::Site,     NO,  "Site local",        "RFC 3879"),
    row(v6([0xff00, 0, 0, 0], 8),         Reach::Nowhere,  NO,  "Multicast",         "RFC 4291, section 2.7"),
    row(v6([0x2000, 0, 0, 0], 3),         Reach::Global,   YES, "Global unicast",    "RFC 4291, section 2.4"),
    NOBODY,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The first and the last address of each row and the nearest ones outside it.
    #[test]
    fn every_row_ends_where_the_registry_says() {
        type SpecialRow = (&'static str, [&'static str; 2], [&'static str; 2]);
        let rows: [SpecialRow; 36] = [
            ("0.0.0.0/8", ["0.0.0.0", "0.255.255.255"], ["1.0.0.0", "255.255.255.255"]),
            ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
            ("100.64.0.0/10", ["100.64.0.0", "100.127.255.255"], ["100.63.255.255", "100.128.0.0"]),
            ("127.0.0.0/8", ["127.0.0.0", "127.255.255.255"], ["126.255.255.255", "128.0.0.0"]),
            ("168.63.129.16/32", ["168.63.129.16", "168.63.129.16"], ["168.63.129.15", "168.63.129.17"]),
            ("169.254.0.0/16", ["169.254.0.0", "169.254.255.255"], ["169.253.255.255", "169.255.0.0"]),
            ("172.16.0.0/12", ["172.16.0.0", "172.31.255.255"], ["172.15.255.255", "172.32.0.0"]),
            ("192.0.0.0/24", ["192.0.0.0", "192.0.0.255"], ["191.255.255.255", "192.0.1.0"]),
            ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255"], ["192.0.1.255", "192.0.3.0"]),
            ("192.88.99.0/24", ["192.88.99.0", "192.88.99.255"], ["192.88.98.255", "192.88.100.0"]),
            ("192.168.0.0/16", ["192.168.0.0", "192.168.255.255"], ["192.167.255.255", "192.169.0.0"]),
            ("198.18.0.0/15", ["198.18.0.0", "198.19.255.255"], ["198.17.255.255", "198.20.0.0"]),
            ("198.51.100.0/24", ["198.51.100.0", "198.51.100.255"], ["198.51.99.255", "198.51.101.0"]),
            ("203.0.113.0/24", ["203.0.113.0", "203.0.113.255"], ["203.0.112.255", "203.0.114.0"]),
            ("224.0.0.0/4", ["224.0.0.0", "239.255.255.255"], ["223.255.255.255", "240.0.0.0"]),
            ("240.0.0.0/4", ["240.0.0.0", "255.255.255.255"], ["239.255.255.255", "0.0.0.0"]),
            ("0.0.0.0/0", ["1.0.0.0", "223.255.255.255"], ["0.255.255.255", "224.0.0.0"]),
            ("::1/128", ["::1", "::1"], ["::", "::2"]),
            ("::/128", ["::", "::"], ["::1", "ffff::"]),
            ("::/96", ["::2", "::ffff:ffff"], ["::1", "::1:0:0"]),
            ("64:ff9b::/96", ["64:ff9b::", "64:ff9b::ffff:ffff"], ["64:ff9a:ffff::", "64:ff9b::1:0:0"]),
            ("64:ff9b:1::/48", ["64:ff9b:1::", "64:ff9b:1:ffff::"], ["64:ff9b:0:ffff::", "64:ff9b:2::"]),
            ("100::/64", ["100::", "100::ffff:ffff:ffff:ffff"], ["ff:ffff::", "100:0:0:1::"]),
            ("100:0:0:1::/64", ["100:0:0:1::", "100:0:0:1:ffff::"], ["100::ffff:0:0:0", "100:0:0:2::"]),
            ("2001::/32", ["2001::", "2001:0:ffff::"], ["2000:ffff::", "2001:1::"]),
            ("2001:20::/28", ["2001:20::", "2001:2f:ffff::"], ["2001:1f:ffff::", "2001:30::"]),
            ("2001::/23", ["2001:2::", "2001:1ff:ffff::"], ["2000:ffff::", "2001:200::"]),
            ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::"], ["2001:db7:ffff::", "2001:db9::"]),
            ("2002::/16", ["2002::", "2002:ffff:ffff::"], ["2001:ffff::", "2003::"]),
            ("3fff::/20", ["3fff::", "3fff:fff:ffff::"], ["3ffe:ffff::", "3fff:1000::"]),
            ("5f00::/16", ["5f00::", "5f00:ffff::"], ["5eff:ffff::", "5f01::"]),
            ("fc00::/7", ["fc00::", "fdff:ffff::"], ["fbff:ffff::", "fe00::"]),
            ("fe80::/10", ["fe80::", "febf:ffff::"], ["fe7f:ffff::", "fec0::"]),
            ("fec0::/10", ["fec0::", "feff:ffff::"], ["febf:ffff::", "ff00::"]),
            ("ff00::/8", ["ff00::", "ffff:ffff::"], ["feff:ffff::", "::"]),
            ("2000::/3", ["2000::", "3ffe:ffff::"], ["1fff:ffff::", "4000::"]),
        ];
        for (text, inside, outside) in rows {
            let prefix: IpPrefix = text.parse().unwrap();
            for inside in inside {
                assert_eq!(SpecialBlock::of(ip(inside)).prefix, prefix, "{inside} is of {text}");
            }
            for outside in outside {
                assert_ne!(SpecialBlock::of(ip(outside)).prefix, prefix, "{outside} is not of {text}");
            }
        }
        let all = V4.iter().chain(V6).map(|row| row.prefix.to_string());
        for prefix in all.filter(|prefix| prefix != "::/0") {
            assert!(rows.iter().any(|(text, ..)| *text == prefix), "{prefix} has no test");
        }
        assert_eq!(SpecialBlock::of(ip("4000::")).name, "Unassigned");
    }

    #[test]
    fn what_the_internet_does_not_carry_by_the_registries() {
        for text in [
            "0.1.2.3",
            "10.1.2.3",
            "100.64.1.2",
            "127.0.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::8.8.8.8",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:20::1",
            "2001:db8::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
            // IPv4 inside: mapped, translated, tunnelled.
            "::ffff:10.0.0.1",
            "::ffff:168.63.129.16",
            "64:ff9b::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::203.0.113.1",
            "64:ff9b::168.63.129.16",
            "2002:0a00:0001::1",
            "2002:7f00:0001::1",
            // Local translation in each of its forms, and with an address that would do elsewhere.
            "64:ff9b:1:808:8:800::",
            "64:ff9b:1:0a00:0:100::",
            "64:ff9b:1:0a:0:1::",
            "64:ff9b:1:0:a:0:100:0",
            "64:ff9b:1::808:808",
        ] {
            assert!(!is_globally_reachable(ip(text)), "{text}");
        }
        for text in ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2606:4700::1111"] {
            assert!(is_globally_reachable(ip(text)), "{text}");
        }
    }

    /// 10.0.0.1 and 127.0.0.1 behind prefixes of 48, 56, 64 and 96 bits (RFC 6052, section 2.4).
    #[test]
    fn a_translated_address_reaches_no_further_than_the_one_inside_in_every_form() {
        for text in
            ["64:ff9b:1:7f00:0:100::", "64:ff9b:1:7f:0:1::", "64:ff9b:1:0:7f:0:100:0", "64:ff9b:1::7f00:1"]
        {
            assert_eq!(reach(ip(text)), Reach::Loopback, "{text}");
        }
        for text in
            ["64:ff9b:1:a00:0:100::", "64:ff9b:1:a:0:1::", "64:ff9b:1:0:a:0:100:0", "64:ff9b:1::a00:1"]
        {
            assert_eq!(reach(ip(text)), Reach::Site, "{text}");
        }
        assert_eq!(reach(ip("64:ff9b:1::e000:1")), Reach::Nowhere);
        assert_eq!(reach(ip("64:ff9b:1::808:808")), Reach::Site, "nobody outside uses this prefix");
    }
}

//! The scenario file as it is written: its keys, and errors that name the line and the nearest key.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use p2p_core::nat::PortRange;
use p2p_core::sim::link::LinkConfig;
use p2p_core::sim::nat::{Hairpin, NatConfig};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::Routing;
use crate::cidr::Cidr;

/// A fault in the text, with its place.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) problem: String,
}

impl Fault {
    pub(super) fn new(at: Range<usize>, problem: impl Into<String>) -> Self {
        Self { at: at.start, problem: problem.into() }
    }

    /// Returns the line of the fault, counted from 1.
    pub(super) fn line(&self, text: &str) -> usize {
        1 + text.bytes().take(self.at).filter(|byte| *byte == b'\n').count()
    }
}

/// Named things, each with its place in the text.
pub(super) type Named<T> = BTreeMap<Spanned<String>, T>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) seed: u64,
    #[serde(default)]
    pub(super) internet: InternetFile,
    #[serde(default)]
    pub(super) net: Named<NetFile>,
    #[serde(default)]
    pub(super) router: Named<RouterFile>,
    #[serde(default)]
    pub(super) host: Named<HostFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InternetFile {
    pub(super) v4: Option<Spanned<Prefix>>,
    pub(super) v6: Option<Spanned<Prefix>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetFile {
    pub(super) v4: Option<Spanned<Prefix>>,
    pub(super) v6: Option<Spanned<Prefix>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouterFile {
    pub(super) inside: Spanned<String>,
    pub(super) outside: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) external: Vec<Spanned<IpAddr>>,
    pub(super) link: Option<Spanned<LinkConfig>>,
    pub(super) up: Option<Spanned<LinkConfig>>,
    pub(super) down: Option<Spanned<LinkConfig>>,
    /// The name of the preset of a NAT.
    pub(super) preset: Option<Spanned<String>>,
    /// A NAT in full detail.
    pub(super) nat: Option<Spanned<NatConfig>>,
    /// The answer to an unsolicited SYN, over IPv4 and IPv6.
    pub(super) syn: Option<Spanned<String>>,
    pub(super) hairpin: Option<Spanned<Hairpin>>,
    /// The external ports, as in `35000-65535`.
    pub(super) range: Option<Spanned<Ports>>,
    pub(super) v6: Option<Spanned<V6>>,
    /// True when it does not report that the time to live of a packet has run out.
    pub(super) silent: Option<Spanned<bool>>,
    pub(super) kernel: Option<Spanned<Kernel>>,
    pub(super) upnp: Option<Spanned<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostFile {
    pub(super) net: Option<Spanned<String>>,
    pub(super) address: Option<Spanned<Addresses>>,
    pub(super) link: Option<Spanned<LinkConfig>>,
    pub(super) up: Option<Spanned<LinkConfig>>,
    pub(super) down: Option<Spanned<LinkConfig>>,
    #[serde(default)]
    pub(super) interface: Vec<Spanned<InterfaceFile>>,
    #[serde(default)]
    pub(super) routing: Routing,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InterfaceFile {
    pub(super) net: Spanned<String>,
    pub(super) address: Option<Spanned<Addresses>>,
    pub(super) link: Option<Spanned<LinkConfig>>,
    pub(super) up: Option<Spanned<LinkConfig>>,
    pub(super) down: Option<Spanned<LinkConfig>>,
}

/// The treatment of IPv6 by a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum V6 {
    /// Everything is forwarded.
    Open,
    /// A stateful firewall filters, and nothing is translated.
    Firewall,
}

/// The kind of a real Linux router, used instead of a simulated one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kernel {
    Masquerade,
    FullyRandom,
}

macro_rules! from_text {
    ($name:ident($inner:ty), $parse:expr) => {
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name(pub(super) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(&text).map(Self).map_err(D::Error::custom)
            }
        }
    };
}

from_text!(Prefix(Cidr), |text: &str| text.parse::<Cidr>());
from_text!(Ports(PortRange), ports);

fn ports(text: &str) -> Result<PortRange, String> {
    let wrong = || format!("`{text}` is not a range of ports, as in 35000-65535");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first = first.trim().parse().map_err(|_| wrong())?;
    let last = last.trim().parse().map_err(|_| wrong())?;
    PortRange::new(first, last)
        .ok_or_else(|| format!("the port range {text} is empty: its first port is above its last"))
}

/// One address or several.
#[derive(Clone, Debug)]
pub(super) struct Addresses(pub(super) Vec<IpAddr>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMore {
            One(String),
            More(Vec<String>),
        }
        let texts = match OneOrMore::deserialize(deserializer) {
            Ok(OneOrMore::One(text)) => vec![text],
            Ok(OneOrMore::More(texts)) => texts,
            Err(_) => return Err(D::Error::custom("`address` is an IP address or a list of them")),
        };
        if texts.is_empty() {
            return Err(D::Error::custom("`address` is an empty list: leave it out to be given one"));
        }
        texts
            .iter()
            .map(|text| text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not an IP address"))))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Reads the text into its keys.
pub(super) fn read(text: &str) -> Result<File, Fault> {
    toml::from_str(text).map_err(|error| Fault {
        at: error.span().map_or(0, |span| span.start),
        problem: explain(error.message()),
    })
}

/// Adds the nearest key to "unknown field `x`, expected one of `a`, `b`".
fn explain(message: &str) -> String {
    let message = message.trim();
    let unknown = ["unknown field", "unknown variant"].iter().any(|start| message.starts_with(start));
    let mut quoted = message.split('`').skip(1).step_by(2);
    match quoted.next().filter(|_| unknown) {
        Some(word) => {
            let what = if message.starts_with("unknown field") { "key" } else { "value" };
            unknown_word(what, word, quoted)
        }
        None => message.replace('\n', ", "),
    }
}

/// Writes "unknown `what` `word`", with the probable word, or with all known words.
pub(super) fn unknown_word<'a>(what: &str, word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("unknown {what} `{word}`: did you mean `{near}`?"),
        None if known.is_empty() => format!("unknown {what} `{word}`"),
        None => format!("unknown {what} `{word}`: there are {}", known.join(", ")),
    }
}

/// Returns the known word that takes the fewest edits, if they are few.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns Levenshtein's distance, with a swap of neighbours as one edit.
fn edits(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut least = (rows[i][j] + usize::from(a != b)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

/// Returns an IPv4 address, as only such a one can be an address that a NAT maps to.
pub(super) fn as_v4(ip: &Spanned<IpAddr>) -> Result<Ipv4Addr, Fault> {
    match ip.get_ref() {
        IpAddr::V4(ip) => Ok(*ip),
        IpAddr::V6(other) => {
            Err(Fault::new(ip.span(), format!("{other} is IPv6, but the NAT of this router translates IPv4")))
        }
    }
}

//! The names of NATs in scenario files and one-line forms.

use std::net::IpAddr;

use p2p_core::nat::{Delta, DeltaKind, NatType, PortRange};
use p2p_core::sim::nat::NatConfig;

use super::file::unknown_word;

/// The ports of one host behind a carrier NAT, when the name does not say.
const BLOCK: u16 = 512;
/// The ports that RFC 4787 calls unprivileged.
const RANGE: PortRange = PortRange { first: 1_024, last: u16::MAX };

/// Returns the NAT with this name, which maps to `external`.
///
/// A name is one of the seven types, followed by one of the five deltas and a value where they matter (`symmetric`,
/// `port-restricted/equal`, `symmetric/independent/3`). It may also be `linux`, `linux-fully-random`, `carrier` or
/// `carrier/512` (with the ports in the block of each host).
pub(super) fn config(name: &str, external: Vec<IpAddr>) -> Result<NatConfig, String> {
    let mut words = name.split('/');
    let first = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    let Some(ip) = external.first().copied() else {
        return Err(format!("`{name}` has no external IPv4 address: the network inside has no IPv4"));
    };
    let mut config = match (first, rest.as_slice()) {
        ("linux", []) => NatConfig::linux_masquerade(ip),
        ("linux-fully-random", []) => NatConfig::linux_fully_random(ip),
        ("carrier", []) => return Ok(NatConfig::carrier(external, BLOCK)),
        ("carrier", [block]) => return Ok(NatConfig::carrier(external, number(name, block)?)),
        _ => {
            let nat = NatType::ALL.into_iter().find(|nat| nat.to_string() == first).ok_or_else(|| {
                let types = NatType::ALL.map(|nat| nat.to_string());
                let others = ["linux", "linux-fully-random", "carrier"].into_iter();
                unknown_word("NAT", first, types.iter().map(String::as_str).chain(others))
            })?;
            NatConfig::of_type(nat, delta(name, nat, &rest)?, RANGE, ip)
        }
    };
    if config.is_translating() {
        config.external = external;
    }
    Ok(config)
}

fn delta(name: &str, nat: NatType, rest: &[&str]) -> Result<Delta, String> {
    let kind = match rest.first() {
        None if nat == NatType::Symmetric => DeltaKind::Random,
        None => DeltaKind::Equal,
        Some(word) => DeltaKind::ALL.into_iter().find(|kind| kind.to_string() == *word).ok_or_else(|| {
            let kinds = DeltaKind::ALL.map(|kind| kind.to_string());
            unknown_word("delta", word, kinds.iter().map(String::as_str))
        })?,
    };
    let value = match (kind, rest.get(1)) {
        (DeltaKind::Independent | DeltaKind::Dependent, None) => 1,
        (_, None) => 0,
        (DeltaKind::Equal | DeltaKind::Random, Some(_)) => {
            return Err(format!("`{name}`: the delta `{kind}` has no value"));
        }
        (_, Some(value)) => number(name, value)?,
    };
    if let Some(more) = rest.get(2) {
        return Err(format!("`{name}`: `/{more}` is too much, a NAT is type/delta/value"));
    }
    Ok(Delta { kind, value })
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{name}`: `{text}` is no number that fits here"))
}

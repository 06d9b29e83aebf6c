//! The addresses of a peer that are worth dialling, from where, and in which order: pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::attempt::{Path, Trust};
use crate::peer::{InterfaceAddr, PeerAddr};
use crate::{Family, Local, Reach};

/// No more targets than this are dialled for one peer, whatever it publishes.
pub const MOST_CANDIDATES: usize = 16;

/// An address to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// What lies between.
    pub path: Path,
    /// Where to. A link-local IPv6 target carries the scope of the interface to use.
    pub target: SocketAddr,
    /// The address to dial from, when the target is reachable from one of ours only.
    pub from: Option<Local>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.target, self.path)
    }
}

/// One address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OurAddress {
    /// The address.
    pub ip: IpAddr,
    /// How many of its leading bits name the network.
    pub prefix: u8,
    /// The operating system's number of the interface, for link-local IPv6.
    pub scope: u32,
    /// What servers outside see of it.
    pub external: Option<IpAddr>,
}

/// The addresses and the machine of this host, as far as they decide where a peer can be dialled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// Our addresses.
    pub addresses: Vec<OurAddress>,
    /// What identifies this machine, unsalted.
    pub machine_id: Vec<u8>,
}

/// The address families and the paths that a caller allows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// The address families.
    pub families: BTreeSet<Family>,
    /// The paths.
    pub paths: BTreeSet<Path>,
}

impl Default for Filter {
    /// Everything.
    fn default() -> Self {
        Self { families: [Family::V4, Family::V6].into(), paths: Path::ALL.into() }
    }
}

impl Filter {
    /// Returns the default, which allows everything.
    pub fn new() -> Self {
        Self::default()
    }
}

crate::setters!(Filter {
    with_families(families: each Family);
    with_paths(paths: each Path);
});

/// Returns the addresses to dial for `peer`, best first: this machine, this network, the Internet. Within each, the
/// families take turns, IPv6 first (RFC 8305, section 4). They are [`MOST_CANDIDATES`] at most.
///
/// For a [`Trust::Stranger`], addresses inside our site are dialled only where the peer can be believed to be: inside a
/// network of ours, or on this machine. Otherwise anyone who knows our address could use us to knock on our
/// neighbours' doors.
pub fn candidates(ours: &HostView, peer: &PeerAddr, filter: &Filter, trust: Trust) -> Vec<Candidate> {
    let same_machine = peer.is_on(&ours.machine_id);
    let mut found: Vec<Candidate> = Vec::new();
    let mut seen = BTreeSet::new();
    for theirs in peer.interfaces() {
        for candidate in of_interface(ours, theirs, same_machine, trust) {
            let wanted = filter.paths.contains(&candidate.path)
                && filter.families.contains(&Family::of(candidate.target.ip()))
                && candidate.target.port() != 0;
            if wanted && seen.insert((candidate.target, candidate.from)) {
                found.push(candidate);
            }
        }
    }
    let mut ordered = Vec::with_capacity(found.len());
    for path in Path::ALL {
        let (v6, v4): (Vec<_>, Vec<_>) = found
            .iter()
            .copied()
            .filter(|candidate| candidate.path == path)
            .partition(|candidate| Family::of(candidate.target.ip()) == Family::V6);
        let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
        loop {
            let pair = [v6.next(), v4.next()];
            if pair == [None, None] {
                break;
            }
            ordered.extend(pair.into_iter().flatten());
        }
    }
    ordered.truncate(MOST_CANDIDATES);
    ordered
}

fn of_interface(ours: &HostView, theirs: &InterfaceAddr, same_machine: bool, trust: Trust) -> Vec<Candidate> {
    let mut found = Vec::new();
    if let Some(target) = theirs.local_target() {
        found.extend(locals(ours, theirs, target, same_machine, trust));
    }
    if let Some(target) = theirs.external_target()
        && Reach::of(target.ip()) == Reach::Global
    {
        found.push(Candidate { path: Path::External, target, from: None });
    } else if let Some(target) = theirs.external_target()
        && trust == Trust::Known
        && Reach::of(target.ip()) == Reach::Site
    {
        // A carrier's network (RFC 6598) or a company's: outside for the peer, and perhaps for us.
        found.push(Candidate { path: Path::External, target, from: None });
    }
    found
}

/// Ways to reach an address that the peer's own interface has.
fn locals(
    ours: &HostView,
    theirs: &InterfaceAddr,
    target: SocketAddr,
    same_machine: bool,
    trust: Trust,
) -> Vec<Candidate> {
    let at = |path, target, from| Candidate { path, target, from };
    match Reach::of(target.ip()) {
        Reach::Nowhere => Vec::new(),
        Reach::Loopback if same_machine => vec![at(Path::Machine, target, None)],
        Reach::Loopback => Vec::new(),
        Reach::Link => ours
            .addresses
            .iter()
            .filter(|our| Reach::of(our.ip) == Reach::Link && Family::of(our.ip) == theirs.family())
            .filter(|_| same_machine || neighbours(ours, theirs) || trust == Trust::Known)
            .map(|our| {
                let path = if same_machine { Path::Machine } else { Path::Local };
                at(
                    path,
                    with_scope(target, our.scope),
                    Some(Local(with_scope(SocketAddr::new(our.ip, 0), our.scope))),
                )
            })
            .collect(),
        _ if same_machine => vec![at(Path::Machine, target, None)],
        _ if ours.addresses.iter().any(|our| is_on_link(our, target.ip())) => {
            vec![at(Path::Local, target, None)]
        }
        Reach::Site if trust == Trust::Stranger => Vec::new(),
        Reach::Site => vec![at(Path::Local, target, None)],
        Reach::Global => vec![at(Path::External, target, None)],
    }
}

/// Whether the peer looks from outside as we do: then it may be on the same link.
fn neighbours(ours: &HostView, theirs: &InterfaceAddr) -> bool {
    theirs.external.is_some() && ours.addresses.iter().any(|our| our.external == theirs.external)
}

/// Returns whether `ip` is inside the network that `our` address belongs to.
pub(crate) fn is_on_link(our: &OurAddress, ip: IpAddr) -> bool {
    match (our.ip, ip) {
        (IpAddr::V4(our_ip), IpAddr::V4(ip)) => {
            let shift = 32 - u32::from(our.prefix.min(32));
            our.prefix > 0 && (our_ip.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(our_ip), IpAddr::V6(ip)) => {
            let shift = 128 - u32::from(our.prefix.min(128));
            our.prefix > 0 && (our_ip.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn with_scope(target: SocketAddr, scope: u32) -> SocketAddr {
    match target {
        SocketAddr::V6(mut v6) => {
            v6.set_scope_id(scope);
            SocketAddr::V6(v6)
        }
        v4 => v4,
    }
}

/// Returns the path to an address that the peer came from, as far as `peer`'s own address, if known, and our networks
/// tell.
pub fn path_to(ours: &HostView, peer: Option<&PeerAddr>, remote: IpAddr) -> Path {
    let same_machine = peer.is_some_and(|peer| peer.is_on(&ours.machine_id));
    if same_machine || Reach::of(remote) == Reach::Loopback {
        Path::Machine
    } else if Reach::of(remote) == Reach::Link
        || ours.addresses.iter().any(|our| is_on_link(our, remote.to_canonical()))
    {
        Path::Local
    } else {
        Path::External
    }
}

#[cfg(test)]
pub(crate) mod tests;

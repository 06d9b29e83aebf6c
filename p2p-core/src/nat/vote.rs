//! The vote of servers on our external address, which shows the servers to be trusted.
//!
//! Servers are volunteers, and some are broken or worse. Each has one vote for each transport on the address we come
//! from. A server that names an address which no other does, while others agree, is a liar. No answer of a liar
//! counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::observe::{Evidence, Observation, Purpose};
use super::verdict::Known;
use crate::stun::Transport;

/// The outcome of the vote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vote {
    /// The external addresses, each with the number of servers that named it, the most named first.
    pub external: Vec<(IpAddr, usize)>,
    /// The servers whose answers do not count.
    pub liars: BTreeSet<SocketAddr>,
}

impl Vote {
    /// Counts the votes of all servers that answered.
    pub fn new(evidence: &Evidence) -> Self {
        let mut named: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
        for (server, mapped) in answers(evidence.observations().iter()) {
            named.entry(mapped.ip()).or_default().insert(server.ip());
        }
        let agreed: BTreeSet<_> = named.iter().filter(|(_, by)| by.len() >= 2).map(|(ip, _)| *ip).collect();
        let mut liars = BTreeSet::new();
        if !agreed.is_empty() {
            let truthful: BTreeSet<_> = agreed.iter().flat_map(|ip| &named[ip]).copied().collect();
            let all = answers(evidence.observations().iter());
            liars.extend(all.map(|(server, _)| server).filter(|server| !truthful.contains(&server.ip())));
        }
        for transport in [Transport::Udp, Transport::Tcp] {
            let outvoted = liars.clone();
            liars.extend(dissenters(evidence.over(transport), &outvoted));
        }
        let is_liar = |ip: &IpAddr| liars.iter().any(|liar| liar.ip() == *ip);
        let mut external: Vec<_> = named
            .into_iter()
            .map(|(ip, by)| (ip, by.iter().filter(|server| !is_liar(server)).count()))
            .filter(|(_, votes)| *votes > 0)
            .collect();
        external.sort_by_key(|(_, votes)| std::cmp::Reverse(*votes));
        Self { external, liars }
    }

    /// Tells whether the answers of this server count.
    pub fn is_trusted(&self, server: SocketAddr) -> bool {
        !self.liars.iter().any(|liar| liar.ip() == server.ip())
    }

    /// Returns the external address, if any server named one.
    pub fn address(&self) -> Option<Known<IpAddr>> {
        let (ip, votes) = *self.external.first()?;
        let others: usize = self.external[1..].iter().map(|(_, votes)| votes).sum();
        let alone = 0.2_f64.powi(votes.min(8) as i32);
        let share = votes as f64 / (votes + others) as f64;
        Some(Known::measured(ip, (1.0 - alone) * share))
    }
}

fn answers<'a>(
    observations: impl Iterator<Item = &'a Observation>,
) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
    observations.filter_map(|seen| Some((seen.server, seen.seen?.mapped.0)))
}

/// Returns the servers that see one local port at another address than most do. On a NAT whose mapping changes with
/// the destination there is no such majority, and no server is to blame.
fn dissenters<'a>(
    observations: impl Iterator<Item = &'a Observation> + Clone,
    outvoted: &BTreeSet<SocketAddr>,
) -> Vec<SocketAddr> {
    let counts = |seen: &&Observation| seen.purpose == Purpose::Mapping && !outvoted.contains(&seen.server);
    let asked = || observations.clone().filter(counts);
    let mut sees: BTreeMap<SocketAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    for (server, mapped) in answers(asked()) {
        sees.entry(mapped).or_default().insert(server.ip());
    }
    let all: BTreeSet<_> = sees.values().flatten().copied().collect();
    let most = sees.values().max_by_key(|by| by.len()).filter(|by| by.len() >= 2 && by.len() * 2 > all.len());
    let Some(most) = most.cloned() else { return Vec::new() };
    answers(asked()).map(|(server, _)| server).filter(|server| !most.contains(&server.ip())).collect()
}

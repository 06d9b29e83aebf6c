//! The report of a probe on the network in front of one address of ours.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::classify::{self, Verdicts};
use super::meets::{self, Meeting, Way};
use super::observe::{Evidence, Purpose};
use super::predict::{Last, Next, Prediction, predict, predict_measured};
use super::verdict::Known;
use super::vote::Vote;
use super::{Delta, DeltaKind, Nat, NatType};
use crate::stun::Transport;
use crate::stun::query::Failure;
use crate::{Family, Local, Mapped, Reach};

/// The confidence below which a type of NAT is told as a condition, together with all that follows from it.
const SURE: f64 = 0.9;

/// The questions that one server was asked, and the answers it gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReport {
    /// The address of the server.
    pub server: SocketAddr,
    /// The transport it was asked over.
    pub transport: Transport,
    /// The number of questions it was asked.
    pub asked: u32,
    /// The number of questions it answered.
    pub answered: u32,
    /// The number of packets sent to it, with the beginnings and ends of all connections.
    pub packets: u32,
    /// The shortest time from a question to its answer. Over TCP it counts from the SYN, which makes two round trips.
    pub fastest: Option<Duration>,
    /// The reason why it did not answer the first time it failed to.
    pub failure: Option<Failure>,
    /// True when others contradict it, so that its answers do not count.
    pub is_liar: bool,
}

/// The address that a server says it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The local address we asked from.
    pub local: Local,
    /// The address that the server saw.
    pub mapped: Mapped,
}

/// A server whose name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The name of the server.
    pub name: String,
    /// The reason that the resolver gives.
    pub why: String,
}

/// The known properties of the network in front of one address of ours, with their origins and confidence.
#[derive(Clone, Debug, PartialEq)]
pub struct NatReport {
    /// The address of ours that was probed from.
    pub local: IpAddr,
    /// The address others see, if any server told.
    pub external: Option<Known<IpAddr>>,
    /// All addresses that others see, with the number of servers that named each. Behind a pool there are several.
    pub pool: Vec<(IpAddr, usize)>,
    /// The verdicts over TCP.
    pub tcp: Verdicts,
    /// The verdicts over UDP.
    pub udp: Verdicts,
    /// The servers that were asked, and their answers.
    pub servers: Vec<ServerReport>,
    /// The servers that could not be asked, because their names have no address.
    pub unresolved: Vec<Unresolved>,
    /// All observations.
    pub evidence: Evidence,
}

impl NatReport {
    /// Judges the evidence. `failures` and `packets` are per server and transport.
    pub fn new(
        local: IpAddr,
        evidence: Evidence,
        failures: &BTreeMap<(SocketAddr, Transport), Failure>,
        packets: &BTreeMap<(SocketAddr, Transport), u32>,
    ) -> Self {
        let vote = Vote::new(&evidence);
        let (mut tcp, mut udp) = (
            classify::judge(&evidence, &vote, Transport::Tcp),
            classify::judge(&evidence, &vote, Transport::Udp),
        );
        let (tcp_alone, udp_alone) = (tcp, udp);
        classify::borrow(&mut tcp, &udp_alone);
        classify::borrow(&mut udp, &tcp_alone);
        let servers = servers(&evidence, &vote, failures, packets);
        let external = vote.address();
        let unresolved = Vec::new();
        Self { local, external, pool: vote.external, tcp, udp, servers, unresolved, evidence }
    }

    /// Returns the address family of this report.
    pub fn family(&self) -> Family {
        Family::of(self.local)
    }

    /// Tells whether any server answered over any transport.
    pub fn is_online(&self) -> bool {
        self.external.is_some()
    }

    /// Returns where the next mapping is expected, when it is made from `local` at the time `at`, over this transport.
    /// `None` where no mapping was seen. Beyond the type of NAT it takes what was seen of others, which tells more than
    /// the rate that is published.
    pub fn predict(&self, transport: Transport, local: u16, at: Instant) -> Option<Prediction> {
        let (last, after) = self.newest(transport)?;
        let next = Next { at, local, ours: after.saturating_add(1) };
        let verdicts = self.verdicts(transport);
        let facts = verdicts.facts();
        Some(match verdicts.rate {
            Some(rate) => predict_measured(&facts, rate.value, Some(last), next),
            None => predict(&facts, Some(last), next),
        })
    }

    /// Returns the newest mapping whose place on the wire is sure, and the number of our mappings after it.
    /// [`predict`] starts from these.
    pub fn newest(&self, transport: Transport) -> Option<(Last, u16)> {
        let new = || self.evidence.over(transport).filter(|seen| seen.purpose.is_new_port());
        let last = new().filter(|seen| seen.sends == 1 && seen.seen.is_some()).last()?;
        let after = new().filter(|seen| seen.order > last.order && seen.sends > 0).count();
        let local = last.local.0.port();
        Some((Last { at: last.sent, local, mapped: last.port()? }, u16::try_from(after).ok()?))
    }

    /// Returns the facts for the published address: those that are more probable than not.
    pub fn facts(&self) -> Nat {
        Nat { tcp: self.tcp.facts(), udp: self.udp.facts() }
    }

    fn verdicts(&self, transport: Transport) -> &Verdicts {
        match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
        }
    }
}

fn servers(
    evidence: &Evidence,
    vote: &Vote,
    failures: &BTreeMap<(SocketAddr, Transport), Failure>,
    packets: &BTreeMap<(SocketAddr, Transport), u32>,
) -> Vec<ServerReport> {
    let mut all: Vec<ServerReport> = Vec::new();
    for seen in evidence.observations() {
        let is_of =
            |report: &ServerReport| report.server == seen.server && report.transport == seen.transport;
        let known = all.iter().position(is_of);
        // The other port of a server is not a server that somebody named, and tells nothing about one that is.
        if known.is_none() && seen.purpose == Purpose::OtherPort {
            continue;
        }
        let index = known.unwrap_or_else(|| {
            all.push(ServerReport {
                server: seen.server,
                transport: seen.transport,
                asked: 0,
                answered: 0,
                packets: 0,
                fastest: None,
                failure: failures.get(&(seen.server, seen.transport)).cloned(),
                is_liar: !vote.is_trusted(seen.server),
            });
            all.len() - 1
        });
        let report = &mut all[index];
        report.asked += 1;
        report.answered += u32::from(seen.seen.is_some());
        report.fastest = [report.fastest, seen.span()].into_iter().flatten().min();
    }
    for ((server, transport), count) in packets {
        let of_transport = |report: &ServerReport| report.transport == *transport;
        let exact = all.iter().position(|report| of_transport(report) && report.server == *server);
        // The packets to the other port of a server were sent because that server answers, so it gets the count.
        let known = exact.or_else(|| {
            let is_beside = |report: &ServerReport| of_transport(report) && report.server.ip() == server.ip();
            let answers = all.iter().position(|report| is_beside(report) && report.answered > 0);
            answers.or_else(|| all.iter().position(is_beside))
        });
        if let Some(index) = known {
            all[index].packets += count;
        }
    }
    all
}

/// Writes for people the properties of the network, and their meaning for connecting.
impl fmt::Display for NatReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.external {
            Some(external) => writeln!(f, "{}: seen from outside as {external}", self.local)?,
            None => {
                self.write_offline(f)?;
                return self.write_servers(f);
            }
        }
        for transport in [Transport::Tcp, Transport::Udp] {
            write!(f, "{transport}: ")?;
            write_verdicts(f, self.verdicts(transport))?;
        }
        if self.udp.nat.is_some_and(|nat| nat.value == NatType::Blocked) {
            writeln!(f, "UDP is blocked here; TCP works.")?;
        }
        self.write_servers(f)?;
        self.write_meetings(f)
    }
}

impl NatReport {
    fn write_offline(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match (self.servers.is_empty(), Reach::of(self.local)) {
            (true, _) if self.unresolved.is_empty() => "no server was asked",
            (true, _) => "no server was found",
            (_, Reach::Loopback | Reach::Link) => "this address does not reach that far",
            _ => "no server answered: offline, or everything is blocked",
        };
        writeln!(f, "{}: not seen from outside: {why}. Only local paths can work.", self.local)
    }

    /// Writes the answers of the servers, and the failures of those that gave none of use.
    fn write_servers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in &self.servers {
            let ServerReport { server, transport, asked, answered, .. } = report;
            if *answered > 0 {
                write!(f, "{server} over {transport} answered {answered} of {asked} questions")?;
                if let Some(fastest) = report.fastest {
                    write!(f, ", the fastest after {:.0} ms", fastest.as_secs_f64() * 1e3)?;
                }
                let first = self.said(*server, *transport);
                if let Some(first) = first {
                    write!(f, "; it saw {} as {}", first.local, first.mapped)?;
                }
                writeln!(f, ".")?;
            }
            if report.is_liar {
                writeln!(f, "Not believed: {server} over {transport}; others contradict it.")?;
            }
            if let Some(failure) = report.failure.as_ref().filter(|_| *answered == 0) {
                writeln!(f, "No use: {server} over {transport}: {failure}.")?;
            }
        }
        for Unresolved { name, why } in &self.unresolved {
            writeln!(f, "No use: {name}: {why}.")?;
        }
        Ok(())
    }

    /// Returns the first answer of a server.
    pub fn said(&self, server: SocketAddr, transport: Transport) -> Option<Said> {
        let mut of_server = self.evidence.over(transport).filter(|seen| seen.server == server);
        of_server.find_map(|seen| Some(Said { local: seen.local, mapped: seen.seen?.mapped }))
    }

    /// Returns the consequences of this network for connecting: each class of networks that a peer may be in, by
    /// name. Classes in which nothing works are left out. It is about TCP, as connections are. It holds provided that
    /// the network here is what [`tcp`](Self::tcp) says, where the confidence stands too. It is empty while nothing
    /// is known.
    pub fn meetings(&self) -> Vec<(String, Meeting)> {
        if !self.is_online() {
            return Vec::new();
        }
        let facts = self.tcp.facts();
        let classes = meets::classes().into_iter().filter(|(_, theirs)| theirs.nat != Some(NatType::Blocked));
        classes.map(|(name, theirs)| (name, meets::meets(&facts, &theirs))).collect()
    }

    /// Writes "You can meet …; you need a relay with …".
    fn write_meetings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut direct = Vec::new();
        let mut punched = Vec::new();
        let mut relayed = Vec::new();
        for (name, meeting) in self.meetings() {
            match meeting.ways.first() {
                Some(Way::Direct | Way::Reverse) => direct.push(name),
                Some(Way::Punch) => {
                    punched.push(format!("{name} ({:.0} %)", meeting.probability * 100.0));
                }
                Some(Way::Relay) | None => relayed.push(name),
            }
        }
        // The probabilities are those of a network that is of the type it is taken for.
        if let Some(nat) = self.tcp.nat.filter(|nat| nat.confidence < SURE) {
            writeln!(f, "If it is {nat}, then:")?;
        }
        for (what, names) in [
            ("You can meet, with a plain dial", direct),
            ("You can meet, with a punch", punched),
            ("You need a relay with", relayed),
        ] {
            if !names.is_empty() {
                writeln!(f, "{what}: {}.", names.join(", "))?;
            }
        }
        Ok(())
    }
}

fn write_verdicts(f: &mut fmt::Formatter<'_>, verdicts: &Verdicts) -> fmt::Result {
    let Some(nat) = verdicts.nat else {
        return writeln!(f, "nothing is known");
    };
    write!(f, "{nat}")?;
    if let Some(delta) = verdicts.delta {
        let Delta { kind, value } = delta.value;
        let steps = !matches!(kind, DeltaKind::Equal | DeltaKind::Random);
        let text = if steps { format!("{kind} {value:+}") } else { kind.to_string() };
        write!(f, "; ports {}", Known { value: text, confidence: delta.confidence, how: delta.how })?;
    }
    if let Some(block) = verdicts.block {
        write!(f, "; from the block {}-{}", block.value.first, block.value.last)?;
    }
    if let Some(rate) = verdicts.rate {
        write!(f, "; others make {:.0} mappings a second", rate.value.per_second())?;
    }
    if let Some(syn) = verdicts.syn {
        write!(f, "; an unsolicited SYN gets {:?}", syn.value)?;
    }
    if let Some(hairpin) = verdicts.hairpin {
        write!(f, "; hairpinning {}", if hairpin.value { "works" } else { "does not work" })?;
    }
    if verdicts.stable.is_some_and(|stable| !stable.value) {
        write!(f, "; the mapping does not last")?;
    }
    writeln!(f)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;

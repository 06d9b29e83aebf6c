//! A machine that looks for a hop beyond our own NAT which drops a SYN without a report.
//!
//! Where both NATs answer SYNs, whoever dials first is refused, unless its SYN opens its own NAT and dies before it
//! arrives ([`Tactic::LowTtl`](crate::punch::Tactic::LowTtl)). A SYN dies where its time to live ends, and most routers
//! tell of it: Linux then ends the dial. So a hop is wanted that does not.
//!
//! SYNs with rising time to live go to a server, each from a port of its own. The addresses of the routers that
//! answer tell which hops are beyond our NAT. The networks behind a NAT have private addresses (RFC 1918, RFC 6598).
//! A hop with a public address that is not our own is beyond it. The wanted hop is the first one after such a hop
//! that is silent three times. It is near us, where the paths to the whole Internet have not parted yet, or not far.
//! A peer may be nearer than that. Then its NAT answers, and the punch goes on with the tactic for that.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::{Deadline, Machine, Output, Reach};

/// The time to live of the first and of the last SYN, in hops. The first hop is in our own network.
const FIRST: u8 = 2;
const LAST: u8 = 7;
/// The number of times a silent hop is asked again. A lost packet must not be taken for silence.
const AGAIN: u8 = 2;
/// The most SYNs of one search.
pub const MOST_SYNS: u8 = LAST - FIRST + 1 + AGAIN;
/// The pause between two SYNs to one hop, so that routers which limit their answers do not count them as one burst.
const PAUSE: Duration = Duration::from_millis(150);
/// The bounds of the wait for an answer, which is twice the round trip to the server. The whole search is over in
/// 1.15 s.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_millis(500);

/// The server to dial, and the facts known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopConfig {
    /// The address of a server that answers over TCP, as the STUN servers do.
    pub server: SocketAddr,
    /// The address of ours that others see.
    pub external: IpAddr,
    /// The round trip to the server.
    pub rtt: Duration,
}

/// An effect for the driver to perform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Dials from a port that has not been used, with this time to live for all SYNs of that socket.
    Dial {
        /// The number of the SYN, from 0.
        syn: u8,
        /// The address to dial.
        to: SocketAddr,
        /// The time to live, in hops.
        ttl: u8,
    },
    /// Closes the socket of a SYN, whatever its outcome.
    Drop {
        /// The number of the SYN.
        syn: u8,
    },
}

/// The outcome of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The time to live at which a SYN passes our NAT and dies in silence, if there is one.
    Done(Option<u8>),
}

/// The outcome of one SYN so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing has come back.
    Silent,
    /// The SYN died, and the router with this address reported it.
    Told(IpAddr),
    /// The SYN arrived, or something else answered it.
    Answered,
    /// The SYN could not be sent.
    Unsent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All hops are being asked.
    Looking {
        until: Instant,
    },
    /// A silent hop is being asked again, `left` more times.
    Confirming {
        ttl: u8,
        left: u8,
        until: Instant,
    },
    Over,
}

/// A machine that looks once for a hop which reports nothing.
///
/// It should not be made where there is no NAT, or where ours does not answer SYNs. A silent hop is of no use there.
#[derive(Clone, Debug)]
pub struct Hop {
    config: HopConfig,
    state: State,
    /// The SYNs by number, each with its time to live and its outcome.
    syns: BTreeMap<u8, (u8, Fate)>,
    output: VecDeque<Output<Act, Event>>,
}

impl Hop {
    /// Makes a search that begins at once.
    pub fn new(config: HopConfig, now: Instant) -> Self {
        let state = State::Looking { until: now + patience(config.rtt) };
        let mut hop = Self { config, state, syns: BTreeMap::new(), output: VecDeque::new() };
        for ttl in FIRST..=LAST {
            hop.dial(ttl);
        }
        hop
    }

    /// Notes that `by` reports that a SYN died on the way (ICMP time exceeded: RFC 792; ICMPv6: RFC 4443, section
    /// 3.3).
    pub fn handle_expired(&mut self, syn: u8, by: IpAddr, now: Instant) {
        self.on_fate(syn, Fate::Told(by), now);
    }

    /// Notes that the connection of a SYN was established, was refused, or was ended by another ICMP error.
    pub fn handle_answered(&mut self, syn: u8, now: Instant) {
        self.on_fate(syn, Fate::Answered, now);
    }

    /// Notes that a SYN could not be sent.
    pub fn handle_unsent(&mut self, syn: u8, now: Instant) {
        self.on_fate(syn, Fate::Unsent, now);
    }

    /// Stops the search. No event follows.
    pub fn close(&mut self, _now: Instant) {
        if self.state != State::Over {
            self.output.clear();
            self.drop_all();
        }
    }

    fn dial(&mut self, ttl: u8) {
        let syn = self.syns.len() as u8;
        self.syns.insert(syn, (ttl, Fate::Silent));
        self.output.push_back(Output::Act(Act::Dial { syn, to: self.config.server, ttl }));
    }

    fn on_fate(&mut self, syn: u8, fate: Fate, now: Instant) {
        let Some((ttl, known)) = self.syns.get_mut(&syn).filter(|_| self.state != State::Over) else {
            return;
        };
        // An outcome from a closed socket is late, or made up.
        if *known != Fate::Silent {
            return;
        }
        *known = fate;
        let ttl = *ttl;
        self.output.push_back(Output::Act(Act::Drop { syn }));
        match self.state {
            // The hop reports after all.
            State::Confirming { ttl: candidate, .. } if candidate == ttl => self.end(None),
            State::Looking { .. } if !self.syns.values().any(|(_, fate)| *fate == Fate::Silent) => {
                self.end(None)
            }
            // No hop before the one that answered can still be the wanted one.
            State::Looking { .. } if fate == Fate::Answered && self.is_hopeless(ttl) => self.end(None),
            _ => {}
        }
        self.settle(now);
    }

    /// Tells whether no silent hop is left before the one that answered.
    fn is_hopeless(&self, answered: u8) -> bool {
        !self.syns.values().any(|(ttl, fate)| *ttl < answered && *fate == Fate::Silent)
    }

    /// Tells whether a router with this address is beyond our NAT.
    fn is_beyond(&self, by: IpAddr) -> bool {
        Reach::of(by) == Reach::Global && by.to_canonical() != self.config.external.to_canonical()
    }

    /// Returns the first silent hop that is before the server and after a hop known to be beyond our NAT.
    fn candidate(&self) -> Option<u8> {
        let told = |(ttl, fate): &(u8, Fate)| match fate {
            Fate::Told(by) if self.is_beyond(*by) => Some(*ttl),
            _ => None,
        };
        let beyond = self.syns.values().filter_map(told).min()?;
        let arrived =
            self.syns.values().filter(|(_, fate)| *fate == Fate::Answered).map(|(ttl, _)| *ttl).min();
        let silent = self.syns.values().filter(|(_, fate)| *fate == Fate::Silent).map(|(ttl, _)| *ttl);
        silent.filter(|ttl| *ttl > beyond && arrived.is_none_or(|arrived| *ttl < arrived)).min()
    }

    /// Goes on when the time of the present state is up.
    fn settle(&mut self, now: Instant) {
        match self.state {
            State::Looking { until } if until <= now => match self.candidate() {
                Some(ttl) => self.confirm(ttl, AGAIN, now),
                None => self.end(None),
            },
            State::Confirming { ttl, left: 0, until } if until <= now => self.end(Some(ttl)),
            State::Confirming { ttl, left, until } if until <= now => self.confirm(ttl, left, now),
            _ => {}
        }
    }

    fn confirm(&mut self, ttl: u8, left: u8, now: Instant) {
        self.dial(ttl);
        let left = left.saturating_sub(1);
        let wait = if left == 0 { patience(self.config.rtt) } else { PAUSE };
        self.state = State::Confirming { ttl, left, until: now + wait };
    }

    fn end(&mut self, found: Option<u8>) {
        self.drop_all();
        self.output.push_back(Output::Event(Event::Done(found)));
    }

    fn drop_all(&mut self) {
        self.state = State::Over;
        for (syn, (_, fate)) in &self.syns {
            if *fate == Fate::Silent {
                self.output.push_back(Output::Act(Act::Drop { syn: *syn }));
            }
        }
    }
}

fn patience(rtt: Duration) -> Duration {
    rtt.saturating_mul(2).clamp(SHORTEST, LONGEST)
}

impl Machine for Hop {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        if let Some(output) = self.output.pop_front() {
            return output;
        }
        Output::Wait(match self.state {
            State::Looking { until } => Some(Deadline::new(until, "hops that say nothing by now")),
            State::Confirming { until, .. } => Some(Deadline::new(until, "the hop still says nothing")),
            State::Over => None,
        })
    }
}

#[cfg(feature = "sim")]
#[path = "hop_subject.rs"]
pub mod subject;

#[cfg(test)]
#[path = "hop_tests.rs"]
mod tests;

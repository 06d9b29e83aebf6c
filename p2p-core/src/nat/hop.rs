//! The machine that looks for a hop beyond our own NAT which swallows a SYN and says nothing.
//!
//! Where both NATs answer SYNs, whoever dials first is refused, unless its SYN opens its own NAT and dies before it
//! arrives ([`Tactic::Quiet`](crate::punch::Tactic::Quiet)). A SYN dies where its time to live ends, and most routers
//! tell of it: Linux then ends the dial. So a hop is wanted that does not.
//!
//! SYNs with rising time to live go to a server, each from a port of its own. What is beyond our NAT is told by who
//! answers: the networks behind a NAT have private addresses (RFC 1918, RFC 6598), and a hop with a public one that is
//! not our own is beyond it. The first hop after such a one that says nothing, three times, is what was looked for.
//! It is on the way to all of the Internet or at least near us, where ways have not parted yet; and where the peer
//! is nearer than that, its NAT answers, and the punch goes on with the tactic for that.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::{Deadline, Machine, Output, Reach};

/// The first SYNs live for so many hops: the first hop is in our own network.
const FIRST: u8 = 2;
const LAST: u8 = 7;
/// How often a hop that said nothing is asked again: what is lost must not be taken for silence.
const AGAIN: u8 = 2;
/// SYNs in all.
pub const MOST_SYNS: u8 = LAST - FIRST + 1 + AGAIN;
/// Between two SYNs to one hop: routers that limit their answers do not count ours as one burst.
const PAUSE: Duration = Duration::from_millis(150);
/// How long an answer may take: twice the round trip to the server, within these bounds. All of it is over in
/// 1.15 s.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_millis(500);

/// Whom to ask, and what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopConfig {
    /// A server that answers over TCP: the STUN servers do.
    pub server: SocketAddr,
    /// Our address as others see it.
    pub external: IpAddr,
    /// The round trip to the server.
    pub rtt: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Dial from a port that has not been used, with this time to live for all SYNs of that socket.
    Dial {
        /// The number of the SYN, from 0.
        syn: u8,
        /// Where to.
        to: SocketAddr,
        /// For how many hops.
        ttl: u8,
    },
    /// Close that socket, whatever became of it.
    Drop {
        /// The number of the SYN.
        syn: u8,
    },
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The time to live at which a SYN passes our NAT and dies in silence, if there is one.
    Done(Option<u8>),
}

/// What is known of one SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing came back so far.
    Silent,
    /// It died, and a router said so.
    Told(IpAddr),
    /// It arrived, or something else answered it.
    Answered,
    /// It never left.
    Unsent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All hops are asked.
    Looking {
        until: Instant,
    },
    /// One that said nothing is asked again, so many times more.
    Confirming {
        ttl: u8,
        left: u8,
        until: Instant,
    },
    Over,
}

/// Looks for a hop that says nothing, once.
///
/// Where no NAT is, or ours does not answer SYNs, there is no use for it: then do not make one.
#[derive(Clone, Debug)]
pub struct Hop {
    config: HopConfig,
    state: State,
    /// Each SYN by its number: its time to live, and what became of it.
    syns: BTreeMap<u8, (u8, Fate)>,
    output: VecDeque<Output<Act, Event>>,
}

impl Hop {
    /// Begins to look at once.
    pub fn new(config: HopConfig, now: Instant) -> Self {
        let state = State::Looking { until: now + patience(config.rtt) };
        let mut hop = Self { config, state, syns: BTreeMap::new(), output: VecDeque::new() };
        for ttl in FIRST..=LAST {
            hop.dial(ttl);
        }
        hop
    }

    /// A SYN died on the way, says `by` (ICMP time exceeded: RFC 792; ICMPv6: RFC 4443, section 3.3).
    pub fn handle_expired(&mut self, syn: u8, by: IpAddr, now: Instant) {
        self.on_fate(syn, Fate::Told(by), now);
    }

    /// The connection stands, or was refused, or ended by another ICMP error.
    pub fn handle_answered(&mut self, syn: u8, now: Instant) {
        self.on_fate(syn, Fate::Answered, now);
    }

    /// The SYN could not be sent.
    pub fn handle_unsent(&mut self, syn: u8, now: Instant) {
        self.on_fate(syn, Fate::Unsent, now);
    }

    /// Stops looking. Nothing is told any more.
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
        // What a closed socket says is late, or made up.
        if *known != Fate::Silent {
            return;
        }
        *known = fate;
        let ttl = *ttl;
        self.output.push_back(Output::Act(Act::Drop { syn }));
        match self.state {
            // It is not so silent.
            State::Confirming { ttl: candidate, .. } if candidate == ttl => self.end(None),
            State::Looking { .. } if !self.syns.values().any(|(_, fate)| *fate == Fate::Silent) => {
                self.end(None)
            }
            // So far that nothing behind can be of use, or be nearer than the server.
            State::Looking { .. } if fate == Fate::Answered && self.is_hopeless(ttl) => self.end(None),
            _ => {}
        }
        self.settle(now);
    }

    /// Whether no hop before the one that answered may still be what is looked for.
    fn is_hopeless(&self, answered: u8) -> bool {
        !self.syns.values().any(|(ttl, fate)| *ttl < answered && *fate == Fate::Silent)
    }

    /// Whether a router with this address is beyond our NAT.
    fn is_beyond(&self, by: IpAddr) -> bool {
        Reach::of(by) == Reach::Global && by.to_canonical() != self.config.external.to_canonical()
    }

    /// The first hop that said nothing after one that is known to be beyond our NAT, and before the server.
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

    /// Goes on where the time is up.
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

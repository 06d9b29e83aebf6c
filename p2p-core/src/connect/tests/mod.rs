//! Stories of attempts, in virtual time.

mod calling;
mod cold;
mod punching;
mod relaying;
mod sockets;

use std::time::{Duration, Instant};

use super::subject::Sited;
use super::*;
use crate::attempt::{AttemptId, RefusalReason, Trust, Way};
use crate::candidate::tests::{interface, ours, peer_at};
use crate::candidate::{Filter, HostView};
use crate::peer::{Contents, Identity, InterfaceAddr, PeerAddr};
use crate::punch::{self, OwnedView};
use crate::relay::circuit::CircuitFailure;
use crate::signal::{Delivery, Signal};
use crate::sim::epoch;
use crate::sim::laws::drain;
use crate::{Clock, Deadline, Machine, Output, Seed, UnixTime};
use std::net::{IpAddr, SocketAddr};

const ATTEMPT: AttemptId = AttemptId([1; 16]);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Instant {
    epoch() + ms(millis)
}

fn peer(interfaces: Vec<InterfaceAddr>) -> PeerAddr {
    peer_at(1_000, interfaces, None)
}

/// The facts of a host with these addresses, of whose networks nothing is known.
fn facts(host: HostView) -> OwnedView {
    OwnedView::new(host, Clock::new(epoch(), UnixTime::from_secs(1_000_000)))
}

/// The same peer, with no broker to reach it through.
fn mute(peer: &PeerAddr) -> PeerAddr {
    let contents = Contents {
        brokers: Vec::new(),
        machine: None,
        interfaces: peer.interfaces().to_vec(),
        issued: peer.issued(),
    };
    PeerAddr::sign(&Identity::generate(&mut Seed::from_u64(2)), contents).unwrap()
}

/// A call, and the facts it begins with.
#[derive(Clone)]
struct Call {
    config: CallConfig,
    facts: OwnedView,
}

impl Call {
    fn begin(self, now: Instant) -> Sited {
        Sited { attempt: Attempt::call(self.config, &self.facts.view(), now), facts: self.facts }
    }

    fn mute(mut self) -> Self {
        self.config.peer = mute(&self.config.peer);
        self
    }

    fn only(mut self, ways: &[Way]) -> Self {
        self.config.ways = ways.to_vec();
        self
    }
}

fn call(peer: PeerAddr) -> Call {
    let config = CallConfig {
        peer,
        attempt: ATTEMPT,
        ways: Way::ALL.to_vec(),
        filter: Filter::default(),
        plain: false,
        head_start: HEAD_START,
        dial_delay: DIAL_DELAY,
        within: Duration::from_secs(30),
    };
    Call { config, facts: facts(ours(&[("192.168.1.5", 24)])) }
}

/// An answer to this peer, on a host of which this is known.
fn answer(facts: &OwnedView, peer: PeerAddr, now: Instant) -> Sited {
    let config = AnswerConfig { peer, attempt: ATTEMPT, trust: Trust::Known };
    Sited { attempt: Attempt::answer(config, now), facts: facts.clone() }
}

impl Sited {
    fn outcome(&self, way: Way) -> WayOutcome {
        let report = self.attempt.report(at(60_000));
        report.ways.into_iter().find(|report| report.way == way).unwrap().outcome
    }
}

/// When a machine wants to be woken.
fn wait(machine: &mut Sited) -> Option<Deadline> {
    drain(machine).wait
}

fn two_homes() -> PeerAddr {
    peer(vec![interface("203.0.113.7", None), interface("2001:db8::7", None)])
}

/// An attempt, what it asked for and what it told.
struct Story {
    attempt: Sited,
    acts: Vec<Act>,
    events: Vec<Event>,
}

impl Story {
    fn begin(call: Call) -> Self {
        let mut story = Self { attempt: call.begin(epoch()), acts: Vec::new(), events: Vec::new() };
        story.drain();
        story
    }

    fn drain(&mut self) {
        let drained = drain(&mut self.attempt);
        self.acts.extend(drained.acts);
        self.events.extend(drained.events);
    }

    /// Lets time pass, waking the race whenever it wants.
    fn until(&mut self, millis: u64) {
        while let Some(deadline) = drain(&mut self.attempt).wait.filter(|deadline| deadline.at <= at(millis))
        {
            self.attempt.handle_timeout(deadline.at);
            self.drain();
        }
        self.attempt.handle_timeout(at(millis));
        self.drain();
    }

    fn happens(&mut self, millis: u64, what: impl FnOnce(&mut Sited, Instant)) {
        self.until(millis);
        what(&mut self.attempt, at(millis));
        self.drain();
    }

    fn dials(&self) -> Vec<Lane> {
        self.acts
            .iter()
            .filter_map(|act| if let Act::Dial(index, _) = act { Some(Lane::Dialled(*index)) } else { None })
            .collect()
    }

    fn asked(&self) -> usize {
        self.acts.iter().filter(|act| matches!(act, Act::Signal(Body::DialMe(_)))).count()
    }

    fn outcome(&self, way: Way) -> WayOutcome {
        self.attempt.outcome(way)
    }
}

fn from_peer(peer: PeerAddr, body: Body) -> Signal {
    let from = peer.id();
    let to = Identity::generate(&mut Seed::from_u64(1)).id();
    let (issued, expires) = (UnixTime::from_secs(1), UnixTime::from_secs(2));
    Signal { from, to, attempt: ATTEMPT, seq: 1, issued, expires, sender: peer, body }
}

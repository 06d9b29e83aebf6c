//! Two ends of a relayed connection and the link between them, on one virtual clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::epoch;
use super::link::{Link, LinkConfig, LinkConfigError};
use crate::transport::{Event, Messages, Stream, Token, Tokens, TransportConfig};
use crate::{Deadline, Machine, Seed};

/// What an IPv4 and a UDP header add to a datagram, in bytes.
pub const HEADERS: usize = 28;

/// What a driver does with one end, whatever it carries.
pub trait End: Machine {
    /// Makes one.
    fn make(config: TransportConfig, seed: Seed, now: Instant) -> Self;
    /// Gives it a datagram.
    fn hear(&mut self, bytes: &[u8], now: Instant);
    /// Asks it for one.
    fn say(&mut self, out: &mut [u8]) -> Option<usize>;
    /// Asks what has happened.
    fn event(&mut self) -> Option<Event>;
    /// Asks when to come back.
    fn wake(&self) -> Option<Deadline>;
}

macro_rules! end {
    ($machine:ty) => {
        impl End for $machine {
            fn make(config: TransportConfig, seed: Seed, now: Instant) -> Self {
                Self::new(config, seed, now)
            }

            fn hear(&mut self, bytes: &[u8], now: Instant) {
                self.handle_datagram(bytes, now);
            }

            fn say(&mut self, out: &mut [u8]) -> Option<usize> {
                self.poll_transmit(out)
            }

            fn event(&mut self) -> Option<Event> {
                self.poll_event()
            }

            fn wake(&self) -> Option<Deadline> {
                self.deadline()
            }
        }
    };
}
end!(Stream);
end!(Messages);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    at: Instant,
    number: u64,
    to: usize,
    bytes: Vec<u8>,
}

/// The two ends, 0 and 1. What one says goes over the link with its index.
#[derive(Debug)]
pub struct Pair<E> {
    /// The ends. After calling one of them directly, call [`Pair::drain`].
    pub ends: [E; 2],
    links: [Link; 2],
    flying: BinaryHeap<Reverse<Flying>>,
    count: u64,
    now: Instant,
    /// What each end has told.
    pub events: [Vec<Event>; 2],
    /// Nothing passes while this is set.
    pub is_cut: bool,
}

impl<E: End> Pair<E> {
    /// Two ends with a link of the same kind either way. `adjust` may change the default configuration.
    ///
    /// # Errors
    /// When the link is impossible.
    pub fn new(
        link: LinkConfig,
        mut seed: Seed,
        adjust: impl Fn(&mut TransportConfig),
    ) -> Result<Self, LinkConfigError> {
        let tokens = [Token::new(&mut seed), Token::new(&mut seed)];
        let now = epoch();
        let mut end = |me: usize| {
            let mut config = TransportConfig::new(Tokens { ours: tokens[me], theirs: tokens[1 - me] });
            adjust(&mut config);
            E::make(config, seed.fork("end"), now)
        };
        let ends = [end(0), end(1)];
        let links = [Link::new(link, seed.fork("there"))?, Link::new(link, seed.fork("back"))?];
        let flying = BinaryHeap::new();
        Ok(Self { ends, links, flying, count: 0, now, events: Default::default(), is_cut: false })
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Virtual time since the beginning.
    pub fn passed(&self) -> Duration {
        self.now - epoch()
    }

    /// Another link from now on, either way.
    ///
    /// # Errors
    /// When it is impossible.
    pub fn set_link(&mut self, link: LinkConfig, seed: &mut Seed) -> Result<(), LinkConfigError> {
        self.links = [Link::new(link, seed.fork("there"))?, Link::new(link, seed.fork("back"))?];
        Ok(())
    }

    /// Puts what `me` has to say onto the link, and keeps what it tells.
    pub fn drain(&mut self, me: usize) {
        let mut out = [0; 2_048];
        while let Some(length) = self.ends[me].say(&mut out) {
            if self.is_cut {
                continue;
            }
            for at in self.links[me].send(length + HEADERS, self.now).arrivals() {
                self.count += 1;
                let bytes = out[..length].to_vec();
                self.flying.push(Reverse(Flying { at, number: self.count, to: 1 - me, bytes }));
            }
        }
        while let Some(event) = self.ends[me].event() {
            self.events[me].push(event);
        }
    }

    /// When something will happen next.
    pub fn next(&self) -> Option<Instant> {
        let wakes = self.ends.iter().filter_map(|end| end.wake()).map(|wake| wake.at);
        self.flying.peek().map(|flying| flying.0.at).into_iter().chain(wakes).min()
    }

    /// Lets the next thing happen: a datagram arrives, or an end wakes up. Answers whose turn it was; `None` when
    /// nothing is going to happen.
    pub fn step(&mut self) -> Option<usize> {
        let next = self.next()?;
        self.now = self.now.max(next);
        let is_arrival = self.flying.peek().is_some_and(|flying| flying.0.at <= self.now);
        let me = if is_arrival {
            let Reverse(Flying { to, bytes, .. }) = self.flying.pop()?;
            if !self.is_cut {
                self.ends[to].hear(&bytes, self.now);
            }
            to
        } else {
            let is_due = |end: &E| end.wake().is_some_and(|wake| wake.at <= self.now);
            let me = self.ends.iter().position(is_due)?;
            self.ends[me].handle_timeout(self.now);
            me
        };
        self.drain(me);
        Some(me)
    }

    /// Lets things happen until `at`, and time pass until then.
    pub fn run_until(&mut self, at: Instant) {
        while self.next().is_some_and(|next| next <= at) {
            self.step();
        }
        self.now = self.now.max(at);
    }

    /// The same for a span.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span);
    }
}

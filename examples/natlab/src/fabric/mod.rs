//! The cables and routers of a lab, in real time. A packet that a host's kernel sends into its TUN device comes out
//! of another one, later, translated, or not at all.
//!
//! One thread does it all. A packet carries its logical time along, so a late wake-up does not add up from hop to
//! hop. The lateness of delivered packets is measured and reported.

mod gate;
mod lateness;
mod packet;
mod queue;
mod route;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use p2p_core::sim::link::{Link, LinkDrop, Sent};
use p2p_core::sim::packet::IcmpKind;
use p2p_core::sim::wire::{self, Malformed};

pub use lateness::Lateness;

use crate::event::{Drop, Event, Log};
use crate::pcap::Captures;
use crate::scenario::Cable;
use crate::tun::Tun;
pub(crate) use gate::Gate;
use packet::{Buffers, Frame};
use queue::Queue;
pub(crate) use route::{Exit, Routes};

/// The time before a packet is due at which the thread wakes and spins, since the kernel's timers are late by some 50
/// µs.
const SPIN: Duration = Duration::from_micros(120);
/// The most packets taken from one device before the others and the clock are looked at.
const BATCH: usize = 32;
/// The most bytes of memory for packets under way; further packets are dropped.
const MOST_BYTES: usize = 256 << 20;

/// The index of the Internet, the network that is always there.
const INTERNET: usize = 0;

/// A TUN device and its cable.
#[derive(Debug)]
pub(crate) struct Port {
    /// The name of the device for logs, such as `a/eth0`.
    pub(crate) name: String,
    pub(crate) tun: Tun,
    pub(crate) net: usize,
    pub(crate) up: Link,
    pub(crate) down: Link,
    /// True when a program inside has removed the interface.
    pub(crate) is_gone: bool,
}

/// The place of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// The packet is on a network. `from` is the exit it came by, so that a multicast does not come back.
    Net { net: usize, from: Exit },
    /// The packet is at the end of the cable to a device.
    Port(usize),
    /// The packet is at a router and comes from inside.
    Outbound(usize),
    /// The packet is at a router and comes from outside.
    Inbound(usize),
}

/// An order of the lab's owner to the running fabric.
pub(crate) enum Order {
    /// Replaces the cable between a device and its network.
    Cable(Exit, Box<(Link, Link)>),
    /// Switches a router off and on.
    Reboot(usize),
    /// Reports what happened so far.
    Report(std::sync::mpsc::Sender<Report>),
    /// Stops carrying packets.
    Stop,
}

/// The counts and delays of a lab so far.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// The lateness of packets when they were handed over, against the time that the scenario asks for.
    pub lateness: Lateness,
    /// The packets that hosts sent.
    pub sent: u64,
    /// The packets that hosts were handed.
    pub delivered: u64,
    /// The packets that were dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// The packets that a router answered itself, with a RST or an ICMP error.
    pub answered: u64,
}

pub(crate) struct Fabric {
    ports: Vec<Port>,
    gates: Vec<Gate>,
    routes: Routes,
    queue: Queue,
    buffers: Buffers,
    /// The packets that go on at once.
    ready: Vec<(Stage, Frame, Instant)>,
    orders: Receiver<Order>,
    bell: Arc<EventFd>,
    log: Log,
    captures: Option<Captures>,
    lateness: Lateness,
    report: Report,
    drops: BTreeMap<Drop, u64>,
}

impl Fabric {
    #[expect(clippy::too_many_arguments, reason = "the parts of a lab, put together in one place")]
    pub(crate) fn new(
        ports: Vec<Port>,
        gates: Vec<Gate>,
        routes: Routes,
        offload: bool,
        orders: Receiver<Order>,
        bell: Arc<EventFd>,
        log: Log,
        captures: Option<Captures>,
    ) -> Self {
        Self {
            ports,
            gates,
            routes,
            queue: Queue::default(),
            buffers: Buffers::new(offload),
            ready: Vec::new(),
            orders,
            bell,
            log,
            captures,
            lateness: Lateness::default(),
            report: Report::default(),
            drops: BTreeMap::new(),
        }
    }

    /// Carries packets until it is told to stop.
    ///
    /// # Errors
    /// [`io::Error`] when a device or the poll fails for a reason other than the traffic.
    pub(crate) fn run(mut self) -> io::Result<()> {
        // Otherwise the kernel may wake us 50 µs later than we asked.
        nix::sys::prctl::set_timerslack(1)?;
        loop {
            self.pass_due();
            let wake = self.next_wake();
            let timeout = wake.map(|at| at.saturating_duration_since(Instant::now()).saturating_sub(SPIN));
            let readable = self.poll(timeout)?;
            for port in readable {
                match port {
                    Some(port) => self.take(port)?,
                    None if !self.obey()? => return self.finish(),
                    None => (),
                }
            }
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.log.flush()?;
        match &mut self.captures {
            Some(captures) => captures.flush(),
            None => Ok(()),
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let answers = self.gates.iter().filter_map(Gate::next_answer).min();
        self.queue.next().into_iter().chain(answers).min()
    }

    /// Waits until a device has a packet (its index) or an order has come (`None`).
    fn poll(&self, timeout: Option<Duration>) -> io::Result<Vec<Option<usize>>> {
        let mut fds: Vec<PollFd> = Vec::with_capacity(self.ports.len() + 1);
        fds.push(PollFd::new(self.bell.as_fd(), PollFlags::POLLIN));
        let present: Vec<usize> = (0..self.ports.len()).filter(|port| !self.ports[*port].is_gone).collect();
        fds.extend(present.iter().map(|port| PollFd::new(self.ports[*port].tun.as_fd(), PollFlags::POLLIN)));
        match ppoll(&mut fds, timeout.map(TimeSpec::from), None) {
            Err(Errno::EINTR) => return Ok(Vec::new()),
            other => other?,
        };
        let is_ready = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
        let ready = fds.iter().enumerate().filter(|(_, fd)| is_ready(fd));
        Ok(ready.map(|(index, _)| Some(present[index.checked_sub(1)?])).collect())
    }

    /// Carries out the owner's orders. Returns false when one is to stop.
    fn obey(&mut self) -> io::Result<bool> {
        self.bell.read()?;
        loop {
            match self.orders.try_recv() {
                Ok(Order::Cable(exit, cable)) => {
                    let (up, down) = *cable;
                    match exit {
                        Exit::Port(port) => (self.ports[port].up, self.ports[port].down) = (up, down),
                        Exit::Inside(gate) | Exit::Outside(gate) | Exit::Itself(gate) => {
                            self.gates[gate].set_cable(up, down);
                        }
                    }
                }
                Ok(Order::Reboot(gate)) => self.gates[gate].reboot(),
                Ok(Order::Report(to)) => {
                    self.log.flush()?;
                    if let Some(captures) = &mut self.captures {
                        captures.flush()?;
                    }
                    // The owner may have gone since it asked.
                    let _ = to.send(self.report());
                }
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return Ok(false),
                Err(TryRecvError::Empty) => return Ok(true),
            }
        }
    }

    fn report(&self) -> Report {
        Report {
            lateness: self.lateness.clone(),
            dropped: self.drops.iter().map(|(why, number)| (why.to_string(), *number)).collect(),
            ..self.report.clone()
        }
    }

    /// Takes the packets that a device has.
    fn take(&mut self, port: usize) -> io::Result<()> {
        for _ in 0..BATCH {
            let frame = match self.buffers.read(&self.ports[port].tun) {
                Ok(frame) => frame,
                Err(error) => {
                    if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                        self.lose_port(port, &error);
                    }
                    return Ok(());
                }
            };
            let now = Instant::now();
            self.report.sent += 1;
            if let Some(captures) = &mut self.captures {
                captures.write(port, frame.packet())?;
            }
            let sent = self.ports[port].up.send(frame.packet().len(), now);
            let next = Stage::Net { net: self.ports[port].net, from: Exit::Port(port) };
            self.over(sent, next, frame, now, Exit::Port(port));
            self.pass_ready();
        }
        Ok(())
    }

    /// Notes that a program inside has removed its interface. The others go on.
    fn lose_port(&mut self, port: usize, why: &io::Error) {
        let port = &mut self.ports[port];
        port.is_gone = true;
        self.log.write(|| Event::Gone { place: port.name.clone(), why: why.to_string() });
    }

    /// Passes on every packet and answer whose time has come.
    fn pass_due(&mut self) {
        loop {
            let now = Instant::now();
            for gate in 0..self.gates.len() {
                while let Some((at, answer)) = self.gates[gate].poll_answer(now) {
                    self.report.answered += 1;
                    self.answer_outside(gate, &answer, at);
                }
            }
            self.pass_ready();
            let Some((at, stage, frame)) = self.queue.pop_due(now) else {
                return;
            };
            self.pass(stage, frame, at);
            self.pass_ready();
        }
    }

    fn pass_ready(&mut self) {
        while let Some((stage, frame, at)) = self.ready.pop() {
            self.pass(stage, frame, at);
        }
    }

    /// Moves one packet on from its place, at the logical time `at`.
    fn pass(&mut self, stage: Stage, frame: Frame, at: Instant) {
        match stage {
            Stage::Net { net, from } => self.switch(net, from, frame, at),
            Stage::Port(port) => self.deliver(port, frame, at),
            Stage::Outbound(gate) => self.outbound(gate, frame, at),
            Stage::Inbound(gate) => self.inbound(gate, frame, at),
        }
    }

    /// Sends a packet over a cable, from which it arrives at `next` later, twice or never.
    fn over(&mut self, sent: Sent, next: Stage, frame: Frame, at: Instant, by: Exit) {
        let (first, second) = match sent {
            Sent::Never(why) => {
                let why = match why {
                    LinkDrop::Lost | LinkDrop::TooBig => Drop::Lost,
                    LinkDrop::QueueFull => Drop::QueueFull,
                };
                let place = match by {
                    Exit::Port(port) => self.ports[port].name.clone(),
                    Exit::Inside(gate) | Exit::Outside(gate) | Exit::Itself(gate) => {
                        self.gates[gate].name.clone()
                    }
                };
                return self.drop(frame, why, &place);
            }
            Sent::Once(first) => (first, None),
            Sent::Twice(first, second) => (first, Some(second)),
        };
        if let Some(second) = second {
            let copy = self.buffers.copy(&frame);
            self.later(next, copy, second, at);
        }
        self.later(next, frame, first, at);
    }

    fn later(&mut self, next: Stage, frame: Frame, arrival: Instant, at: Instant) {
        if arrival <= at {
            self.ready.push((next, frame, arrival));
        } else if self.queue.bytes() + frame.room() > MOST_BYTES {
            self.drop(frame, Drop::LabFull, "the lab");
        } else {
            self.queue.push(arrival, next, frame);
        }
    }

    /// Passes a packet on a network to its destination.
    fn switch(&mut self, net: usize, from: Exit, mut frame: Frame, at: Instant) {
        let Some(to) = frame.destination() else {
            return self.drop(frame, Drop::Malformed(Malformed::Truncated), "a network");
        };
        if route::is_for_all(to) {
            for index in 0..self.routes.members(net).len() {
                let port = self.routes.members(net)[index];
                if from != Exit::Port(port) {
                    let copy = self.buffers.copy(&frame);
                    self.forward(port, copy, at);
                }
            }
            return self.buffers.give(frame);
        }
        if net == INTERNET && !frame.hop() {
            return self.expire_on_the_way(frame, at);
        }
        match self.routes.find(net, to) {
            // No router sends a packet back where it came from.
            Some(exit) if exit == from => self.drop(frame, Drop::NoRoute, "a network"),
            Some(Exit::Port(port)) => self.forward(port, frame, at),
            Some(Exit::Inside(gate)) => self.ready.push((Stage::Outbound(gate), frame, at)),
            Some(Exit::Outside(gate)) => {
                let sent = self.gates[gate].down.send(frame.packet().len(), at);
                self.over(sent, Stage::Inbound(gate), frame, at, Exit::Outside(gate));
            }
            Some(Exit::Itself(_)) => self.drop(frame, Drop::ForRouter, "a network"),
            None => self.drop(frame, Drop::NoRoute, "a network"),
        }
    }

    /// Drops a packet whose hop limit ends on the Internet, which counts for one hop as in the simulator.
    fn expire_on_the_way(&mut self, frame: Frame, at: Instant) {
        let answer = wire::parse(frame.packet()).ok().and_then(|header| {
            let own = self.routes.own(header.family())?;
            header.icmp_error(own, IcmpKind::TimeExceeded)
        });
        self.drop(frame, Drop::Expired, "the Internet");
        if let Some(answer) = answer {
            self.report.answered += 1;
            let frame = self.buffers.make(&answer);
            let from = Exit::Itself(usize::MAX);
            self.ready.push((Stage::Net { net: INTERNET, from }, frame, at));
        }
    }

    fn forward(&mut self, port: usize, frame: Frame, at: Instant) {
        let sent = self.ports[port].down.send(frame.packet().len(), at);
        self.over(sent, Stage::Port(port), frame, at, Exit::Port(port));
    }

    fn deliver(&mut self, port: usize, frame: Frame, at: Instant) {
        if let Some(captures) = &mut self.captures
            && let Err(error) = captures.write(port, frame.packet())
        {
            eprintln!("natlab: cannot write the capture any more: {error}");
            self.captures = None;
        }
        match frame.write(&self.ports[port].tun) {
            Ok(()) => {
                self.report.delivered += 1;
                self.lateness.record(Instant::now().saturating_duration_since(at));
                self.buffers.give(frame);
            }
            // The kernel takes no such packet, because its headers are wrong.
            Err(_) => {
                let place = self.ports[port].name.clone();
                self.drop(frame, Drop::Refused, &place);
            }
        }
    }

    fn drop(&mut self, frame: Frame, why: Drop, place: &str) {
        *self.drops.entry(why).or_default() += 1;
        self.log.write(|| Event::Dropped {
            place: place.to_owned(),
            packet: frame.to_string(),
            why: why.to_string(),
        });
        self.buffers.give(frame);
    }
}

/// Makes the two directions of a cable, each with its own dice.
pub(crate) fn links(
    cable: &Cable,
    seed: &mut p2p_core::Seed,
) -> Result<(Link, Link), p2p_core::sim::link::LinkConfigError> {
    let up = Link::new(cable.up, seed.fork("up"))?;
    let down = Link::new(cable.down, seed.fork("down"))?;
    Ok((up, down))
}

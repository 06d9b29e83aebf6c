//! What happens in a world, one thing after another.

use std::any::Any;
use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::{Context, EdgeId, Happening, HostId, Kind, Program, World};
use crate::sim::dump::{Fate, Loss};
use crate::sim::host::HostEvent;
use crate::sim::link::Sent;
use crate::sim::packet::Packet;

/// A packet to an address of the host itself takes so long.
const LOOPBACK: Duration = Duration::from_micros(20);
/// Most packets, timers and scripted acts that wait for their time.
const MOST_QUEUED: usize = 1 << 20;

/// How a packet leaves a host.
enum Way {
    Link(EdgeId),
    /// To the host itself.
    Loopback,
    None,
}

impl World {
    /// Lets a script act on a host now.
    pub fn with<T>(&mut self, host: HostId, act: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let now = self.now;
        let Kind::Host(node) = &mut self.nodes[host.0 as usize].kind else {
            unreachable!("a HostId is made for hosts only")
        };
        let mut context = Context { host: &mut node.host, broker: &mut self.broker, id: host, now };
        let result = act(&mut context);
        self.settle_host(host.0);
        result
    }

    /// Lets a script act on a host and on its program now; `None` when the program is of another type.
    pub fn with_program<P: Program, T>(
        &mut self,
        host: HostId,
        act: impl FnOnce(&mut P, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let mut program = self.host_node_mut(host).program.take()?;
        let any: &mut dyn Any = program.as_mut();
        let result = any.downcast_mut::<P>().map(|known| self.with(host, |context| act(known, context)));
        self.host_node_mut(host).program = Some(program);
        self.settle_host(host.0);
        result
    }

    /// Lets a script act on a host later; at once when that time has passed.
    pub fn at(&mut self, when: Instant, host: HostId, act: impl FnOnce(&mut Context<'_>) + 'static) {
        self.push(when.max(self.now), Happening::Act(host.0, Box::new(act)));
    }

    /// Sends a packet of any content from a host, its own sockets aside: forgeries, scans, noise.
    pub fn inject(&mut self, host: HostId, packet: Packet) {
        if let Some(edge) = self.host_node(host).edges.first().copied() {
            self.record_ref(host.0, Fate::Sent, &packet);
            self.transmit(host.0, edge, packet);
        }
    }

    /// Does the next thing that happens; when it was, or `None` when nothing will.
    pub fn step(&mut self) -> Option<Instant> {
        let Reverse((at, _, slot)) = self.queue.pop()?;
        self.now = at;
        let happening = self.slots[slot as usize].take();
        self.empty_slots.push(slot);
        match happening {
            Some(Happening::Arrival { node, edge, packet }) => self.arrive(node, edge, packet),
            Some(Happening::Wake(node)) => self.wake(node),
            Some(Happening::Act(host, act)) => self.with(HostId(host), act),
            Some(Happening::Broker) => self.deliver_signals(),
            None => (),
        }
        Some(at)
    }

    /// When the next thing happens; `None` when nothing will.
    pub fn next(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    /// Lets everything happen up to and including `until`; then it is `until`.
    pub fn run_until(&mut self, until: Instant) {
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= until) {
            self.step();
        }
        self.now = self.now.max(until);
    }

    /// Lets this much time pass.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span);
    }

    /// Lets things happen until `done`, or until a time has come; whether it is done.
    pub fn run_until_done(&mut self, until: Instant, mut done: impl FnMut(&Self) -> bool) -> bool {
        while !done(self) {
            if self.queue.peek().is_none_or(|Reverse((at, ..))| *at > until) {
                self.now = self.now.max(until);
                return done(self);
            }
            self.step();
        }
        true
    }

    /// How much waits for its time.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    fn push(&mut self, at: Instant, happening: Happening) {
        let slot = match self.empty_slots.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(happening);
                slot
            }
            None => {
                self.slots.push(Some(happening));
                self.slots.len() as u32 - 1
            }
        };
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, slot)));
    }

    fn arrive(&mut self, node: u32, edge: Option<EdgeId>, mut packet: Packet) {
        let now = self.now;
        match (&mut self.nodes[node as usize].kind, edge) {
            (Kind::Host(host), _) => {
                let taken = host.host.handle_packet(&packet, now);
                self.counters.received += u64::from(taken);
                let fate = if taken { Fate::Received } else { dropped(Loss::NotMine) };
                self.record(node, fate, packet);
                self.settle_host(node);
            }
            (Kind::Router(router), Some(edge)) => {
                let decision = router.handle_packet(edge, &mut packet, now);
                let late = router.next_timeout();
                self.record_ref(node, decision.fate, &packet);
                self.counters.lost += u64::from(decision.forward.is_none());
                if let Some(to) = decision.forward {
                    self.transmit(node, to, packet);
                }
                if let Some((to, answer)) = decision.answer {
                    self.record_ref(node, Fate::Sent, &answer.into());
                    self.transmit(node, to, answer.into());
                }
                self.schedule(node, late);
            }
            (Kind::Router(_), None) => (),
        }
    }

    /// Puts a packet on a link.
    fn transmit(&mut self, from: u32, over: EdgeId, packet: Packet) {
        let edge = &mut self.edges[over.0 as usize];
        let (link, to) =
            if edge.lower == from { (&mut edge.up, edge.upper) } else { (&mut edge.down, edge.lower) };
        let sent = link.send(packet.header.wire_len(), self.now);
        let over = Some(over);
        match sent {
            Sent::Never(why) => self.lose(from, why.into(), packet),
            _ if self.queue.len() >= MOST_QUEUED => self.lose(from, Loss::TooMany, packet),
            Sent::Once(at) => self.push(at, Happening::Arrival { node: to, edge: over, packet }),
            Sent::Twice(first, second) => {
                for (at, packet) in [(first, packet.clone()), (second, packet)] {
                    self.push(at, Happening::Arrival { node: to, edge: over, packet });
                }
            }
        }
    }

    fn lose(&mut self, node: u32, why: Loss, packet: Packet) {
        self.counters.lost += 1;
        self.record(node, dropped(why), packet);
    }

    fn wake(&mut self, node: u32) {
        let now = self.now;
        if self.nodes[node as usize].wake.is_none_or(|at| at > now) {
            return;
        }
        self.nodes[node as usize].wake = None;
        match &mut self.nodes[node as usize].kind {
            Kind::Host(host) => {
                host.host.handle_timeout(now);
                if let Some(program) = &mut host.program
                    && program.next_timeout().is_some_and(|at| at <= now)
                {
                    program.handle_timeout(&mut Context {
                        host: &mut host.host,
                        broker: &mut self.broker,
                        id: HostId(node),
                        now,
                    });
                }
                self.settle_host(node);
            }
            Kind::Router(router) => {
                let uplink = router.uplink;
                let mut answers = Vec::new();
                while let Some(answer) = router.poll_answer(now) {
                    answers.push(answer);
                }
                let next = router.next_timeout();
                for answer in answers {
                    self.record_ref(node, Fate::Sent, &answer.into());
                    if let Some(uplink) = uplink {
                        self.transmit(node, uplink, answer.into());
                    }
                }
                self.schedule(node, next);
            }
        }
    }

    /// Makes sure that a node is woken in time.
    fn schedule(&mut self, node: u32, at: Option<Instant>) {
        let Some(at) = at.map(|at| at.max(self.now)) else {
            return;
        };
        let wake = &mut self.nodes[node as usize].wake;
        if wake.is_none_or(|planned| at < planned) {
            *wake = Some(at);
            self.push(at, Happening::Wake(node));
        }
    }

    /// Carries out what a host wants, until it wants no more.
    pub(super) fn settle_host(&mut self, node: u32) {
        let now = self.now;
        let next = loop {
            while let Some((packet, over)) = self.next_packet(node) {
                self.counters.sent += 1;
                self.record_ref(node, Fate::Sent, &packet);
                match over {
                    Way::Link(edge) => self.transmit(node, edge, packet),
                    Way::Loopback => {
                        self.push(now + LOOPBACK, Happening::Arrival { node, edge: None, packet })
                    }
                    Way::None => self.lose(node, Loss::NoRoute, packet),
                }
            }
            let Kind::Host(host) = &mut self.nodes[node as usize].kind else {
                return;
            };
            let Some(program) = &mut host.program else {
                host.host.collect_events();
                break host.host.next_timeout();
            };
            let Some(event) = host.host.poll_event() else {
                let timers = [host.host.next_timeout(), program.next_timeout()];
                break timers.into_iter().flatten().min();
            };
            program.handle_event(
                event,
                &mut Context { host: &mut host.host, broker: &mut self.broker, id: HostId(node), now },
            );
        };
        self.schedule(node, next);
        self.schedule_broker();
    }

    /// The next packet of a host, and how it leaves.
    fn next_packet(&mut self, node: u32) -> Option<(Packet, Way)> {
        let Kind::Host(host) = &mut self.nodes[node as usize].kind else {
            return None;
        };
        let packet = host.host.poll_packet()?;
        let header = &packet.header;
        if host.host.interface_of(header.dst.ip()).is_some() {
            return Some((packet, Way::Loopback));
        }
        let interface = host.host.interface_of(header.src.ip());
        let edge = interface.and_then(|interface| host.edges.get(interface).copied());
        Some((packet, edge.map_or(Way::None, Way::Link)))
    }

    fn schedule_broker(&mut self) {
        let Some(at) = self.broker.next_delivery().map(|at| at.max(self.now)) else {
            return;
        };
        if self.broker_wake.is_none_or(|planned| at < planned) {
            self.broker_wake = Some(at);
            self.push(at, Happening::Broker);
        }
    }

    fn deliver_signals(&mut self) {
        self.broker_wake = None;
        while let Some(delivery) = self.broker.poll_delivery(self.now) {
            let host = delivery.client;
            self.host_node_mut(host)
                .host
                .push(HostEvent::Signal { topic: delivery.topic, payload: delivery.payload });
            self.settle_host(host.0);
        }
        self.schedule_broker();
    }
}

fn dropped(why: Loss) -> Fate {
    Fate::Dropped { why, answered: false }
}

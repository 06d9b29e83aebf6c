//! A simulated router between two networks: the simulator's NAT in front of real packets.

use std::net::IpAddr;
use std::time::Instant;

use p2p_core::Family;
use p2p_core::sim::link::Link;
use p2p_core::sim::nat::{Nat, Verdict};
use p2p_core::sim::packet::{Header, IcmpKind};
use p2p_core::sim::wire;

use super::packet::Frame;
use super::{Exit, Fabric, Stage};
use crate::event::{Drop, Event};

/// A router that the fabric simulates.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) name: String,
    pub(crate) inside: usize,
    pub(crate) outside: usize,
    /// The router's own addresses on either side, for the errors it sends.
    pub(crate) inner: Vec<IpAddr>,
    pub(crate) outer: Vec<IpAddr>,
    pub(crate) up: Link,
    pub(crate) down: Link,
    /// The NAT for IPv4; `None` forwards everything.
    pub(crate) v4: Option<Nat>,
    pub(crate) v6: Option<Nat>,
    /// True when it does not report that the time to live of a packet has run out.
    pub(crate) is_silent: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inside,
    Outside,
}

impl Gate {
    pub(super) fn next_answer(&self) -> Option<Instant> {
        self.nats().filter_map(Nat::next_answer).min()
    }

    /// Returns a late answer that is due, with its due time.
    pub(super) fn poll_answer(&mut self, now: Instant) -> Option<(Instant, Header)> {
        self.v4.iter_mut().chain(&mut self.v6).find_map(|nat| {
            let at = nat.next_answer()?;
            Some((at, nat.poll_answer(now)?))
        })
    }

    pub(super) fn reboot(&mut self) {
        self.v4.iter_mut().chain(&mut self.v6).for_each(Nat::reboot);
    }

    pub(super) fn set_cable(&mut self, up: Link, down: Link) {
        (self.up, self.down) = (up, down);
    }

    fn nats(&self) -> impl Iterator<Item = &Nat> {
        self.v4.iter().chain(&self.v6)
    }

    fn nat(&mut self, family: Family) -> Option<&mut Nat> {
        match family {
            Family::V4 => self.v4.as_mut(),
            Family::V6 => self.v6.as_mut(),
        }
    }

    /// Returns the router's own address towards a side.
    fn address(&self, side: Side, family: Family) -> Option<IpAddr> {
        let own = match side {
            Side::Inside => &self.inner,
            Side::Outside => &self.outer,
        };
        own.iter().copied().find(|ip| Family::of(*ip) == family)
    }
}

impl Fabric {
    pub(super) fn outbound(&mut self, gate: usize, frame: Frame, at: Instant) {
        let Some((mut header, frame)) = self.admit(gate, Side::Inside, frame, at) else {
            return;
        };
        let verdict = match self.gates[gate].nat(header.family()) {
            Some(nat) => nat.outbound(&mut header, at),
            None => Verdict::Forward,
        };
        self.carry_out(gate, Side::Inside, verdict, header, frame, at);
    }

    pub(super) fn inbound(&mut self, gate: usize, frame: Frame, at: Instant) {
        let Some((mut header, frame)) = self.admit(gate, Side::Outside, frame, at) else {
            return;
        };
        let verdict = match self.gates[gate].nat(header.family()) {
            Some(nat) => nat.inbound(&mut header, at),
            None => Verdict::Forward,
        };
        self.carry_out(gate, Side::Outside, verdict, header, frame, at);
    }

    /// Reads a packet and takes one off its hop limit before the NAT sees it, as the simulator's routers do.
    fn admit(&mut self, gate: usize, from: Side, frame: Frame, at: Instant) -> Option<(Header, Frame)> {
        match wire::parse(frame.packet()) {
            Ok(header) if header.ttl > 1 => {
                let ttl = header.ttl - 1;
                Some((Header { ttl, ..header }, frame))
            }
            Ok(header) => {
                self.expire(gate, from, &header, frame, at);
                None
            }
            Err(why) => {
                self.drop_at(gate, frame, Drop::Malformed(why));
                None
            }
        }
    }

    fn carry_out(
        &mut self,
        gate: usize,
        from: Side,
        verdict: Verdict,
        header: Header,
        mut frame: Frame,
        at: Instant,
    ) {
        let to = match (verdict, from) {
            (Verdict::Forward, Side::Inside) => Side::Outside,
            (Verdict::Forward, Side::Outside) | (Verdict::Hairpin, _) => Side::Inside,
            (Verdict::Leak(why), _) => {
                self.note(gate, &frame, |place, packet| Event::Leaked {
                    place,
                    packet,
                    why: why.to_string(),
                });
                match from {
                    Side::Inside => Side::Outside,
                    Side::Outside => Side::Inside,
                }
            }
            (Verdict::Drop(why), _) => return self.drop_at(gate, frame, Drop::Nat(why)),
            (Verdict::Answer(answer, why), _) => {
                self.report.answered += 1;
                self.note(gate, &frame, |place, packet| Event::Answered {
                    place,
                    packet,
                    with: answer.to_string(),
                    why: why.to_string(),
                });
                self.drop_at(gate, frame, Drop::Nat(why));
                return match from {
                    Side::Inside => self.answer_inside(gate, &answer, at),
                    Side::Outside => self.answer_outside(gate, &answer, at),
                };
            }
        };
        let state = frame.checksum();
        if let Err(why) = wire::rewrite(frame.packet_mut(), &header, state) {
            return self.drop_at(gate, frame, Drop::Malformed(why));
        }
        match to {
            Side::Inside => self.send_inside(gate, frame, at),
            Side::Outside => self.send_outside(gate, frame, at),
        }
    }

    /// Drops a packet whose hop limit is used up, and reports it (RFC 1812, section 5.3.1).
    fn expire(&mut self, gate: usize, from: Side, header: &Header, frame: Frame, at: Instant) {
        self.drop_at(gate, frame, Drop::Expired);
        if self.gates[gate].is_silent {
            return;
        }
        let own = self.gates[gate].address(from, header.family());
        let Some(error) = own.and_then(|own| header.icmp_error(own, IcmpKind::TimeExceeded)) else {
            return;
        };
        self.report.answered += 1;
        match from {
            Side::Inside => self.answer_inside(gate, &error, at),
            Side::Outside => self.answer_outside(gate, &error, at),
        }
    }

    pub(super) fn answer_outside(&mut self, gate: usize, answer: &Header, at: Instant) {
        let frame = self.buffers.make(answer);
        self.send_outside(gate, frame, at);
    }

    fn answer_inside(&mut self, gate: usize, answer: &Header, at: Instant) {
        let frame = self.buffers.make(answer);
        self.send_inside(gate, frame, at);
    }

    fn send_inside(&mut self, gate: usize, frame: Frame, at: Instant) {
        let stage = Stage::Net { net: self.gates[gate].inside, from: Exit::Inside(gate) };
        self.ready.push((stage, frame, at));
    }

    fn send_outside(&mut self, gate: usize, frame: Frame, at: Instant) {
        let stage = Stage::Net { net: self.gates[gate].outside, from: Exit::Outside(gate) };
        let sent = self.gates[gate].up.send(frame.packet().len(), at);
        self.over(sent, stage, frame, at, Exit::Outside(gate));
    }

    fn note(&mut self, gate: usize, frame: &Frame, event: impl FnOnce(String, String) -> Event) {
        let place = &self.gates[gate].name;
        self.log.write(|| event(place.clone(), frame.to_string()));
    }

    fn drop_at(&mut self, gate: usize, frame: Frame, why: Drop) {
        let place = self.gates[gate].name.clone();
        self.drop(frame, why, &place);
    }
}

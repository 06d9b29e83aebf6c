//! The path of packets from outside to inside, and the answers to strangers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::open::advance;
use super::track::{Direction, Step};
use super::{DropReason, Nat, Policy, Unsolicited, Verdict};
use crate::sim::packet::{Body, Header, IcmpKind, Protocol};

impl Nat {
    pub(super) fn translate_in(&mut self, header: &mut Header, now: Instant) -> Verdict {
        if self.is_wrong_family(header) {
            return Verdict::Drop(DropReason::WrongFamily);
        }
        let Some(protocol) = header.protocol() else {
            return self.icmp_in(header, now);
        };
        if self.config.flow(protocol).policy == Policy::Blocked {
            return Verdict::Drop(DropReason::Blocked);
        }
        if self.is_open(protocol) {
            return Verdict::Forward;
        }
        let (external, remote) = (header.dst, header.src);
        if self.config.is_translating() && !self.config.external.contains(&external.ip()) {
            return Verdict::Drop(DropReason::NotForUs);
        }
        let key = (protocol, external, remote);
        if let Some(session) = self.table.session(key, now) {
            let step = advance(session, header, Direction::In, &self.config, now);
            let binding = session.binding;
            return match step {
                Step::Pass | Step::Ignore => self.deliver(binding, header),
                Step::PassAndDelete => {
                    let verdict = self.deliver(binding, header);
                    self.table.remove(key);
                    verdict
                }
                Step::Unsolicited(why) => self.refuse(header, why, now),
                Step::Invalid(why) => Verdict::Drop(why),
            };
        }
        let filtering = self.config.flow(protocol).filtering;
        let (admitted, mapped) = self.table.admit(protocol, external, remote, filtering, now);
        let Some(id) = admitted else {
            let why = if mapped { DropReason::Filtered(filtering) } else { DropReason::NoMapping };
            return self.refuse(header, why, now);
        };
        if let Err(why) = self.may_open(header).and_then(|()| self.has_room(now)) {
            return Verdict::Drop(why);
        }
        self.open(id, key, header, Direction::In, now);
        self.deliver(id, header)
    }

    fn deliver(&self, binding: u32, header: &mut Header) -> Verdict {
        match self.table.binding(binding) {
            Some(binding) => {
                header.dst = binding.local();
                Verdict::Forward
            }
            None => Verdict::Drop(DropReason::NoMapping),
        }
    }

    /// Returns the verdict on an unsolicited packet, with its answer.
    fn refuse(&mut self, header: &Header, why: DropReason, now: Instant) -> Verdict {
        let icmp = |kind| header.icmp_error(header.dst.ip(), kind);
        let (answer, after) = match header.body {
            Body::Tcp(tcp) if tcp.flags.is_syn() => match self.config.tcp.unsolicited {
                Unsolicited::Silence => (None, Duration::ZERO),
                Unsolicited::Reset => (header.reset(), Duration::ZERO),
                Unsolicited::ResetAfter { after } => (header.reset(), after),
                Unsolicited::Icmp(kind) => (icmp(kind), Duration::ZERO),
                Unsolicited::IcmpAfter { kind, after } => (icmp(kind), after),
            },
            Body::Tcp(_) => return Verdict::Drop(DropReason::NoSession),
            Body::Udp { .. } => (self.config.udp.unsolicited.and_then(icmp), Duration::ZERO),
            Body::Echo { .. } | Body::Icmp { .. } => (None, Duration::ZERO),
        };
        let (Some(answer), Some(protocol)) = (answer, header.protocol()) else {
            return Verdict::Drop(why);
        };
        let key = (protocol, header.dst, header.src);
        if after.is_zero() {
            self.hold(key, now);
            return Verdict::Answer(answer, why);
        }
        self.late.push(now + after, key, answer);
        Verdict::Drop(why)
    }

    fn icmp_in(&mut self, header: &mut Header, now: Instant) -> Verdict {
        let Body::Icmp { kind, quoted } = &mut header.body else {
            return Verdict::Drop(DropReason::UnknownQuote);
        };
        let protocol = quoted.protocol;
        if self.is_open(protocol) {
            return Verdict::Forward;
        }
        let key = (protocol, quoted.src, quoted.dst);
        let binding = self.table.session(key, now).map(|session| session.binding);
        let Some(local) = binding.and_then(|id| self.table.binding(id)).map(|binding| binding.local()) else {
            return Verdict::Drop(DropReason::UnknownQuote);
        };
        quoted.src = local;
        header.dst = SocketAddr::new(local.ip(), 0);
        let soft = matches!(kind, IcmpKind::TooBig);
        if protocol == Protocol::Tcp && self.config.tcp.icmp_deletes && !soft {
            self.table.remove(key);
        }
        Verdict::Forward
    }
}

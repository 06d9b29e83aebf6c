//! The path of packets from inside to outside, and from inside back inside.

use std::net::SocketAddr;
use std::time::Instant;

use super::open::advance;
use super::track::{Direction, Step};
use super::{DropReason, Hairpin, Nat, Policy, Verdict};
use crate::sim::packet::{Body, Header};

impl Nat {
    pub(super) fn route_out(&mut self, header: &mut Header, now: Instant) -> Verdict {
        if self.is_wrong_family(header) {
            return Verdict::Drop(DropReason::WrongFamily);
        }
        if !self.config.external.contains(&header.dst.ip()) {
            return self.translate_out(header, now);
        }
        match self.config.hairpin {
            Hairpin::None => Verdict::Drop(DropReason::NoHairpin),
            Hairpin::InternalSource => self.turn_round(header, now),
            Hairpin::ExternalSource => match self.translate_out(header, now) {
                Verdict::Forward => self.turn_round(header, now),
                other => other,
            },
        }
    }

    /// Takes the second half of hairpinning: the packet comes in again from outside.
    fn turn_round(&mut self, header: &mut Header, now: Instant) -> Verdict {
        match self.translate_in(header, now) {
            Verdict::Forward => Verdict::Hairpin,
            Verdict::Answer(mut answer, why) => {
                // The answer is addressed to the mapped source, and its host is inside.
                if self.config.external.contains(&answer.dst.ip())
                    && self.translate_in(&mut answer, now) != Verdict::Forward
                {
                    return Verdict::Drop(why);
                }
                Verdict::Answer(answer, why)
            }
            other => other,
        }
    }

    fn translate_out(&mut self, header: &mut Header, now: Instant) -> Verdict {
        let Some(protocol) = header.protocol() else {
            return self.icmp_out(header, now);
        };
        if self.config.flow(protocol).policy == Policy::Blocked {
            return Verdict::Drop(DropReason::Blocked);
        }
        if self.is_open(protocol) {
            return Verdict::Forward;
        }
        let (local, remote) = (header.src, header.dst);
        if let Some(key) = self.session_out(protocol, local, remote, now)
            && let Some(session) = self.table.session(key, now)
        {
            let step = advance(session, header, Direction::Out, &self.config, now);
            return match step {
                Step::Pass | Step::Ignore => {
                    header.src = key.1;
                    Verdict::Forward
                }
                Step::PassAndDelete => {
                    header.src = key.1;
                    self.table.remove(key);
                    Verdict::Forward
                }
                Step::Unsolicited(why) | Step::Invalid(why) => self.invalid_out(why),
            };
        }
        if let Err(why) = self.may_open(header) {
            return self.invalid_out(why);
        }
        match self.open_out(protocol, local, remote, header, now) {
            Ok(external) => {
                self.late.cancel((protocol, external, remote));
                header.src = external;
                Verdict::Forward
            }
            Err(why) => Verdict::Drop(why),
        }
    }

    fn invalid_out(&self, why: DropReason) -> Verdict {
        let leaks = self.config.tcp.leak_invalid && why != DropReason::NoRequest;
        if leaks { Verdict::Leak(why) } else { Verdict::Drop(why) }
    }

    fn icmp_out(&mut self, header: &mut Header, now: Instant) -> Verdict {
        let Body::Icmp { quoted, .. } = &mut header.body else {
            return Verdict::Drop(DropReason::UnknownQuote);
        };
        let protocol = quoted.protocol;
        if self.is_open(protocol) {
            return Verdict::Forward;
        }
        let Some((_, external, _)) = self.session_out(protocol, quoted.dst, quoted.src, now) else {
            return Verdict::Drop(DropReason::UnknownQuote);
        };
        quoted.dst = external;
        if self.config.is_translating() {
            header.src = SocketAddr::new(external.ip(), 0);
        }
        Verdict::Forward
    }
}

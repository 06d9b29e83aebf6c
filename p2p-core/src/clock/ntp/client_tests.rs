//! Stories of a client and its servers in virtual time.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::client::{LEAST_POLL, MOST_POLL};
use super::packet::{Leap, Packet, Short, Timestamp};
use super::*;
use crate::clock::{Clock, Offset, UnixTime};
use crate::sim::epoch;
use crate::sim::laws::drain;
use crate::sim::ntp::NtpServer;
use crate::{Deadline, Machine, Output, Seed};

const NOON: UnixTime = UnixTime::from_secs(1_800_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn at(server: usize) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, server as u8 + 1], DEFAULT_PORT))
}

/// The behaviour of a server that is asked.
#[derive(Clone, Debug)]
enum Manner {
    /// Answers. The numbers are the longest time in milliseconds that a packet takes in each direction, and the
    /// chance of its loss.
    Says(NtpServer, [u64; 2], f64),
    Silent,
    Unknown,
    Unreachable,
    /// Answers as `Says` does, after a forgery by somebody who cannot see the question.
    Forged(NtpServer),
}

fn says(ahead: i64) -> Manner {
    Manner::Says(NtpServer::ahead(ahead), [30, 30], 0.0)
}

/// A client whose clock is behind the true time, and everything it asked and reported.
struct Story {
    client: Client,
    manners: Vec<Manner>,
    /// The time by which our clock is behind, in microseconds.
    behind: i64,
    dice: Seed,
    now: Instant,
    wire: BTreeMap<(Instant, u64), (usize, SocketAddr, Vec<u8>)>,
    count: u64,
    reports: Vec<(Duration, Report)>,
    /// The times at which questions were sent, each with its server.
    sent: Vec<(Duration, usize)>,
    resolved: Vec<(Duration, usize)>,
    released: usize,
}

impl Story {
    fn new(manners: &[Manner], behind: i64) -> Self {
        Self::with(ClientConfig { servers: manners.len(), ..ClientConfig::default() }, manners, behind, 1)
    }

    fn with(config: ClientConfig, manners: &[Manner], behind: i64, seed: u64) -> Self {
        let clock = Clock::new(epoch(), NOON);
        Self {
            client: Client::new(config, clock, Seed::from_u64(seed), epoch()).unwrap(),
            manners: manners.to_vec(),
            behind,
            dice: Seed::from_u64(seed ^ 0xd1ce),
            now: epoch(),
            wire: BTreeMap::new(),
            count: 0,
            reports: Vec::new(),
            sent: Vec::new(),
            resolved: Vec::new(),
            released: 0,
        }
    }

    fn truth(&self, at: Instant) -> UnixTime {
        UnixTime(Clock::new(epoch(), NOON).unix(at).0.saturating_add_signed(self.behind))
    }

    fn deliver(&mut self, server: usize, after: Duration, bytes: Vec<u8>) {
        self.count += 1;
        self.wire.insert((self.now + after, self.count), (server, at(server), bytes));
    }

    fn act(&mut self, act: Act) {
        let since = self.now - epoch();
        match act {
            Act::Resolve { server } => {
                self.resolved.push((since, server));
                let found = match self.manners[server] {
                    Manner::Unknown => Err("no such name".to_owned()),
                    _ => Ok(vec![at(server)]),
                };
                self.client.handle_resolved(server, found, self.now);
            }
            Act::Send { server, to, bytes } => {
                assert_eq!(to, at(server));
                self.sent.push((since, server));
                match self.manners[server].clone() {
                    Manner::Says(answers, [there, back], loss) => {
                        if !self.dice.chance(loss) {
                            let there = self.dice.up_to(Duration::from_millis(there));
                            let back = self.dice.up_to(Duration::from_millis(back));
                            let time = self.truth(self.now + there);
                            let answer = answers.answer(&bytes, time, time).unwrap();
                            self.deliver(server, there + back, answer.to_vec());
                        }
                    }
                    Manner::Forged(answers) => {
                        let forged = Packet { transmit: Timestamp(77), ..Packet::decode(&bytes).unwrap() };
                        let lie = NtpServer::ahead(3_600_000_000);
                        let time = self.truth(self.now);
                        self.deliver(
                            server,
                            SECOND / 100,
                            lie.answer(&forged.encode(), time, time).unwrap().into(),
                        );
                        self.deliver(server, SECOND / 50, answers.answer(&bytes, time, time).unwrap().into());
                        // And the honest answer once more.
                        self.deliver(server, SECOND / 50, answers.answer(&bytes, time, time).unwrap().into());
                    }
                    Manner::Unreachable => {
                        self.client.handle_unreachable(server, io::ErrorKind::HostUnreachable, self.now);
                    }
                    Manner::Silent | Manner::Unknown => {}
                }
            }
            Act::Release { .. } => self.released += 1,
        }
    }

    fn drain(&mut self) -> Option<Deadline> {
        loop {
            match self.client.poll_output() {
                Output::Act(act) => self.act(act),
                Output::Event(report) => self.reports.push((self.now - epoch(), report)),
                Output::Wait(deadline) => return deadline,
            }
        }
    }

    fn run(&mut self, until: Duration) -> &mut Self {
        loop {
            let wait = self.drain().map(|deadline| deadline.at);
            let next = self.wire.keys().next().map(|(at, _)| *at);
            let Some(soonest) = [wait, next].into_iter().flatten().min() else { break };
            if soonest > epoch() + until {
                break;
            }
            self.now = soonest;
            if next == Some(soonest) {
                let (server, from, bytes) = self.wire.pop_first().unwrap().1;
                self.client.handle_datagram(server, from, &bytes, self.now);
            } else {
                self.client.handle_timeout(self.now);
            }
        }
        self.now = self.now.max(epoch() + until);
        self
    }

    fn last(&self) -> &Report {
        &self.reports.last().expect("a report").1
    }

    fn offset(&self) -> Option<Offset> {
        self.last().measured.map(|measured| measured.offset(self.now))
    }

    fn failure(&self, server: usize) -> Option<&Failure> {
        self.last().servers[server].failure.as_ref()
    }

    fn asked(&self, server: usize) -> Vec<Duration> {
        self.sent.iter().filter(|(_, asked)| *asked == server).map(|(at, _)| *at).collect()
    }
}

#[test]
fn three_servers_tell_how_far_the_clock_is_off() {
    let mut story = Story::new(&[says(0), says(200), says(-300)], 90_000_000);
    story.run(SECOND * 20);
    let offset = story.offset().unwrap();
    assert!(offset.contains(90_000_000_000), "{offset}");
    assert!(offset.error < Duration::from_millis(20), "{offset}");
    assert!(story.last().servers.iter().all(|server| server.word.unwrap().is_agreed));
    assert_eq!(story.sent.len(), 18);
    assert_eq!(story.asked(0), [0, 2, 4, 6, 8, 10].map(Duration::from_secs));
    assert_eq!(story.released, 3, "an idle client keeps no socket");
    assert_eq!(story.client.counters().answers, 18);
    // Nothing is certain before everybody had his say.
    assert_eq!(story.reports[0].1.measured, None);
}

#[test]
fn later_rounds_are_far_between_and_small() {
    let mut story = Story::new(&[says(0)], 0);
    story.run(SECOND * 3_600);
    let asked = story.asked(0);
    assert!((6 + 2 * 12..=6 + 2 * 16).contains(&asked.len()), "{asked:?}");
    let offset = story.offset().unwrap();
    // Between rounds, quartz adds 100 ppm of 282 s at most.
    assert!(offset.contains(0) && offset.error < Duration::from_millis(60), "{offset}");
}

#[test]
fn a_liar_is_outvoted_and_named() {
    let mut story = Story::new(&[says(5_000_000), says(0), says(100)], 1_000);
    story.run(SECOND * 20);
    assert!(story.offset().unwrap().contains(1_000_000));
    let agreed: Vec<bool> =
        story.last().servers.iter().map(|server| server.word.unwrap().is_agreed).collect();
    assert_eq!(agreed, [false, true, true]);
}

#[test]
fn two_that_contradict_each_other_settle_nothing() {
    let mut story = Story::new(&[says(5_000_000), says(0)], 0);
    story.run(SECOND * 20);
    assert_eq!(story.offset(), None);
    assert!(story.last().servers.iter().all(|server| !server.word.unwrap().is_agreed));
}

#[test]
fn a_quick_liar_is_not_believed_before_the_others_had_their_say() {
    let quick = Manner::Says(NtpServer::ahead(9_000_000), [1, 1], 0.0);
    let mut story = Story::new(&[quick, says(0), says(0), Manner::Silent], 0);
    story.run(SECOND * 20);
    let first = story.reports.iter().find_map(|(at, report)| Some((*at, report.measured?))).unwrap();
    assert_eq!(first.0, SECOND * 2, "the silent one had its chance");
    assert!(
        story
            .reports
            .iter()
            .filter_map(|(_, report)| report.measured)
            .all(|measured| { measured.offset(measured.at()).contains(0) })
    );
}

#[test]
fn every_failure_is_named_and_the_rest_go_on() {
    let strange = |says| Manner::Says(NtpServer { ahead: 0, says }, [30, 30], 0.0);
    let usual = NtpServer::default().says;
    let mut story = Story::new(
        &[
            says(0),
            Manner::Silent,
            Manner::Unknown,
            Manner::Unreachable,
            strange(Packet { stratum: 16, ..usual }),
            strange(Packet { leap: Leap::Unsynchronised, ..usual }),
            strange(Packet { root_dispersion: Short(3 << 16), ..usual }),
            Manner::Says(NtpServer::kissing(*b"IN\0T"), [30, 30], 0.0),
        ],
        77,
    );
    story.run(SECOND * 20);
    assert!(story.offset().unwrap().contains(77_000));
    let failures: Vec<String> =
        (0..8).map(|server| story.failure(server).map_or(String::new(), Failure::to_string)).collect();
    assert_eq!(
        failures,
        [
            "",
            "no answer",
            "not found: no such name",
            "unreachable: host unreachable",
            "it does not know the time itself",
            "it does not know the time itself",
            "its own time may be off by 3.0 s",
            "it tells no time (IN\\x00T)",
        ]
    );
    // Names are asked for again, those of servers that do well are not.
    story.run(SECOND * 1_000);
    let again = |server| story.resolved.iter().filter(|(_, asked)| *asked == server).count();
    assert_eq!(again(0), 1);
    assert!((3..8).contains(&again(1)) && (3..8).contains(&again(2)));
}

#[test]
fn a_server_that_refuses_is_left_alone() {
    for code in [b"DENY", b"RSTR"] {
        let mut story = Story::new(&[Manner::Says(NtpServer::kissing(*code), [30, 30], 0.0)], 0);
        story.run(SECOND * 86_400);
        assert_eq!(story.sent.len(), 1);
        assert_eq!(story.failure(0), Some(&Failure::Denied(Kiss(*code))));
        story.client.handle_again(story.now);
        story.client.handle_clock(Clock::new(story.now, NOON), story.now);
        assert_eq!(story.drain(), None, "nobody is left to be asked");
        assert_eq!(story.sent.len(), 1);
    }
}

#[test]
fn a_server_that_is_asked_too_often_is_asked_less_each_time() {
    let mut story = Story::new(&[Manner::Says(NtpServer::kissing(*b"RATE"), [30, 30], 0.0), says(0)], 0);
    story.run(MOST_POLL * 3);
    let asked = story.asked(0);
    assert_eq!(asked[0], Duration::ZERO);
    for (pauses, pair) in asked.windows(2).enumerate() {
        let pause = pair[1] - pair[0];
        let promised = (SECOND * 256 * (2 << pauses.min(20))).min(MOST_POLL);
        assert!(pause >= promised, "{pauses}: {pause:?} is less than {promised:?}");
    }
    assert!((9..16).contains(&asked.len()), "{asked:?}");
    // The other server is not affected.
    assert!(story.offset().is_some());
}

#[test]
fn a_server_that_was_asked_too_often_once_gets_no_burst_again() {
    let mut story = Story::new(&[Manner::Says(NtpServer::kissing(*b"RATE"), [30, 30], 0.0)], 0);
    story.run(SECOND);
    story.manners = vec![says(0)];
    story.run(SECOND * 6_000);
    let asked = story.asked(0);
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= SECOND * 512), "{asked:?}");
    assert!(asked.len() > 6 && story.offset().unwrap().contains(0));
}

#[test]
fn a_blind_forger_and_a_repeater_are_not_heard() {
    let mut story = Story::new(&[Manner::Forged(NtpServer::default())], 0);
    story.run(SECOND * 20);
    assert!(story.offset().unwrap().contains(0));
    assert_eq!((story.client.counters().answers, story.client.counters().foreign), (6, 12));
    assert_eq!(story.failure(0), None);
}

#[test]
fn an_answer_from_elsewhere_is_not_heard() {
    let mut client = Client::new(
        ClientConfig { servers: 1, ..ClientConfig::default() },
        Clock::new(epoch(), NOON),
        Seed::from_u64(1),
        epoch(),
    )
    .unwrap();
    drain(&mut client);
    client.handle_resolved(0, Ok(vec![at(0)]), epoch());
    let question = drain(&mut client).acts.into_iter().find_map(|act| match act {
        Act::Send { bytes, .. } => Some(bytes),
        _ => None,
    });
    let question = question.unwrap();
    let answer = NtpServer::default().answer(&question, NOON, NOON).unwrap();
    let later = epoch() + SECOND / 50;
    client.handle_datagram(0, at(1), &answer, later);
    client.handle_datagram(0, at(0), &question, later);
    client.handle_datagram(0, at(0), &answer[..47], later);
    client.handle_datagram(1, at(0), &answer, later);
    assert!(drain(&mut client).is_quiet());
    assert_eq!((client.counters().foreign, client.counters().garbage), (1, 2));
    client.handle_datagram(0, at(0), &answer, later);
    assert!(drain(&mut client).events[0].measured.is_some());
}

#[test]
fn one_server_under_two_names_has_one_voice() {
    let config = ClientConfig { servers: 3, ..ClientConfig::default() };
    let mut client = Client::new(config, Clock::new(epoch(), NOON), Seed::from_u64(1), epoch()).unwrap();
    let found = [vec![at(0), at(1)], vec![at(0), at(1), at(2)], vec![at(0), at(1)]];
    for (server, found) in found.into_iter().enumerate() {
        client.handle_resolved(server, Ok(found), epoch());
    }
    let drained = drain(&mut client);
    let asked: Vec<_> = drained.acts.iter().filter(|act| matches!(act, Act::Send { .. })).cloned().collect();
    let to = |act: &Act| match act {
        Act::Send { server, to, .. } => (*server, *to),
        other => panic!("{other:?}"),
    };
    assert_eq!(asked.iter().map(to).collect::<Vec<_>>(), [(0, at(0)), (1, at(1))]);
    assert_eq!(drained.events.last().unwrap().servers[2].failure, Some(Failure::Twin));
    // The first server stays silent, and its other address is that of the second one.
    client.handle_timeout(epoch() + SECOND * 2);
    let asked: Vec<_> = drain(&mut client).acts.iter().map(to).collect();
    assert_eq!(asked, [(0, at(0)), (1, at(2))], "each looks for an address of its own");
}

#[test]
fn a_clock_that_was_set_is_measured_anew() {
    let mut story = Story::new(&[says(0), says(0), says(0)], 5_000_000);
    story.run(SECOND * 30);
    assert!(story.offset().unwrap().contains(5_000_000_000));
    // Somebody sets it right.
    let now = story.now;
    let right = Clock::new(now, story.truth(now));
    story.client.handle_clock(right, now);
    story.drain();
    assert_eq!(story.offset(), None, "what was known is void");
    story.run(SECOND * 60);
    assert!(story.offset().unwrap().contains(0));
    assert_eq!(story.asked(0).len(), 12);
}

#[test]
fn a_changed_network_is_asked_at_once_but_not_incessantly() {
    let mut story = Story::new(&[Manner::Silent], 0);
    story.run(SECOND * 20);
    for second in 0..100 {
        story.client.handle_again(story.now);
        story.run(SECOND * (21 + second));
    }
    let asked = story.asked(0);
    let rounds = asked.windows(2).filter(|pair| pair[1] - pair[0] > SECOND * 3).count() as u32;
    assert!((5..=120 / LEAST_POLL.as_secs() as u32).contains(&rounds), "{asked:?}");
}

#[test]
fn the_network_may_come_up_later() {
    let mut story = Story::new(&[Manner::Unknown, Manner::Unreachable], 0);
    // The pauses between rounds are 16 … 32 s and 32 … 64 s at first.
    story.run(SECOND * 60);
    assert_eq!(story.offset(), None);
    story.manners = vec![says(0), says(0)];
    story.run(SECOND * 140);
    assert!(story.offset().unwrap().contains(0));
}

#[test]
fn a_machine_that_woke_up_in_1970_learns_the_time() {
    let mut client = Client::new(
        ClientConfig { servers: 1, ..ClientConfig::default() },
        Clock::new(epoch(), UnixTime(12_000_000)),
        Seed::from_u64(1),
        epoch(),
    )
    .unwrap();
    client.handle_resolved(0, Ok(vec![at(0)]), epoch());
    let Some(Act::Send { bytes, .. }) = drain(&mut client).acts.pop() else { panic!("no question") };
    let after = UnixTime::from_secs(2_100_000_000);
    let answer = NtpServer::default().answer(&bytes, after, after).unwrap();
    client.handle_datagram(0, at(0), &answer, epoch());
    let offset = drain(&mut client).events[0].measured.unwrap().offset(epoch());
    assert!(offset.contains((after.0 as i64 - 12_000_000) * 1_000), "{offset}");
}

#[test]
fn too_many_servers_are_refused_and_none_is_rest() {
    let clock = Clock::new(epoch(), NOON);
    let config = |servers| ClientConfig { servers, ..ClientConfig::default() };
    let refused = Client::new(config(MOST_SERVERS + 1), clock, Seed::from_u64(1), epoch());
    assert_eq!(refused.unwrap_err(), TooManyServers(9));
    let mut idle = Client::new(config(0), clock, Seed::from_u64(1), epoch()).unwrap();
    let drained = drain(&mut idle);
    assert!(drained.is_quiet() && drained.wait.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any delays, losses and lies, the bound holds at any time as long as most servers are honest.
    #[test]
    fn the_true_offset_is_always_within_the_bound(
        seed: u64,
        behind in -10_000_000_000i64..10_000_000_000,
        honest in vec((-400i64..400, [0u64..400, 0u64..400], 0.0..0.6), 2..5),
        liar in -20_000_000i64..20_000_000,
        hours in 0u32..3,
    ) {
        // The root distance that each server admits, 1 ms, covers its error.
        let mut manners: Vec<_> = honest
            .into_iter()
            .map(|(ahead, delays, loss)| Manner::Says(NtpServer::ahead(ahead), delays, loss))
            .collect();
        manners.insert(seed as usize % manners.len(), says(liar));
        let config = ClientConfig { servers: manners.len(), ..ClientConfig::default() };
        let mut story = Story::with(config, &manners, behind, seed);
        story.run(SECOND * (30 + hours * 3_600));
        let truth = behind * 1_000;
        for (_, report) in &story.reports {
            // Of fewer than three servers that answer, a liar is believed: no protocol can help that.
            let words = report.servers.iter().filter(|server| server.word.is_some()).count();
            if let Some(measured) = report.measured.filter(|_| words >= 3) {
                for later in [0, 60, 3_600] {
                    let offset = measured.offset(measured.at() + SECOND * later);
                    prop_assert!(offset.contains(truth), "{offset} is not {truth} ns: {report:?}");
                }
            }
        }
    }
}

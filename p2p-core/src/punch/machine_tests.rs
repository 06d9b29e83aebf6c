use std::collections::BTreeSet;
use std::net::IpAddr;

use super::*;
use crate::attempt::AttemptId;
use crate::nat::forecast::PortForecast;
use crate::nat::{Delta, DeltaKind, Filtering, NatFacts, NatType, SynAnswer};
use crate::punch::message::Answer;
use crate::punch::{Limits, Mode, PathTiming};
use crate::sim::epoch;
use crate::sim::laws::drain;
use crate::{Clock, UnixTime};

const OURS: [u8; 4] = [198, 51, 100, 1];
const THEIRS: [u8; 4] = [203, 0, 113, 1];

fn at(millis: u64) -> Instant {
    epoch() + Duration::from_millis(millis)
}

fn home() -> NatFacts {
    let delta = Some(Delta { kind: DeltaKind::Equal, value: 0 });
    NatFacts {
        nat: Some(NatType::PortRestricted),
        delta,
        syn: Some(SynAnswer::Silence),
        ..NatFacts::default()
    }
}

fn asked() -> NatFacts {
    NatFacts { delta: Some(Delta { kind: DeltaKind::Random, value: 0 }), ..home() }
}

fn config(role: Role, facts: NatFacts) -> PunchConfig {
    PunchConfig {
        attempt: AttemptId([7; 16]),
        pair: 0,
        role,
        mode: Mode::Remote,
        local: Local(SocketAddr::from(([192, 168, 1, 2], 0))),
        address: OURS.into(),
        remote: SocketAddr::from((THEIRS, 0)),
        at: [192, 168, 2, 2].into(),
        facts,
        theirs: NatFacts::default(),
        can_observe: true,
        silent_hop: None,
        path_timing: PathTiming::default(),
        clock: Clock::new(epoch(), UnixTime::from_secs(1_800_000_000)),
        limits: Limits::default(),
    }
}

fn their_side(address: [u8; 4]) -> Endpoint {
    Endpoint {
        address: address.into(),
        ports: PortForecast::Fixed(vec![6_000, 6_001]),
        filtering: Filtering::AddressAndPortDependent,
        syn: Some(SynAnswer::Silence),
        low_ttl: false,
        sockets: 96,
    }
}

fn message(round: u8, step: Step) -> Message {
    let transmit = UnixTime::from_secs(1_800_000_000);
    Message { pair: 0, round, stamps: super::super::timing::Stamps { transmit, ..Default::default() }, step }
}

fn offer(address: [u8; 4]) -> Message {
    let at = IpAddr::from([192, 168, 1, 2]);
    message(0, Step::Offer(Offer { mode: Mode::Remote, at, side: their_side(address), error: None }))
}

fn answer(address: [u8; 4], round: u8) -> Message {
    let start = UnixTime::from_secs(1_800_000_000 + 4 * u64::from(round));
    let timing = Timing { start, lead: 50, spread: 50, step: 32 };
    message(round, Step::Answer(Answer { side: their_side(address), timing }))
}

/// Does everything at once, as a machine would on which nothing fails.
struct Driver {
    punch: Punch,
    acts: Vec<Act>,
    events: Vec<Event>,
}

impl Driver {
    fn new(punch: Punch) -> Self {
        let mut driver = Self { punch, acts: Vec::new(), events: Vec::new() };
        driver.turn(epoch());
        driver
    }

    fn turn(&mut self, now: Instant) {
        loop {
            match self.punch.poll_output() {
                Output::Act(act) => {
                    match &act {
                        Act::Socket(SocketAct::Reserve(share)) => {
                            self.punch.handle(Input::Share(*share), now);
                        }
                        Act::Socket(SocketAct::Listen(at)) => {
                            self.punch.handle(Input::Listening(*at, Ok(())), now);
                        }
                        Act::Socket(SocketAct::Observe(from)) => {
                            let mapped = SocketAddr::from((OURS, from.0.port() ^ 1));
                            self.punch.handle(Input::Observed(*from, Some(Mapped(mapped))), now);
                        }
                        _ => {}
                    }
                    self.acts.push(act);
                }
                Output::Event(event) => self.events.push(event),
                Output::Wait(_) => return,
            }
        }
    }

    fn hears(&mut self, message: &Message, now: Instant) {
        self.punch.handle_message(message, now);
        self.turn(now);
    }

    fn until(&mut self, until: Instant) {
        while let Some(deadline) = self.punch.deadline().filter(|deadline| deadline.at <= until) {
            self.punch.handle_timeout(deadline.at);
            self.turn(deadline.at);
        }
    }

    fn dials(&self) -> Vec<(Socket, SocketAddr)> {
        let dial = |act: &Act| match act {
            Act::Socket(SocketAct::Dial { socket, to, .. }) => Some((*socket, *to)),
            _ => None,
        };
        self.acts.iter().filter_map(dial).collect()
    }

    fn position(&self, which: impl Fn(&Act) -> bool) -> Option<usize> {
        self.acts.iter().position(which)
    }
}

#[test]
fn the_caller_listens_and_asks_before_it_offers_and_dials_when_it_knows() {
    let mut caller = Driver::new(Punch::call(config(Role::Caller, asked()), epoch()));
    let offered = caller.position(|act| matches!(act, Act::Signal(_))).unwrap();
    let observed = caller
        .acts
        .iter()
        .take(offered)
        .filter(|act| matches!(act, Act::Socket(SocketAct::Observe(_))))
        .count();
    let listening = caller
        .acts
        .iter()
        .take(offered)
        .filter(|act| matches!(act, Act::Socket(SocketAct::Listen(_))))
        .count();
    assert_eq!((observed, listening), (4, 4));
    assert!(caller.dials().is_empty());
    let Act::Signal(message) = &caller.acts[offered] else { unreachable!() };
    let Step::Offer(offer) = &message.step else { panic!("{message:?}") };
    let outside: Vec<u16> = caller
        .acts
        .iter()
        .filter_map(|act| match act {
            Act::Socket(SocketAct::Observe(from)) => Some(from.0.port() ^ 1),
            _ => None,
        })
        .collect();
    let PortForecast::Fixed(ports) = &offer.side.ports else { panic!("{offer:?}") };
    assert!(ports.iter().all(|port| outside.contains(port)));

    caller.hears(&answer(THEIRS, 0), at(80));
    caller.until(at(81));
    assert_eq!(caller.dials().len(), 1, "one pair, at once");
    assert_eq!(caller.dials()[0].1, SocketAddr::from((THEIRS, 6_000)));
    caller.until(at(600));
    let targets: BTreeSet<_> = caller.dials().into_iter().map(|(_, to)| to).collect();
    assert!(caller.dials().len() >= 4 && targets.len() == 2, "others follow, for what was lost");
}

#[test]
fn the_answerer_dials_after_one_message() {
    let mut answerer = Driver::new(Punch::answer(config(Role::Answerer, home()), &offer(THEIRS), epoch()));
    answerer.until(epoch());
    assert_eq!(answerer.dials().len(), 1);
    let said = answerer.position(|act| matches!(act, Act::Signal(_))).unwrap();
    assert!(matches!(&answerer.acts[said], Act::Signal(Message { step: Step::Answer(_), .. })));
    assert!(
        answerer.position(|act| matches!(act, Act::Socket(SocketAct::Observe(_)))).is_none(),
        "its NAT keeps ports"
    );
}

#[test]
fn a_foreseeable_peer_is_dialled_before_it_answers_at_the_port_it_will_use() {
    let theirs = PunchConfig { theirs: home(), ..config(Role::Caller, home()) };
    let caller = Driver::new(Punch::call(theirs, epoch()));
    let [(_, to)] = caller.dials()[..] else { panic!("{:?}", caller.acts) };
    let mirrored = PunchConfig {
        local: Local(SocketAddr::from(([192, 168, 2, 2], 0))),
        address: THEIRS.into(),
        remote: SocketAddr::from((OURS, 0)),
        ..config(Role::Answerer, home())
    };
    let answerer = Driver::new(Punch::answer(mirrored, &offer(OURS), epoch()));
    let Some(Act::Socket(SocketAct::Listen(first))) =
        answerer.acts.iter().find(|act| matches!(act, Act::Socket(SocketAct::Listen(_))))
    else {
        panic!("{:?}", answerer.acts)
    };
    assert_eq!(to, SocketAddr::from((THEIRS, first.0.port())));
    // A NAT that answers would end that dial, and the pair with it.
    let harsh = NatFacts { syn: Some(SynAnswer::Reset), ..home() };
    let theirs = PunchConfig { theirs: harsh, ..config(Role::Caller, home()) };
    assert!(Driver::new(Punch::call(theirs, epoch())).dials().is_empty());
}

#[test]
fn only_the_address_that_was_checked_is_ever_dialled() {
    for forged in [[127, 0, 0, 1], [224, 0, 0, 1], [198, 51, 100, 77], [0, 0, 0, 0]] {
        let mut caller = Driver::new(Punch::call(config(Role::Caller, home()), epoch()));
        caller.hears(&answer(forged, 0), at(80));
        caller.until(at(60_000));
        assert!(caller.dials().is_empty());
        assert_eq!(caller.events, [Event::Lost(Failed::NotTheirs)]);
        let punch = Punch::answer(config(Role::Answerer, home()), &offer(forged), epoch());
        let mut answerer = Driver::new(punch);
        answerer.until(at(60_000));
        assert!(answerer.dials().is_empty());
    }
}

#[test]
fn the_stun_connections_stay_until_the_end_and_go_last() {
    let mut caller = Driver::new(Punch::call(config(Role::Caller, asked()), epoch()));
    caller.hears(&answer(THEIRS, 0), at(80));
    caller.until(at(300));
    let dials = caller.dials();
    assert!(caller.position(|act| matches!(act, Act::Socket(SocketAct::Forget(_)))).is_none());
    let (kept, lost) = (dials[0].0, dials[1].0);
    let remote = SocketAddr::from((THEIRS, 6_000));
    let up = caller.punch.handle(Input::Connected { socket: kept, remote }, at(300));
    assert_eq!(up, Some(kept));
    caller.punch.handle_kept(kept, at(400));
    caller.turn(at(400));
    let dropped = caller.position(|act| *act == Act::Socket(SocketAct::Drop(lost))).unwrap();
    let unlistened = caller.position(|act| matches!(act, Act::Socket(SocketAct::Unlisten(_)))).unwrap();
    let forgotten = caller.position(|act| matches!(act, Act::Socket(SocketAct::Forget(_)))).unwrap();
    assert!(dropped < unlistened && unlistened < forgotten);
    assert!(!caller.acts.contains(&Act::Socket(SocketAct::Drop(kept))));
    assert!(matches!(caller.acts.last(), Some(Act::Socket(SocketAct::GiveBack(_)))));
    assert!(caller.events.is_empty() && caller.punch.report().failed.is_none());
}

#[test]
fn a_stranger_on_the_punched_port_does_not_end_it() {
    let mut caller = Driver::new(Punch::call(config(Role::Caller, home()), epoch()));
    caller.hears(&answer(THEIRS, 0), at(80));
    let Some(Act::Socket(SocketAct::Listen(port))) =
        caller.acts.iter().find(|act| matches!(act, Act::Socket(SocketAct::Listen(_)))).cloned()
    else {
        panic!()
    };
    let stranger = SocketAddr::from(([192, 0, 2, 66], 1_234));
    let socket = caller.punch.handle(Input::Accepted { at: port, remote: stranger }, at(90)).unwrap();
    caller.punch.handle_unproven(socket, at(120));
    caller.until(at(1_000));
    assert!(caller.dials().len() > 3);
    assert_eq!(caller.punch.report().tally.strange, 1);
}

#[test]
fn other_waves_follow_with_other_ports_and_then_it_is_over() {
    let mut caller = Driver::new(Punch::call(config(Role::Caller, home()), epoch()));
    let mut now = 80;
    for round in 0..4 {
        caller.hears(&answer(THEIRS, round), at(now));
        caller.until(at(now + 4_000));
        now += 4_000;
    }
    assert_eq!(caller.events, [Event::Lost(Failed::Spent)]);
    let report = caller.punch.report();
    assert_eq!((report.rounds, report.tactic, report.failed), (4, Some(Tactic::Now), Some(Failed::Spent)));
    let said = caller.acts.iter().filter_map(|act| match act {
        Act::Signal(message) => Some((message.round, matches!(message.step, Step::Update(_)))),
        _ => None,
    });
    let said: BTreeSet<_> = said.collect();
    assert_eq!(said, [(0, false), (1, true), (2, true), (3, true)].into());
    assert_eq!(report.to_string().lines().count(), 1);
    assert!(report.to_string().contains("now, 23 dialled in 4 rounds: nothing that was dialled"), "{report}");
}

#[test]
fn a_peer_that_gives_up_first_has_answered() {
    let begin = || Driver::new(Punch::call(config(Role::Caller, home()), epoch()));
    let declined = |round| message(round, Step::Decline(RefusalReason::NoRoute));
    let last_words: [Option<Message>; 2] = [None, Some(declined(1))];
    for last_word in last_words {
        let mut caller = begin();
        caller.hears(&answer(THEIRS, 0), at(80));
        caller.until(at(6_000));
        if let Some(word) = last_word {
            caller.hears(&word, at(6_000));
        }
        caller.until(at(60_000));
        assert!(!caller.dials().is_empty());
        assert_eq!(caller.events, [Event::Lost(Failed::Spent)]);
    }
    // Before anything was agreed on, that is what there is to tell.
    let mut caller = begin();
    caller.until(at(60_000));
    assert_eq!(caller.events, [Event::Lost(Failed::Silent)]);
    let mut caller = begin();
    caller.hears(&declined(0), at(80));
    assert_eq!(caller.events, [Event::Lost(Failed::Declined(RefusalReason::NoRoute))]);
}

#[test]
fn what_this_machine_lacks_is_an_error_and_no_crash() {
    let begin = || Punch::call(config(Role::Caller, asked()), epoch());
    let mut punch = begin();
    drain(&mut punch);
    punch.handle(Input::Share(Share::default()), epoch());
    assert_eq!(drain(&mut punch).events, [Event::Lost(Failed::NoBudget)]);

    // No port can be bound: others are tried, then it gives up.
    let mut punch = begin();
    drain(&mut punch);
    punch.handle(Input::Share(Share { sockets: 96, per_second: 250 }), epoch());
    let mut tried = 0;
    let lost = loop {
        let drained = drain(&mut punch);
        for act in drained.acts {
            if let Act::Socket(SocketAct::Listen(at)) = act {
                tried += 1;
                punch.handle(Input::Listening(at, Err(DialError::Local("address in use".into()))), epoch());
            }
        }
        if !drained.events.is_empty() {
            break drained.events;
        }
    };
    assert_eq!((lost, tried), (vec![Event::Lost(Failed::NoPorts)], 20));

    // No server answers.
    let mut punch = begin();
    drain(&mut punch);
    punch.handle(Input::Share(Share { sockets: 96, per_second: 250 }), epoch());
    for act in drain(&mut punch).acts {
        if let Act::Socket(SocketAct::Listen(at)) = act {
            punch.handle(Input::Listening(at, Ok(())), epoch());
        }
    }
    drain(&mut punch);
    punch.handle_timeout(at(1_500));
    let drained = drain(&mut punch);
    assert_eq!(drained.events, [Event::Lost(Failed::NoPorts)]);
    assert!(drained.acts.iter().any(|act| matches!(act, Act::Socket(SocketAct::GiveBack(_)))));
}

#[test]
fn an_answerer_with_no_budget_asks_for_a_share_and_declines() {
    let limits = Limits { sockets: 0, ..Limits::default() };
    let config = PunchConfig { limits, ..config(Role::Answerer, home()) };
    let mut punch = Punch::answer(config, &offer(THEIRS), epoch());
    let acts = drain(&mut punch).acts;
    assert!(matches!(acts[..], [Act::Socket(SocketAct::Reserve(Share { sockets: 0, .. }))]), "{acts:?}");
    punch.handle(Input::Share(Share::default()), at(5_000));
    let said = drain(&mut punch);
    let busy =
        |act: &Act| matches!(act, Act::Signal(Message { step: Step::Decline(RefusalReason::Busy), .. }));
    assert!(said.acts.iter().any(busy), "{said:?}");
    assert_eq!(said.events, [Event::Lost(Failed::NoBudget)]);
}

#[test]
fn after_a_promising_round_that_came_to_nothing_none_is_promising() {
    let mut caller = Driver::new(Punch::call(config(Role::Caller, home()), epoch()));
    caller.hears(&answer(THEIRS, 0), at(80));
    assert!(caller.punch.hopeful_until().is_some_and(|until| until > at(80)));
    caller.until(at(4_080));
    caller.hears(&answer(THEIRS, 1), at(4_080));
    assert!(caller.punch.report().rounds == 2 && !caller.punch.is_over());
    assert_eq!(caller.punch.hopeful_until(), None, "a relay need not wait for it");
}

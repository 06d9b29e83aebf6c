//! The machine that punches between one address of ours and one of the peer's.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::agree::{Agree, AgreeAct, AgreeEvent};
use super::budget::Share;
use super::fire::{Fire, FireAct, FireConfig, FireEvent, Socket, Wave, with_port};
use super::gather::{self, Gather, GatherConfig, Want, foreseen, lot};
use super::message::{MOST_WAVES, Message, Offer, Step, Timing, Update};
use super::plan::{Mode, Orders, Part, Plan, Shot, Tactic};
use super::side::{Ports, Side};
use super::words::{Act, Event, Failed, PunchConfig, PunchReport};
use crate::nat::meets::{self, Seat};
use crate::nat::{Delta, DeltaKind, Mapping, NatFacts, NatType, SynAnswer};
use crate::race::LaneFailure;
use crate::signal::Reason;
use crate::{Deadline, Local, Machine, Mapped, Output};

/// Dials a second that a punch asks for where it does not make many.
const FEW_PER_SECOND: u16 = 250;
/// Sockets that a punch asks for where it does not need many.
const FEW_SOCKETS: u16 = 96;
/// What it asks for where nothing is between: 16 dials within 1.5 s, the first few 16 ms apart.
const NEAR: Share = Share { sockets: 24, per_second: 64 };
/// An answerer whose wave came to nothing waits so long for the next.
const REST: Duration = Duration::from_secs(6);
/// A connection that came up has so long to be proven once there is nothing left to dial.
const PROVING: Duration = Duration::from_secs(3);
/// All waves together.
const MOST_TIME: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
enum State {
    /// Waiting for a share of the budget.
    Reserving {
        theirs: Option<Side>,
    },
    /// Waiting for ports. The answerer knows the caller's side by then.
    Gathering {
        gather: Box<Gather>,
        theirs: Option<Side>,
        until: Instant,
    },
    /// The caller has made its offer.
    Asking {
        ours: Side,
    },
    Firing,
    /// All was dialled; a connection is being proven.
    Proving {
        until: Instant,
    },
    /// The answerer waits for the caller to begin again.
    Resting {
        until: Instant,
    },
    Over,
}

/// One side of a punch.
///
/// The parts: [`Agree`] makes a plan with the peer, [`Fire`] dials it; before that this machine has ports bound
/// and, where need be, asked for. Who owns it proves every connection that comes up, tells what became of them, and
/// says [`handle_kept`](Self::handle_kept) for the one that both ends keep: whose word that is, is not decided here.
#[derive(Debug, Clone)]
pub struct Punch {
    config: PunchConfig,
    state: State,
    agree: Agree,
    fire: Option<Fire>,
    share: Share,
    wave: u8,
    /// Ports that are listened on, and those a server was asked about.
    listening: BTreeSet<u16>,
    observed: BTreeSet<u16>,
    /// The local ports by number, in this wave.
    locals: Vec<u16>,
    quiet: bool,
    tactic: Option<Tactic>,
    began: Instant,
    failed: Option<Failed>,
    obstacle: Option<String>,
    output: VecDeque<Output<Act, Event>>,
}

impl Punch {
    /// The caller's side: gets ready and makes its offer.
    pub fn call(config: PunchConfig, now: Instant) -> Self {
        let mut punch = Self::new(PunchConfig { part: Part::Caller, ..config }, now);
        punch.reserve(None);
        punch
    }

    /// The answerer's side of the punch that an offer asks for. What it says of its sender must have been checked:
    /// see [`answerable`](super::answerable).
    pub fn answer(config: PunchConfig, offer: &Message, now: Instant) -> Self {
        let mut punch = Self::new(PunchConfig { part: Part::Answerer, ..config }, now);
        punch.handle_message(offer, now);
        punch
    }

    fn new(mut config: PunchConfig, now: Instant) -> Self {
        config.limits.waves = config.limits.waves.clamp(1, MOST_WAVES);
        config.address = config.address.to_canonical();
        let agree = Agree::new(config.part, config.pair, config.clock, config.terms);
        Self {
            config,
            state: State::Resting { until: now + REST },
            agree,
            fire: None,
            share: Share::default(),
            wave: 0,
            listening: BTreeSet::new(),
            observed: BTreeSet::new(),
            locals: Vec::new(),
            quiet: false,
            tactic: None,
            began: now,
            failed: None,
            obstacle: None,
            output: VecDeque::new(),
        }
    }

    /// What the machine's budget has for us. Whether it was taken; if not, it goes back, as it came too late.
    #[must_use]
    pub fn handle_share(&mut self, share: Share, now: Instant) -> bool {
        let State::Reserving { theirs } = &mut self.state else { return false };
        let theirs = theirs.take();
        self.share = share;
        if share.sockets == 0 || share.per_second == 0 {
            if self.config.part == Part::Answerer {
                self.agree.decline(Reason::Busy, now);
            }
            self.lose(Failed::NoBudget, now);
            return true;
        }
        let (local, remote) = (self.config.local, self.config.remote);
        let syns = u32::from(self.config.limits.syns);
        self.fire = Some(Fire::new(FireConfig { local, remote, share, syns }, now));
        self.gather(theirs, now);
        true
    }

    /// Whether we could listen.
    pub fn handle_listening(&mut self, at: Local, outcome: Result<(), LaneFailure>, now: Instant) {
        let port = at.0.port();
        if let Err(failure) = &outcome {
            self.listening.remove(&port);
            self.hinder(failure);
        }
        if let State::Gathering { gather, .. } = &mut self.state {
            gather.handle_listening(port, outcome.is_ok());
            self.gathered(now);
        }
    }

    /// What a server sees of one of our ports; `None` when none answered.
    pub fn handle_observed(&mut self, from: Local, mapped: Option<Mapped>, now: Instant) {
        if let State::Gathering { gather, .. } = &mut self.state {
            gather.handle_observed(from.0.port(), mapped, now);
            self.gathered(now);
        }
    }

    /// A message of the peer for this pair.
    pub fn handle_message(&mut self, message: &Message, now: Instant) {
        if matches!(self.state, State::Over) {
            return;
        }
        let remote = self.config.remote.ip().to_canonical();
        if message.is_sound() && message.side().is_some_and(|side| side.address.to_canonical() != remote) {
            // Whoever may be there has not asked for it.
            return self.lose(Failed::NotTheirs, now);
        }
        self.agree.handle_message(message, now);
        self.step(now);
    }

    /// TCP is up on a socket we dialled: prove it. Whether it still counts; if not, close it.
    pub fn handle_connected(&mut self, socket: Socket, now: Instant) -> bool {
        let is_ours = self.fire.as_mut().is_some_and(|fire| fire.handle_connected(socket, now));
        self.step(now);
        is_ours
    }

    /// Somebody connected to a port we listen on: prove it. `None`: close it.
    pub fn handle_accepted(&mut self, at: Local, remote: SocketAddr, now: Instant) -> Option<Socket> {
        let socket = self.fire.as_mut()?.handle_accepted(at.0.port(), remote, now);
        self.step(now);
        socket
    }

    /// A socket failed, in TCP or in its proof. [`LaneFailure::Local`] where this machine could not even dial: also
    /// where the 4-tuple is in use, because the peer's SYN came first and its connection is on the listener.
    pub fn handle_failed(&mut self, socket: Socket, failure: &LaneFailure, now: Instant) {
        self.hinder(failure);
        if let Some(fire) = &mut self.fire {
            fire.handle_failed(socket, failure, now);
        }
        self.step(now);
    }

    /// Both ends keep this one. All else is closed.
    pub fn handle_kept(&mut self, socket: Socket, _now: Instant) {
        self.over(Some(socket));
    }

    /// Stops all of it.
    pub fn close(&mut self, _now: Instant) {
        self.over(None);
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Whether the peer was told anything yet.
    pub fn has_spoken(&self) -> bool {
        matches!(
            self.state,
            State::Asking { .. } | State::Firing | State::Proving { .. } | State::Resting { .. }
        ) || self.wave > 0
    }

    /// How it runs, or ran.
    pub fn report(&self) -> PunchReport {
        PunchReport {
            mode: self.config.mode,
            local: self.config.local.0.ip(),
            remote: self.config.remote.ip(),
            tactic: self.tactic,
            waves: self.wave + 1,
            tally: self.fire.as_ref().map(Fire::tally).unwrap_or_default(),
            failed: self.failed,
            obstacle: self.obstacle.clone(),
        }
    }

    fn hinder(&mut self, failure: &LaneFailure) {
        if let LaneFailure::Local(why) = failure
            && !matches!(self.state, State::Over)
        {
            self.obstacle = Some(why.clone());
        }
    }

    /// What it is run with.
    pub fn config(&self) -> &PunchConfig {
        &self.config
    }

    /// The next deadline.
    pub fn deadline(&self) -> Option<Deadline> {
        let own = match &self.state {
            State::Over => return None,
            State::Gathering { until, .. } => Some(Deadline::new(*until, "go on with the ports there are")),
            State::Resting { until } => Some(Deadline::new(*until, "the caller does not begin again")),
            State::Proving { until } => Some(Deadline::new(*until, "the proof takes too long")),
            State::Reserving { .. } | State::Asking { .. } | State::Firing => None,
        };
        let end = Deadline::new(self.began + MOST_TIME, "a punch takes no longer");
        let fire = self.fire.as_ref().and_then(Fire::deadline);
        Deadline::earliest([own, Some(end), self.agree.deadline(), fire])
    }

    fn reserve(&mut self, theirs: Option<Side>) {
        let limits = self.config.limits;
        let is_party = self.is_party(theirs.as_ref());
        let wanted = match self.config.mode {
            Mode::Lan | Mode::Machine | Mode::Interface => NEAR,
            Mode::Remote if is_party => Share { sockets: limits.sockets, per_second: limits.per_second },
            Mode::Remote => Share { sockets: FEW_SOCKETS, per_second: FEW_PER_SECOND },
        };
        let share = Share {
            sockets: wanted.sockets.min(limits.sockets),
            per_second: wanted.per_second.min(limits.per_second),
        };
        self.state = State::Reserving { theirs };
        self.output.push_back(Output::Act(Act::Reserve(share)));
    }

    /// Whether it will take many dials.
    fn is_party(&self, theirs: Option<&Side>) -> bool {
        if self.config.mode.is_local() {
            return false;
        }
        let theirs = theirs.map_or_else(|| Seat::new(&self.config.theirs), Seat::of);
        let chosen = meets::choose(&Seat::new(&self.config.facts), &theirs);
        chosen.is_some_and(|chosen| chosen.plan == meets::Plan::Birthday)
    }

    fn gather_config(&self, theirs: Option<&Side>) -> GatherConfig {
        let config = &self.config;
        let counting = |facts: &NatFacts| {
            let steps = |delta: Delta| matches!(delta.kind, DeltaKind::Independent | DeltaKind::Dependent);
            facts.delta.is_some_and(steps) && facts.mapping_or_guess() != Some(Mapping::EndpointIndependent)
        };
        GatherConfig {
            attempt: config.attempt,
            pair: config.pair,
            wave: self.wave,
            part: config.part,
            mode: config.mode,
            address: config.address,
            facts: config.facts,
            can_observe: config.can_observe,
            other_counts: match theirs {
                Some(side) => matches!(side.ports, Ports::Counter { .. }),
                None => counting(&config.theirs),
            },
            sockets: self.share.sockets,
        }
    }

    fn gather(&mut self, theirs: Option<Side>, now: Instant) {
        let gather = Box::new(Gather::new(self.gather_config(theirs.as_ref())));
        self.state = State::Gathering { gather, theirs, until: now + gather::WITHIN };
        self.gathered(now);
    }

    /// Does what the gathering wants, and goes on when it is done.
    fn gathered(&mut self, now: Instant) {
        let State::Gathering { gather, until, .. } = &mut self.state else { return };
        for want in std::mem::take(&mut gather.wants) {
            let local = |port| Local(with_port(self.config.local.0, port));
            self.output.push_back(Output::Act(match want {
                Want::Listen(port) => {
                    self.listening.insert(port);
                    Act::Listen(local(port))
                }
                Want::Observe(port) => {
                    self.observed.insert(port);
                    Act::Observe(local(port))
                }
            }));
        }
        if !gather.is_done() && now < *until {
            return;
        }
        let State::Gathering { gather, theirs, .. } = std::mem::replace(&mut self.state, State::Firing)
        else {
            return;
        };
        let Some((mut ours, locals)) = gather.finish(now) else {
            self.agree.decline(Reason::NoRoute, now);
            return self.lose(Failed::NoPorts, now);
        };
        // A hop that was silent once may speak, or be behind the peer: what did not work is not tried again.
        ours.quiet = self.config.silent_hop.is_some() && !self.config.mode.is_local() && self.wave == 0;
        self.locals = locals;
        match theirs {
            None => self.propose(ours, now),
            Some(theirs) => self.answer_to(&theirs, ours, now),
        }
    }

    fn propose(&mut self, ours: Side, now: Instant) {
        let error = self.agree.error(now);
        let side = ours.clone();
        let step = match self.wave {
            0 => Step::Offer(Offer { mode: self.config.mode, at: self.config.at, side, error }),
            _ => Step::Update(Update { side, error }),
        };
        self.agree.propose(self.wave, step, now);
        self.state = State::Asking { ours };
        self.drain_agree(now);
        self.dial_early(now);
        self.step(now);
    }

    /// Where the peer's port can be told beforehand, and a SYN that comes too early is not answered, the caller
    /// need not wait: its SYN opens its own NAT, and the peer's finds the way open.
    fn dial_early(&mut self, now: Instant) {
        let theirs = &self.config.theirs;
        let is_silent = theirs.syn == Some(SynAnswer::Silence) || theirs.nat == Some(NatType::Open);
        let keeps = theirs.nat.is_some_and(|nat| matches!(nat, NatType::Open | NatType::SymmetricFirewall))
            || theirs.delta.is_some_and(|delta| delta.kind == DeltaKind::Equal);
        let State::Asking { ours } = &self.state else { return };
        let is_plain = matches!(ours.ports, Ports::Fixed(_) | Ports::Run { .. });
        if self.config.mode.is_local() || self.wave > 0 || !(is_silent && keeps && is_plain) {
            return;
        }
        let config = GatherConfig {
            part: Part::Answerer,
            facts: self.config.theirs,
            other_counts: false,
            sockets: FEW_SOCKETS,
            ..self.gather_config(None)
        };
        let Some(to) = foreseen(config).filter(|to| *to > 0) else { return };
        let shots = vec![Shot { after: Duration::ZERO, from: 0, to }];
        self.fire_wave(Orders { shots, lives: None, quiet: false }, now, now + MOST_TIME, now);
    }

    fn answer_to(&mut self, theirs: &Side, ours: Side, now: Instant) {
        let Some(plan) = self.plan_for(theirs, &ours, None) else {
            self.agree.decline(Reason::NoRoute, now);
            return self.lose(Failed::NoPlan, now);
        };
        let Some(timing) = self.agree.answer(ours.clone(), now) else { return };
        // The same again, with the times that were agreed on: those of the first one were any.
        let plan = self.plan_for(theirs, &ours, Some(timing)).unwrap_or(plan);
        self.drain_agree(now);
        self.begin(&plan, now, now);
    }

    fn plan_for(&self, theirs: &Side, ours: &Side, timing: Option<Timing>) -> Option<Plan> {
        let config = &self.config;
        let any = Timing { start: config.clock.unix(self.began), lead: 1, spread: 1, step: 1 };
        let (caller, answerer) = match config.part {
            Part::Caller => (ours, theirs),
            Part::Answerer => (theirs, ours),
        };
        let mut seed = lot(config.attempt, config.pair, self.wave, "plan");
        Plan::new(config.mode, caller, answerer, timing.unwrap_or(any), &mut seed).ok()
    }

    fn begin(&mut self, plan: &Plan, start: Instant, now: Instant) {
        self.tactic = Some(plan.tactic);
        let until = start.max(now) + plan.within;
        let orders = plan.orders(self.config.part).clone();
        self.fire_wave(orders, start, until, now);
        self.state = State::Firing;
        self.step(now);
    }

    fn fire_wave(&mut self, orders: Orders, start: Instant, until: Instant, now: Instant) {
        self.quiet = orders.quiet;
        let locals = self.locals.clone();
        if let Some(fire) = &mut self.fire {
            fire.handle_wave(Wave { orders, locals, start, until }, now);
        }
        self.drain_fire();
    }

    /// Drains the children, and goes on where they say so.
    fn step(&mut self, now: Instant) {
        if matches!(self.state, State::Over) {
            return;
        }
        self.drain_agree(now);
        let is_spent = self.drain_fire();
        if is_spent && matches!(self.state, State::Firing) {
            self.state = State::Proving { until: now + PROVING };
        }
        let is_proving = self.fire.as_ref().is_some_and(Fire::is_proving);
        if let State::Proving { until } = self.state
            && (!is_proving || now >= until)
        {
            self.next_wave(now);
        }
    }

    fn next_wave(&mut self, now: Instant) {
        let syns = self.fire.as_ref().map_or(0, |fire| fire.tally().dialled);
        let is_last = self.wave + 1 >= self.config.limits.waves || syns >= u32::from(self.config.limits.syns);
        match self.config.part {
            _ if is_last => self.lose(Failed::Spent, now),
            Part::Caller => {
                self.wave += 1;
                self.gather(None, now);
            }
            Part::Answerer => self.state = State::Resting { until: now + REST },
        }
    }

    fn drain_agree(&mut self, now: Instant) {
        loop {
            match self.agree.poll_output() {
                Output::Act(AgreeAct::Send(message)) => {
                    self.output.push_back(Output::Act(Act::Signal(message)));
                }
                Output::Event(event) => self.on_agreed(event, now),
                Output::Wait(_) => return,
            }
        }
    }

    fn on_agreed(&mut self, event: AgreeEvent, now: Instant) {
        match event {
            AgreeEvent::Asked { wave, .. } if wave >= self.config.limits.waves => {
                self.agree.decline(Reason::NoRoute, now);
                self.lose(Failed::Spent, now);
            }
            AgreeEvent::Asked { wave, side } => {
                self.wave = wave;
                if self.fire.is_none() {
                    self.reserve(Some(side));
                } else {
                    self.gather(Some(side), now);
                }
            }
            AgreeEvent::Agreed { side, timing, .. } => {
                let State::Asking { ours } = &self.state else { return };
                let ours = ours.clone();
                match self.plan_for(&side, &ours, Some(timing)) {
                    Some(plan) => {
                        let start = self.config.clock.instant(timing.start).unwrap_or(now);
                        self.begin(&plan, start, now);
                    }
                    None => self.lose(Failed::NoPlan, now),
                }
            }
            AgreeEvent::Declined(reason) => self.lose(Failed::Declined(reason), now),
            AgreeEvent::Silent => self.lose(Failed::Silent, now),
        }
    }

    /// Whether the wave was spent.
    fn drain_fire(&mut self) -> bool {
        let mut is_spent = false;
        let Some(fire) = &mut self.fire else { return false };
        loop {
            match fire.poll_output() {
                Output::Act(FireAct::Dial { socket, from, to }) => {
                    let ttl = self.config.silent_hop.filter(|_| self.quiet);
                    self.output.push_back(Output::Act(Act::Dial { socket, from, to, ttl }));
                }
                Output::Act(FireAct::Drop(socket)) => {
                    self.output.push_back(Output::Act(Act::Drop(socket)));
                }
                Output::Event(FireEvent::Spent) => is_spent = true,
                Output::Wait(_) => return is_spent,
            }
        }
    }

    fn lose(&mut self, failed: Failed, _now: Instant) {
        // Who gives up first is asked once more: what it does not say then is not why the waves before came to nothing.
        let failed = match failed {
            Failed::Silent | Failed::Declined(Reason::NoRoute) if self.tactic.is_some() => Failed::Spent,
            failed => failed,
        };
        if !matches!(self.state, State::Over) {
            self.failed = Some(failed);
            self.over(None);
            self.output.push_back(Output::Event(Event::Lost(failed)));
        }
    }

    fn over(&mut self, kept: Option<Socket>) {
        if matches!(self.state, State::Over) {
            return;
        }
        // What is still to be said is said: a refusal above all.
        while let Output::Act(AgreeAct::Send(message)) = self.agree.poll_output() {
            self.output.push_back(Output::Act(Act::Signal(message)));
        }
        self.state = State::Over;
        self.agree.close();
        if let Some(fire) = &mut self.fire {
            fire.close(kept);
        }
        self.drain_fire();
        let local = |port| Local(with_port(self.config.local.0, port));
        for port in std::mem::take(&mut self.listening) {
            self.output.push_back(Output::Act(Act::Unlisten(local(port))));
        }
        // Last of all: the mapping of the connection that is kept may hang on them.
        for port in std::mem::take(&mut self.observed) {
            self.output.push_back(Output::Act(Act::Forget(local(port))));
        }
        if self.share != Share::default() {
            let share = std::mem::take(&mut self.share);
            self.output.push_back(Output::Act(Act::GiveBack(share)));
        }
    }
}

impl Machine for Punch {
    type Act = Act;
    type Event = Event;

    fn handle_timeout(&mut self, now: Instant) {
        match &self.state {
            State::Over => return,
            _ if now >= self.began + MOST_TIME => return self.lose(Failed::Spent, now),
            State::Gathering { until, .. } if now >= *until => self.gathered(now),
            State::Resting { until } if now >= *until => return self.lose(Failed::Spent, now),
            _ => {}
        }
        self.agree.handle_timeout(now);
        if let Some(fire) = &mut self.fire {
            fire.handle_timeout(now);
        }
        self.step(now);
    }

    fn poll_output(&mut self) -> Output<Act, Event> {
        self.output.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }
}

#[cfg(feature = "sim")]
#[path = "machine_subject.rs"]
pub(super) mod subject;

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

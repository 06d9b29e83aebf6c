//! The machine that punches between one address of ours and one of the peer's.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::agree::{Agree, AgreeAct, AgreeEvent};
use super::api::{Act, Event, Failed, Input, PunchConfig, PunchReport, SocketAct};
use super::budget::Share;
use super::demand::RoundAsks;
use super::endpoint::Endpoint;
use super::gather::{self, Gather};
use super::message::{MOST_ROUNDS, Message, Offer, Step, Timing, Update};
use super::ports::RoundPorts;
use super::schedule::{Dial, Plan, Schedule, Tactic};
use super::syn_sender::{Round, Socket, SynAct, SynEvent, SynSender, SynSenderConfig};
use super::view::View;
use crate::attempt::{DialError, RefusalReason, Role, Trust};
use crate::peer::PeerAddr;
use crate::{Deadline, Local, Machine, Mapped, Output};

/// An answerer whose round came to nothing waits so long for the next.
const REST: Duration = Duration::from_secs(6);
/// A connection that came up has so long to be proven once there is nothing left to dial.
const PROVING: Duration = Duration::from_secs(3);
/// A round of few dials that another one follows is waited for in vain for so many one-way delays of a signal, and so
/// long besides: a SYN, its answer and a proof take four of them.
const ROUND_LEADS: u32 = 8;
const ROUND_LEAST: Duration = Duration::from_millis(150);
/// All rounds together.
const MOST_TIME: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
enum State {
    /// Waiting for a share of the budget.
    Reserving {
        theirs: Option<Endpoint>,
    },
    /// Waiting for ports. The answerer knows the caller's side by then.
    Gathering {
        gather: Box<Gather>,
        theirs: Option<Endpoint>,
        since: Instant,
        until: Instant,
    },
    /// The caller has made its offer.
    Asking {
        ours: Endpoint,
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
/// The parts: [`Agree`] makes a plan with the peer, [`SynSender`] dials it; before that this machine has ports bound
/// and, where need be, asked for. Who owns it proves every connection that comes up, tells what became of them, and
/// says [`handle_kept`](Self::handle_kept) for the one that both ends keep: whose word that is, is not decided here.
#[derive(Debug, Clone)]
pub struct Punch {
    config: PunchConfig,
    state: State,
    agree: Agree,
    sender: Option<SynSender>,
    share: Share,
    round: u8,
    ports: RoundPorts,
    /// What the peer last said of itself.
    heard: Option<Endpoint>,
    low_ttl: bool,
    tactic: Option<Tactic>,
    /// When the round has had its time.
    due: Option<Instant>,
    /// The same, where the round is promising: of those after one that came to nothing none is.
    hopeful: Option<Instant>,
    is_disappointed: bool,
    began: Instant,
    failed: Option<Failed>,
    obstacle: Option<String>,
    output: VecDeque<Output<Act, Event>>,
}

impl Punch {
    /// The caller's side: gets ready and makes its offer.
    pub fn call(config: PunchConfig, now: Instant) -> Self {
        let mut punch = Self::new(PunchConfig { role: Role::Caller, ..config }, now);
        punch.reserve(None);
        punch
    }

    /// The answerer's side of the punch that an offer asks for. What it says of its sender must have been checked:
    /// see [`answerable`](super::answerable).
    pub fn answer(config: PunchConfig, offer: &Message, now: Instant) -> Self {
        let mut punch = Self::new(PunchConfig { role: Role::Answerer, ..config }, now);
        punch.handle_message(offer, now);
        punch
    }

    fn new(mut config: PunchConfig, now: Instant) -> Self {
        config.limits.rounds = config.limits.rounds.clamp(1, MOST_ROUNDS);
        config.address = config.address.to_canonical();
        let agree = Agree::new(config.role, config.pair, config.clock, config.path_timing);
        Self {
            config,
            state: State::Resting { until: now + REST },
            agree,
            sender: None,
            share: Share::default(),
            round: 0,
            ports: RoundPorts::default(),
            heard: None,
            low_ttl: false,
            tactic: None,
            due: None,
            hopeful: None,
            is_disappointed: false,
            began: now,
            failed: None,
            obstacle: None,
            output: VecDeque::new(),
        }
    }

    /// Takes the facts of this moment: the next offer and the next round are made of them. A round that they speak
    /// against goes on in the background while the next one begins.
    pub fn refresh(&mut self, view: &View<'_>, peer: &PeerAddr, trust: Trust, now: Instant) {
        if self.is_over() {
            return;
        }
        self.config.read(view, peer, trust);
        self.agree.update(self.config.clock, self.config.path_timing);
        self.reconsider(now);
    }

    /// Begins another round, or has the caller begin one, where the facts speak against this one.
    pub(super) fn reconsider(&mut self, now: Instant) {
        let asks = self.config.ports_for(None, self.asks());
        if !self.ports.are_outdated(&asks) || self.sender.as_ref().is_some_and(SynSender::is_proving) {
            return;
        }
        self.is_disappointed = false;
        match (&mut self.state, self.config.role) {
            (State::Gathering { theirs, .. }, _) if self.ports.may_begin_anew() => {
                let theirs = theirs.take();
                self.begin_again(theirs, now);
            }
            (State::Asking { .. } | State::Firing | State::Proving { .. }, Role::Caller) => {
                self.next_round(now);
            }
            (State::Firing | State::Proving { .. } | State::Resting { .. }, Role::Answerer) => {
                self.ports.begin(&asks);
                self.agree.renew(now);
                self.step(now);
            }
            _ => {}
        }
    }

    /// Takes in the answer to a [`SocketAct`]. Returns the socket of a connection that is up and has to be proven; any
    /// other that is up has to be closed.
    pub fn handle(&mut self, input: Input, now: Instant) -> Option<Socket> {
        match input {
            Input::Share(share) => self.on_share(share, now),
            Input::Listening(at, outcome) => self.on_listening(at, outcome, now),
            Input::Observed(from, mapped) => self.on_observed(from, mapped, now),
            Input::Connected { socket, .. } => return self.on_connected(socket, now).then_some(socket),
            Input::Accepted { at, remote } => return self.on_accepted(at, remote, now),
            Input::Failed(socket, error) => self.on_failed(socket, &error, now),
        }
        None
    }

    fn on_share(&mut self, share: Share, now: Instant) {
        let State::Reserving { theirs } = &mut self.state else { return };
        let theirs = theirs.take();
        self.share = share;
        if share.sockets == 0 || share.per_second == 0 {
            if self.config.role == Role::Answerer {
                self.agree.decline(RefusalReason::Busy, now);
            }
            return self.lose(Failed::NoBudget, now);
        }
        let (local, remote) = (self.config.local, self.config.remote);
        let syns = u32::from(self.config.limits.syns);
        match &mut self.sender {
            Some(sender) => sender.handle_share(share),
            None => self.sender = Some(SynSender::new(SynSenderConfig { local, remote, share, syns }, now)),
        }
        self.gather(theirs, now);
    }

    fn on_listening(&mut self, at: Local, outcome: Result<(), DialError>, now: Instant) {
        let port = at.0.port();
        if let Err(error) = &outcome {
            self.ports.listening.remove(&port);
            self.hinder(error);
        }
        if let State::Gathering { gather, .. } = &mut self.state {
            gather.handle_listening(port, outcome.is_ok());
            self.gathered(now);
        }
    }

    fn on_observed(&mut self, from: Local, mapped: Option<Mapped>, now: Instant) {
        if let State::Gathering { gather, since, until, .. } = &mut self.state {
            if gather.handle_observed(from.0.port(), mapped, now) {
                // A server that is slower than another one by half is not waited for: one port is enough.
                let others = now.saturating_duration_since(*since) / 2;
                *until = (*until).min(now + others.max(gather::OTHERS_WITHIN));
            }
            self.gathered(now);
        }
    }

    /// A message of the peer for this pair.
    pub fn handle_message(&mut self, message: &Message, now: Instant) {
        if matches!(self.state, State::Over) {
            return;
        }
        let remote = self.config.remote.ip().to_canonical();
        if message.validate().is_ok()
            && message.side().is_some_and(|side| side.address.to_canonical() != remote)
        {
            // Whoever may be there has not asked for it.
            return self.lose(Failed::NotTheirs, now);
        }
        self.agree.handle_message(message, now);
        self.step(now);
    }

    fn on_connected(&mut self, socket: Socket, now: Instant) -> bool {
        let is_ours = self.sender.as_mut().is_some_and(|sender| sender.handle_connected(socket, now));
        self.step(now);
        is_ours
    }

    fn on_accepted(&mut self, at: Local, remote: SocketAddr, now: Instant) -> Option<Socket> {
        let socket = self.sender.as_mut()?.handle_accepted(at.0.port(), remote, now);
        self.step(now);
        socket
    }

    /// A connection that was up did not prove to be the peer's.
    pub fn handle_unproven(&mut self, socket: Socket, now: Instant) {
        if let Some(sender) = &mut self.sender {
            sender.handle_unproven(socket, now);
        }
        self.step(now);
    }

    fn on_failed(&mut self, socket: Socket, error: &DialError, now: Instant) {
        self.hinder(error);
        if let Some(sender) = &mut self.sender {
            sender.handle_failed(socket, error, now);
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

    /// Returns until when a round is under way whose plan is more likely to lead to the peer than not.
    pub fn hopeful_until(&self) -> Option<Instant> {
        let is_under_way = matches!(self.state, State::Firing | State::Proving { .. });
        self.hopeful.filter(|_| is_under_way)
    }

    /// Whether the peer was told anything yet.
    pub fn has_spoken(&self) -> bool {
        matches!(
            self.state,
            State::Asking { .. } | State::Firing | State::Proving { .. } | State::Resting { .. }
        ) || self.round > 0
    }

    /// How it runs, or ran.
    pub fn report(&self) -> PunchReport {
        PunchReport {
            mode: self.config.mode,
            local: self.config.local.0.ip(),
            remote: self.config.remote.ip(),
            tactic: self.tactic,
            rounds: self.round + 1,
            tally: self.sender.as_ref().map(SynSender::tally).unwrap_or_default(),
            failed: self.failed,
            obstacle: self.obstacle.clone(),
        }
    }

    fn hinder(&mut self, error: &DialError) {
        if let DialError::Local(why) = error
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
        let sender = self.sender.as_ref().and_then(SynSender::deadline);
        Deadline::earliest([own, Some(end), self.agree.deadline(), sender])
    }

    fn reserve(&mut self, theirs: Option<Endpoint>) {
        let share = self.config.share_for(theirs.as_ref().or(self.heard.as_ref()));
        self.state = State::Reserving { theirs };
        self.act(SocketAct::Reserve(share));
    }

    /// Goes on to the ports of a round; with a greater share, if it takes one.
    fn begin_again(&mut self, theirs: Option<Endpoint>, now: Instant) {
        // Where news cut the round before short, nothing speaks against ports that serve all destinations.
        let is_cut_short = matches!(self.state, State::Firing) && self.due.is_some_and(|due| now < due)
            || matches!(self.state, State::Asking { .. });
        if !is_cut_short {
            self.ports.forget();
        }
        let wanted = self.config.share_for(theirs.as_ref().or(self.heard.as_ref()));
        if self.sender.is_none() || wanted.sockets > self.share.sockets {
            self.reserve(theirs);
        } else {
            self.gather(theirs, now);
        }
    }

    fn asks(&self) -> RoundAsks {
        RoundAsks { round: self.round, begun_anew: self.ports.begun_anew, sockets: self.share.sockets }
    }

    fn gather(&mut self, theirs: Option<Endpoint>, now: Instant) {
        let config = self.config.ports_for(theirs.as_ref(), self.asks());
        if let Some(ours) = self.ports.begin(&config) {
            return self.on_ports(ours, theirs, now);
        }
        let gather = Box::new(Gather::new(config));
        let until = now + gather::WITHIN;
        self.state = State::Gathering { gather, theirs, since: now, until };
        self.gathered(now);
    }

    /// Does what the gathering wants, and goes on when it is done.
    fn gathered(&mut self, now: Instant) {
        let State::Gathering { gather, until, .. } = &mut self.state else { return };
        let until = *until;
        let acts = self.ports.take_wants(gather, self.config.local);
        acts.into_iter().for_each(|act| self.act(act));
        let State::Gathering { gather, .. } = &self.state else { return };
        if !gather.is_done() && now < until {
            return;
        }
        let State::Gathering { gather, theirs, .. } = std::mem::replace(&mut self.state, State::Firing)
        else {
            return;
        };
        let Some((mut ours, locals)) = gather.finish(now) else {
            self.agree.decline(RefusalReason::NoRoute, now);
            return self.lose(Failed::NoPorts, now);
        };
        // A hop that was silent once may speak, or be behind the peer: what did not work is not tried again.
        ours.low_ttl = self.config.silent_hop.is_some() && !self.config.mode.is_local() && self.round == 0;
        self.ports.settle(&ours, locals);
        self.on_ports(ours, theirs, now);
    }

    /// The ports of a round are there.
    fn on_ports(&mut self, ours: Endpoint, theirs: Option<Endpoint>, now: Instant) {
        match theirs {
            None => self.propose(ours, now),
            Some(theirs) => self.answer_to(&theirs, ours, now),
        }
    }

    fn propose(&mut self, ours: Endpoint, now: Instant) {
        let error = self.agree.error(now);
        let side = ours.clone();
        let step = match self.round {
            0 => Step::Offer(Offer { mode: self.config.mode, at: self.config.at, side, error }),
            _ => Step::Update(Update { side, error }),
        };
        self.agree.propose(self.round, step, now);
        self.state = State::Asking { ours };
        self.drain_agree(now);
        self.dial_early(now);
        self.step(now);
    }

    /// Where the peer's port can be told beforehand, and a SYN that comes too early is not answered, the caller
    /// need not wait: its SYN opens its own NAT, and the peer's finds the way open.
    fn dial_early(&mut self, now: Instant) {
        let State::Asking { ours } = &self.state else { return };
        let Some(to) = self.config.foreseen(ours, self.asks()) else { return };
        let dials = vec![Dial { after: Duration::ZERO, from: 0, to }];
        self.begin_round(Schedule { dials, lives: None, low_ttl: false }, now, now + MOST_TIME, now);
    }

    fn answer_to(&mut self, theirs: &Endpoint, ours: Endpoint, now: Instant) {
        let Some(plan) = self.config.plan(self.round, &ours, theirs, None) else {
            self.agree.decline(RefusalReason::NoRoute, now);
            return self.lose(Failed::NoPlan, now);
        };
        let Some(timing) = self.agree.answer(ours.clone(), now) else { return };
        // The same again, with the times that were agreed on: those of the first one were any.
        let plan = self.config.plan(self.round, &ours, theirs, Some(timing)).unwrap_or(plan);
        self.drain_agree(now);
        self.begin(&plan, timing, now, now);
    }

    fn begin(&mut self, plan: &Plan, timing: Timing, start: Instant, now: Instant) {
        self.tactic = Some(plan.tactic);
        let due = start.max(now) + self.span(plan, timing);
        let is_waited_for = self.config.role == Role::Answerer || self.is_last_round();
        let until = if is_waited_for { start.max(now) + plan.within } else { due };
        self.due = Some(due);
        self.hopeful = (plan.probability > 0.5 && !self.is_disappointed).then_some(due);
        let schedule = plan.schedule(self.config.role).clone();
        self.begin_round(schedule, start, until, now);
        self.state = State::Firing;
        self.step(now);
    }

    /// Returns how long a round is waited for before the next one begins, while the kernel goes on repeating the SYNs of
    /// this one: it has had its time after a few round trips, of which a signal takes about half of one.
    fn span(&self, plan: &Plan, timing: Timing) -> Duration {
        if matches!(plan.tactic, Tactic::Birthday | Tactic::Ladder) {
            return plan.within;
        }
        plan.within.min(Duration::from_millis(u64::from(timing.lead)) * ROUND_LEADS + ROUND_LEAST)
    }

    fn begin_round(&mut self, schedule: Schedule, start: Instant, until: Instant, now: Instant) {
        self.low_ttl = schedule.low_ttl;
        let locals = self.ports.locals.clone();
        if let Some(sender) = &mut self.sender {
            sender.handle_round(Round { schedule, locals, start, until }, now);
        }
        self.drain_sender();
    }

    /// Drains the children, and goes on where they say so.
    fn step(&mut self, now: Instant) {
        if matches!(self.state, State::Over) {
            return;
        }
        self.drain_agree(now);
        let is_spent = self.drain_sender();
        if is_spent && matches!(self.state, State::Firing) {
            self.is_disappointed |= self.hopeful.is_some();
            self.state = State::Proving { until: now + PROVING };
        }
        let is_proving = self.sender.as_ref().is_some_and(SynSender::is_proving);
        if let State::Proving { until } = self.state
            && (!is_proving || now >= until)
        {
            match self.config.role {
                _ if self.is_last_round() => self.lose(Failed::Spent, now),
                Role::Caller => self.next_round(now),
                Role::Answerer => self.state = State::Resting { until: now + REST },
            }
        }
    }

    fn is_last_round(&self) -> bool {
        let syns = self.sender.as_ref().map_or(0, |sender| sender.tally().dialled);
        self.round + 1 >= self.config.limits.rounds || syns >= u32::from(self.config.limits.syns)
    }

    /// Begins the caller's next round, unless this is the last.
    fn next_round(&mut self, now: Instant) {
        if !self.is_last_round() {
            self.round += 1;
            self.begin_again(None, now);
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
            AgreeEvent::Asked { round, .. } if round >= self.config.limits.rounds => {
                self.agree.decline(RefusalReason::NoRoute, now);
                self.lose(Failed::Spent, now);
            }
            AgreeEvent::Asked { round, side } => {
                self.round = round;
                self.heard = Some(side.clone());
                self.begin_again(Some(side), now);
            }
            AgreeEvent::Agreed { side, timing, .. } => {
                let State::Asking { ours } = &self.state else { return };
                let ours = ours.clone();
                self.heard = Some(side.clone());
                match self.config.plan(self.round, &ours, &side, Some(timing)) {
                    Some(plan) => {
                        let start = self.config.clock.instant(timing.start).unwrap_or(now);
                        self.begin(&plan, timing, start, now);
                    }
                    None => self.lose(Failed::NoPlan, now),
                }
            }
            AgreeEvent::Renewed => {
                let is_proving = self.sender.as_ref().is_some_and(SynSender::is_proving);
                if matches!(self.state, State::Asking { .. } | State::Firing) && !is_proving {
                    self.next_round(now);
                }
            }
            AgreeEvent::Declined(reason) => self.lose(Failed::Declined(reason), now),
            AgreeEvent::Silent => self.lose(Failed::Silent, now),
        }
    }

    /// Whether the round was spent.
    fn drain_sender(&mut self) -> bool {
        let mut is_spent = false;
        let Some(sender) = &mut self.sender else { return false };
        loop {
            match sender.poll_output() {
                Output::Act(SynAct::Dial { socket, from, to }) => {
                    let ttl = self.config.silent_hop.filter(|_| self.low_ttl);
                    self.output.push_back(Output::Act(Act::Socket(SocketAct::Dial {
                        socket,
                        from,
                        to,
                        ttl,
                    })));
                }
                Output::Act(SynAct::Drop(socket)) => {
                    self.output.push_back(Output::Act(Act::Socket(SocketAct::Drop(socket))));
                }
                Output::Event(SynEvent::Spent) => is_spent = true,
                Output::Wait(_) => return is_spent,
            }
        }
    }

    fn lose(&mut self, failed: Failed, _now: Instant) {
        // Who gives up first is asked once more: what it does not say then is not why the rounds before came to nothing.
        let failed = match failed {
            Failed::Silent | Failed::Declined(RefusalReason::NoRoute) if self.tactic.is_some() => {
                Failed::Spent
            }
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
        let is_reserving = matches!(self.state, State::Reserving { .. });
        self.state = State::Over;
        self.agree.close();
        if let Some(sender) = &mut self.sender {
            sender.close(kept);
        }
        self.drain_sender();
        let acts = self.ports.close(self.config.local);
        acts.into_iter().for_each(|act| self.act(act));
        if self.share != Share::default() || is_reserving {
            let share = std::mem::take(&mut self.share);
            self.act(SocketAct::GiveBack(share));
        }
    }

    fn act(&mut self, act: SocketAct) {
        self.output.push_back(Output::Act(Act::Socket(act)));
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
        if let Some(sender) = &mut self.sender {
            sender.handle_timeout(now);
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

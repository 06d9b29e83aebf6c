//! Signs of life: when a pipe gives one, when it asks the peer for one, and when the peer is gone.
//!
//! What a pipe may conclude depends on what lies between.
//!
//! - **Nothing but the network.** The peer's system acknowledges whatever the peer does, so the system notices a dead path
//!   by itself ([`KeepAlive`](p2p_actors::KeepAlive)). The pipe asks too, for systems that cannot be told to, and for
//!   boxes that acknowledge in the peer's name. A peer that reads slowly answers late: silence counts only if it is known
//!   to have read everything that was sent before the question.
//! - **A relay's connections.** The relay acknowledges, so nothing but the peer's own word counts. Each end says something
//!   every [`BEAT`] at least, whether its user reads or not, and a longer silence is the end.
//! - **A relay's datagrams.** The stream below asks by itself.
//!
//! After its last word an end says nothing more: the system would answer what comes late with a reset, and lose what is
//! still on its way.

use std::time::Duration;

use tokio::time::Instant;

/// The longest silence of an end behind a relay's connection, and the longest time until a question is answered.
pub(super) const BEAT: Duration = Duration::from_secs(15);

/// The kind of path between the two ends of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Between {
    /// The network: the peer's system acknowledges.
    Network,
    /// A relay that acknowledges by itself.
    Relay,
    /// Something that notices by itself when the peer is gone.
    Watched,
}

/// The distance of a pipe from its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Openness {
    /// Our last word is said.
    pub(super) is_closing: bool,
    /// The peer's last word was read.
    pub(super) is_ended: bool,
    /// Something was received that our user has not read: what lies behind it cannot be seen.
    pub(super) has_unread: bool,
}

/// The next thing to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Nothing before this time, unless something happens.
    Rest(Instant),
    /// Ask the peer, with this number.
    Ask(u32),
    /// Give a sign of life.
    Beat,
    /// The peer is gone: nothing was heard for this long.
    Dead(Duration),
}

/// The state of both ends' lives, as far as this end knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Liveness {
    between: Between,
    /// The silence after which the peer is asked. `None`: nothing is asked, and nothing concluded.
    ask_after: Option<Duration>,
    heard: Instant,
    said: Instant,
    has_heard: bool,
    /// The number of the last question, and of the last that was answered.
    asked: u32,
    answered: u32,
    /// The number of questions since the peer was last heard.
    unanswered: u8,
    /// The last question before our last data: whatever answers a later one, has read that data. As the peer may not have
    /// taken the connection yet, there is something to be read at the start.
    data_after: u32,
}

impl Liveness {
    pub(super) fn new(between: Between, ask_after: Option<Duration>, now: Instant) -> Self {
        Self {
            between,
            ask_after,
            heard: now,
            said: now,
            has_heard: false,
            asked: 0,
            answered: 0,
            unanswered: 0,
            data_after: 0,
        }
    }

    /// Takes note that the peer has said something.
    pub(super) fn on_heard(&mut self, now: Instant) {
        (self.heard, self.has_heard, self.unanswered) = (now, true, 0);
    }

    /// Takes note that the peer has answered this question, and so has read what was sent before.
    pub(super) fn on_answer(&mut self, number: u32) {
        if number <= self.asked {
            self.answered = self.answered.max(number);
        }
    }

    /// Takes note that the user's data was sent.
    pub(super) fn on_data(&mut self, now: Instant) {
        (self.said, self.data_after) = (now, self.asked);
    }

    /// Takes note that something else was sent.
    pub(super) fn on_said(&mut self, now: Instant) {
        self.said = now;
    }

    /// Returns what is to be done now. After [`Duty::Ask`] and [`Duty::Beat`] it has to be asked again.
    pub(super) fn duty(&mut self, openness: Openness, now: Instant) -> Duty {
        let duty = match self.between {
            Between::Network => self.duty_in_network(openness, now),
            Between::Relay => self.duty_behind_relay(openness, now),
            Between::Watched => Duty::Rest(now + BEAT),
        };
        match duty {
            // What the peer asks has to be read, if our user does not.
            Duty::Rest(until) => Duty::Rest(until.min(now + BEAT)),
            duty => duty,
        }
    }

    fn duty_in_network(&mut self, openness: Openness, now: Instant) -> Duty {
        let Some(after) = self.ask_after.filter(|_| !openness.is_closing && !openness.is_ended) else {
            return Duty::Rest(now + BEAT);
        };
        // While we send, the system notices what is not acknowledged.
        let due = match self.unanswered {
            0 => self.heard.max(self.said) + after,
            // A peer whose user does not read answers by and by.
            _ => self.said + after.max(BEAT),
        };
        if now < due {
            return Duty::Rest(due);
        }
        match self.unanswered {
            0 => self.ask(now),
            // An answer may lie behind what our user has not read, and the question behind what the peer's has not.
            _ if openness.has_unread || self.answered <= self.data_after => Duty::Rest(now + after),
            1 => self.ask(now),
            _ => Duty::Dead(now - self.heard),
        }
    }

    fn ask(&mut self, now: Instant) -> Duty {
        self.asked = self.asked.saturating_add(1);
        self.unanswered += 1;
        self.said = now;
        Duty::Ask(self.asked)
    }

    fn duty_behind_relay(&mut self, openness: Openness, now: Instant) -> Duty {
        let beat = self.said + BEAT;
        if !openness.is_closing && beat <= now {
            self.said = now;
            return Duty::Beat;
        }
        // As long as a question and its repetition would take: the peer beats without being asked.
        let patience =
            self.ask_after.filter(|_| self.has_heard && !openness.is_ended && !openness.has_unread);
        match patience.map(|after| self.heard + 3 * after.max(BEAT)) {
            Some(end) if end <= now => Duty::Dead(now - self.heard),
            Some(end) if openness.is_closing => Duty::Rest(end),
            Some(end) => Duty::Rest(end.min(beat)),
            None => Duty::Rest(now + BEAT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const OPEN: Openness = Openness { is_closing: false, is_ended: false, has_unread: false };

    /// Does its duties for a while. Answers what it did, and at which second.
    fn live(life: &mut Liveness, openness: Openness, from: Instant, seconds: u32) -> Vec<(u32, Duty)> {
        let mut done = Vec::new();
        for second in 0..=seconds {
            loop {
                match life.duty(openness, from + second * SECOND) {
                    Duty::Rest(until) => {
                        assert!(until > from + second * SECOND);
                        break;
                    }
                    duty => done.push((second, duty)),
                }
                if matches!(done.last(), Some((_, Duty::Dead(_)))) {
                    return done;
                }
            }
        }
        done
    }

    fn network(now: Instant) -> Liveness {
        let mut life = Liveness::new(Between::Network, Some(15 * SECOND), now);
        // One question and its answer: the peer's user is there.
        assert_eq!(life.duty(OPEN, now + 15 * SECOND), Duty::Ask(1));
        life.on_heard(now + 15 * SECOND);
        life.on_answer(1);
        life
    }

    #[test]
    fn two_questions_without_an_answer_are_the_end_within_a_minute() {
        let start = Instant::now();
        let (mut life, now) = (network(start), start + 15 * SECOND);
        let done = live(&mut life, OPEN, now, 100);
        assert_eq!(done, [(15, Duty::Ask(2)), (30, Duty::Ask(3)), (45, Duty::Dead(45 * SECOND))]);
    }

    #[test]
    fn an_impatient_end_asks_early_and_waits_as_long_for_the_answer() {
        let start = Instant::now();
        let mut life = network(start);
        life.ask_after = Some(5 * SECOND);
        let done = live(&mut life, OPEN, start + 15 * SECOND, 100);
        assert_eq!(done, [(5, Duty::Ask(2)), (20, Duty::Ask(3)), (35, Duty::Dead(35 * SECOND))]);
    }

    #[test]
    fn whoever_speaks_is_not_asked() {
        let start = Instant::now();
        let mut life = network(start);
        for second in 16..100 {
            let now = start + second * SECOND;
            if second % 2 == 0 {
                life.on_heard(now)
            } else {
                life.on_data(now)
            }
            assert!(matches!(life.duty(OPEN, now), Duty::Rest(_)), "{second} s");
        }
    }

    #[test]
    fn a_peer_that_reads_slowly_or_has_not_begun_to_is_asked_once_and_waited_for() {
        let start = Instant::now();
        let mut fresh = Liveness::new(Between::Network, Some(15 * SECOND), start);
        assert_eq!(live(&mut fresh, OPEN, start, 1_000), [(15, Duty::Ask(1))]);
        let (mut life, now) = (network(start), start + 15 * SECOND);
        life.on_data(now);
        assert_eq!(live(&mut life, OPEN, now, 1_000), [(15, Duty::Ask(2))]);
        // It has read everything in the end, and dies then.
        let now = now + 1_000 * SECOND;
        life.on_heard(now);
        life.on_answer(2);
        assert!(matches!(live(&mut life, OPEN, now, 100)[..], [.., (45, Duty::Dead(_))]));
    }

    #[test]
    fn a_late_answer_says_nothing_of_data_sent_after_its_question() {
        let start = Instant::now();
        let (mut life, now) = (network(start), start + 15 * SECOND);
        assert_eq!(live(&mut life, OPEN, now, 15), [(15, Duty::Ask(2))]);
        let now = now + 16 * SECOND;
        life.on_data(now);
        life.on_heard(now);
        life.on_answer(2);
        assert_eq!(live(&mut life, OPEN, now, 1_000), [(15, Duty::Ask(3))]);
    }

    #[test]
    fn nothing_is_concluded_from_what_our_user_has_not_read() {
        for between in [Between::Network, Between::Relay] {
            let start = Instant::now();
            let mut life = network(start);
            life.between = between;
            let unread = Openness { has_unread: true, ..OPEN };
            let done = live(&mut life, unread, start + 15 * SECOND, 1_000);
            assert!(done.iter().all(|(_, duty)| !matches!(duty, Duty::Dead(_))), "{done:?}");
        }
    }

    #[test]
    fn behind_a_relay_both_ends_beat_and_silence_is_the_end() {
        let start = Instant::now();
        let mut life = Liveness::new(Between::Relay, Some(15 * SECOND), start);
        // Nobody may have taken the connection yet.
        assert_eq!(live(&mut life, OPEN, start, 100).len(), 6);
        let now = start + 100 * SECOND;
        life.on_heard(now);
        let done = live(&mut life, OPEN, now, 100);
        assert_eq!(done.last(), Some(&(45, Duty::Dead(45 * SECOND))), "{done:?}");
        // Who has said the last word beats no more, and still notices.
        life.on_heard(now);
        let closing = Openness { is_closing: true, ..OPEN };
        assert_eq!(live(&mut life, closing, now, 100), [(45, Duty::Dead(45 * SECOND))]);
    }

    #[test]
    fn nothing_is_asked_that_is_off_or_cannot_be_answered() {
        let start = Instant::now();
        let mut off = Liveness::new(Between::Network, None, start);
        assert_eq!(live(&mut off, OPEN, start, 1_000), []);
        for (is_closing, is_ended) in [(true, false), (false, true)] {
            let mut life = network(start);
            let openness = Openness { is_closing, is_ended, has_unread: false };
            assert_eq!(live(&mut life, openness, start + 15 * SECOND, 1_000), []);
        }
    }
}

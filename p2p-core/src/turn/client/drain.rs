//! The outputs of the child machines, and what follows from them.

use std::net::SocketAddr;
use std::time::Instant;

use super::output::{Act, Event};
use super::race::TryState;
use super::{Client, Holder, MOST_STREAMS, PERSISTENCE, SHORTEST, STEADY, State, Stream};
use crate::turn::allocation::{self, ConnectionId, Lease};
use crate::turn::{Failure, data};
use crate::{Machine, Output};

impl Client {
    /// Drains all child machines as far as they go.
    pub(super) fn drain(&mut self, now: Instant) {
        if self.state == State::Over {
            return;
        }
        self.drain_holder(now);
        self.drain_tries(now);
        // A try that has won may have outputs as the holder.
        self.drain_holder(now);
        self.drain_streams();
        self.drain_leaving();
        self.settle(now);
    }

    fn drain_holder(&mut self, now: Instant) {
        while let Some(holder) = &mut self.holder {
            let conn = holder.conn;
            match holder.allocation.poll_output() {
                Output::Act(packet) => self.act(Act::Transmit { conn, packet }),
                Output::Event(event) => self.on_holder(event, now),
                Output::Wait(_) => return,
            }
        }
    }

    fn on_holder(&mut self, event: allocation::Event, now: Instant) {
        use allocation::Event as Of;
        let Some(holder) = &mut self.holder else { return };
        match event {
            Of::Allocated(lease) => {
                let (place, conn) = (holder.server.place.clone(), holder.conn);
                let is_first = !std::mem::replace(&mut self.was_ready, true);
                self.tell(if is_first {
                    Event::Ready { place, conn, lease }
                } else {
                    Event::Moved { place, conn, lease }
                });
            }
            Of::Moved(lease) => {
                holder.is_troubled = false;
                let (place, conn) = (holder.server.place.clone(), holder.conn);
                self.stop_race(now);
                self.tell(Event::Moved { place, conn, lease });
            }
            Of::Permitted(peer) => self.tell(Event::Permitted(peer)),
            Of::Refused(peer, failure) => {
                self.permitted.remove(&peer);
                self.bound.retain(|bound| bound.ip() != peer);
                self.tell(Event::Refused(peer, failure));
            }
            Of::Bound(peer) => self.tell(Event::Bound(peer)),
            Of::Data { peer, data } => self.tell(Event::Data { peer, data }),
            Of::Attempt { peer, connection } | Of::Connected { peer, connection } => {
                self.take_connection(peer, connection, now);
            }
            Of::NotConnected { peer, failure } => self.tell(Event::NotConnected { peer, failure }),
            Of::Trouble(failure) => {
                holder.is_troubled = true;
                self.race_again(now);
                self.tell(Event::Trouble(failure));
            }
            Of::Recovered => {
                holder.is_troubled = false;
                self.next_race = None;
                self.stop_race(now);
                self.tell(Event::Recovered);
            }
            Of::Failed(failure) => self.on_lost(failure, now),
            Of::Closed => {}
        }
    }

    fn on_lost(&mut self, failure: Failure, now: Instant) {
        let Some(holder) = self.holder.take() else { return };
        self.lost = Some(now);
        self.counters = holder.allocation.counters();
        self.act(Act::Close { conn: holder.conn });
        self.note(holder.server.place, failure.clone());
        if !holder.is_troubled {
            self.tell(Event::Trouble(failure));
        }
        if now.saturating_duration_since(holder.since) >= STEADY {
            self.pause.reset();
            self.race_again(now);
        } else if self.race.is_over() {
            self.next_race = Some(now + self.pause.fail(&mut self.seed).max(SHORTEST));
        }
    }

    fn take_connection(&mut self, peer: SocketAddr, connection: ConnectionId, now: Instant) {
        let Some(holder) = &self.holder else { return };
        if self.streams.len() >= MOST_STREAMS {
            return self.tell(Event::NotConnected { peer, failure: Failure::Spared });
        }
        let place = holder.server.place.clone();
        let conn = self.open(place);
        let until = now + self.config.patience;
        self.streams.insert(conn, (peer, Stream::Opening { connection, until }));
    }

    fn drain_tries(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(one) = self.race.tries.get_mut(index) {
            let conn = one.conn;
            let TryState::Asking(allocation) = &mut one.state else {
                index += 1;
                continue;
            };
            match allocation.poll_output() {
                Output::Act(packet) => self.act(Act::Transmit { conn, packet }),
                Output::Event(allocation::Event::Allocated(lease)) => {
                    self.on_allocated(index, &lease, now);
                    index = 0;
                }
                Output::Event(allocation::Event::Failed(failure)) => {
                    self.fail(index, failure, now);
                    index = 0;
                }
                Output::Event(_) => {}
                Output::Wait(_) => index += 1,
            }
        }
    }

    fn on_allocated(&mut self, index: usize, lease: &Lease, now: Instant) {
        let mut others = self.holder.iter().filter_map(|holder| holder.allocation.lease());
        if let Some(taken) = others
            .find_map(|other| other.relayed.iter().find(|relayed| lease.relayed.contains(relayed)).copied())
        {
            let why = "it is that of another allocation of ours";
            return self.fail(index, Failure::Absurd { address: taken.0, why }, now);
        }
        let one = self.race.tries.remove(index);
        let TryState::Asking(mut allocation) = one.state else { return };
        self.stop_race(now);
        if let Some(old) = self.holder.take() {
            self.counters = old.allocation.counters();
            self.leave(old.conn, old.allocation, now);
        }
        // A request that is impossible was refused when it was made.
        for peer in &self.permitted {
            let _ = allocation.permit(*peer, now);
        }
        for peer in &self.bound {
            let _ = allocation.bind(*peer, now);
        }
        let server = one.candidate.server;
        (self.next_race, self.lost) = (None, None);
        self.holder = Some(Holder { conn: one.conn, server, allocation, since: now, is_troubled: false });
        self.on_holder(allocation::Event::Allocated(lease.clone()), now);
    }

    fn drain_streams(&mut self) {
        let conns: Vec<_> = self.streams.keys().copied().collect();
        for conn in conns {
            while let Some((peer, Stream::Binding(machine))) = self.streams.get_mut(&conn) {
                let peer = *peer;
                match machine.poll_output() {
                    Output::Act(packet) => self.act(Act::Transmit { conn, packet }),
                    Output::Event(data::Event::Bound { early }) => {
                        self.streams.remove(&conn);
                        self.tell(Event::Stream { conn, peer, early });
                    }
                    Output::Event(data::Event::Failed(failure)) => self.end_stream(conn, failure),
                    Output::Wait(_) => break,
                }
            }
        }
    }

    fn drain_leaving(&mut self) {
        let out = &mut self.out;
        self.leaving.retain_mut(|(conn, allocation)| {
            let conn = *conn;
            loop {
                match allocation.poll_output() {
                    Output::Act(packet) => out.push_back(Output::Act(Act::Transmit { conn, packet })),
                    Output::Event(allocation::Event::Closed | allocation::Event::Failed(_)) => {
                        out.push_back(Output::Act(Act::Close { conn }));
                        return false;
                    }
                    Output::Event(_) => {}
                    Output::Wait(_) => return true,
                }
            }
        });
    }

    /// Gives the last event when there is nothing left to wait for.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.state == State::Closing && self.leaving.is_empty() {
            self.state = State::Over;
            return self.tell(Event::Closed);
        }
        if self.state != State::Running || !self.race.is_over() || self.next_race.is_some() {
            return;
        }
        match &self.holder {
            None if self.lost.is_some_and(|lost| now < lost + PERSISTENCE) => {
                self.next_race = Some(now + self.pause.fail(&mut self.seed).max(SHORTEST));
            }
            None if self.leaving.is_empty() => {
                self.state = State::Over;
                for conn in std::mem::take(&mut self.streams).into_keys() {
                    self.act(Act::Close { conn });
                }
                let report = self.report();
                tracing::info!(%report, "no TURN server gives an allocation");
                self.tell(Event::Failed(report));
            }
            Some(holder) if holder.is_troubled => {
                self.next_race = Some(now + self.pause.fail(&mut self.seed).max(SHORTEST));
            }
            _ => {}
        }
    }
}

//! The messages on their way to a broker: bounded, in order, each with its own expiry.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::packet::publish_size;

/// A message that the owner asked to publish.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) ticket: u64,
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) until: Instant,
    /// The packet identifier, once the message has been sent.
    id: Option<u16>,
}

/// A packet identifier in use.
#[derive(Debug)]
struct Flight {
    /// The message; `None` when it expired. The identifier and the broker's quota stay taken until the broker
    /// acknowledges or the session ends. Otherwise a late acknowledgement would be credited to another message.
    message: Option<u64>,
    /// The time at which it was sent in this session; `None` when it is still to be sent again.
    sent: Option<Instant>,
}

/// The next step for the oldest message that may be sent now.
pub(super) enum Next {
    Send { id: u16, dup: bool, topic: String, payload: Bytes },
    TooLarge(u64),
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: BTreeMap<u64, Message>,
    flights: BTreeMap<u16, Flight>,
    bytes: usize,
    arrivals: u64,
    last_id: u16,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Returns the bytes of all topics and payloads held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn has(&self, ticket: u64) -> bool {
        self.messages.values().any(|message| message.ticket == ticket)
    }

    pub(super) fn push(&mut self, ticket: u64, topic: String, payload: Bytes, until: Instant) {
        self.bytes += topic.len() + payload.len();
        self.messages.insert(self.arrivals, Message { ticket, topic, payload, until, id: None });
        self.arrivals += 1;
    }

    fn remove(&mut self, arrival: u64) -> Option<Message> {
        let message = self.messages.remove(&arrival)?;
        self.bytes -= message.topic.len() + message.payload.len();
        Some(message)
    }

    /// Returns a packet identifier that is not in use. There are never more flights than messages plus the expired
    /// ones of one session window. So one of 65,535 is always free.
    pub(super) fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.flights.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Returns the oldest message not yet sent in this session, if fewer than `window` are unacknowledged.
    pub(super) fn next(&mut self, window: u16, max_packet: u32, now: Instant) -> Option<Next> {
        let unacknowledged = self.flights.values().filter(|flight| flight.sent.is_some());
        if unacknowledged.count() >= usize::from(window) {
            return None;
        }
        let (&arrival, message) = self.messages.iter().find(|(_, message)| match message.id {
            None => true,
            Some(id) => self.flights.get(&id).is_some_and(|flight| flight.sent.is_none()),
        })?;
        if publish_size(&message.topic, &message.payload) > max_packet as usize {
            if let Some(id) = message.id {
                self.flights.remove(&id);
            }
            return self.remove(arrival).map(|message| Next::TooLarge(message.ticket));
        }
        let before = message.id;
        let (topic, payload) = (message.topic.clone(), message.payload.clone());
        let id = before.unwrap_or_else(|| self.free_id());
        let flight = Flight { message: Some(arrival), sent: Some(now) };
        self.flights.insert(id, flight);
        if let Some(message) = self.messages.get_mut(&arrival) {
            message.id = Some(id);
        }
        Some(Next::Send { id, dup: before.is_some(), topic, payload })
    }

    /// Notes that the broker acknowledged `id`, and returns the ticket of its message. Returns `Ok(None)` when that
    /// had expired, and `Err` when nothing with this identifier is on its way.
    pub(super) fn acknowledge(&mut self, id: u16) -> Result<Option<u64>, ()> {
        if self.flights.get(&id).is_none_or(|flight| flight.sent.is_none()) {
            return Err(());
        }
        let flight = self.flights.remove(&id).ok_or(())?;
        let message = flight.message.and_then(|arrival| self.remove(arrival));
        Ok(message.map(|message| message.ticket))
    }

    /// Ends the session, so that messages without an acknowledgement are sent again.
    pub(super) fn suspend(&mut self) {
        self.flights.retain(|_, flight| flight.message.is_some());
        for flight in self.flights.values_mut() {
            flight.sent = None;
        }
    }

    /// Takes out one message that has expired. Returns its ticket, and true when it was sent and not acknowledged.
    pub(super) fn expire(&mut self, now: Instant) -> Option<(u64, bool)> {
        let (&arrival, _) = self.messages.iter().find(|(_, message)| message.until <= now)?;
        let message = self.remove(arrival)?;
        let Some(id) = message.id else {
            return Some((message.ticket, false));
        };
        let sent = self.flights.get(&id).is_some_and(|flight| flight.sent.is_some());
        if sent {
            if let Some(flight) = self.flights.get_mut(&id) {
                flight.message = None;
            }
        } else {
            self.flights.remove(&id);
        }
        Some((message.ticket, sent))
    }

    /// Takes out all messages and returns their tickets.
    pub(super) fn clear(&mut self) -> Vec<u64> {
        self.flights.clear();
        self.bytes = 0;
        std::mem::take(&mut self.messages).into_values().map(|message| message.ticket).collect()
    }

    /// Returns the time at which the next message expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.messages.values().map(|message| message.until).min()
    }

    /// Returns the time at which the broker will have owed us an acknowledgement for `patience`.
    pub(super) fn overdue(&self, patience: Duration) -> Option<Instant> {
        let oldest = self.flights.values().filter_map(|flight| flight.sent).min();
        oldest.map(|sent| sent + patience)
    }
}

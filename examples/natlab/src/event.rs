//! The events of a lab: one JSON object a line for readers of logs, and the last few for tests.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use p2p_core::sim::nat::DropReason;
use p2p_core::sim::wire::Malformed;
use serde::Serialize;
use thiserror::Error;

/// The most events kept for [`Lab::events`](crate::Lab::events).
const MOST_KEPT: usize = 10_000;

/// An event of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The lab runs.
    Started {
        /// The id of the lab.
        id: String,
        /// The hosts of the lab.
        hosts: Vec<String>,
    },
    /// A packet went no further.
    Dropped {
        /// The place at which it was dropped.
        place: String,
        /// The packet, as text.
        packet: String,
        /// The reason why it was dropped.
        why: String,
    },
    /// A router answered a packet itself; the packet is dropped besides.
    Answered {
        /// The router that answered.
        place: String,
        /// The packet, as text.
        packet: String,
        /// The answer, as text.
        with: String,
        /// The reason for the answer.
        why: String,
    },
    /// A router sent a packet on without translating it.
    Leaked {
        /// The router that sent it on.
        place: String,
        /// The packet, as text.
        packet: String,
        /// The reason why it was not translated.
        why: String,
    },
    /// A program inside a host has removed an interface.
    Gone {
        /// The interface that was removed.
        place: String,
        /// The message of the kernel.
        why: String,
    },
    /// The lab ended.
    Stopped,
}

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timed {
    /// The time since the lab started, in microseconds.
    pub at_us: u64,
    /// The event itself.
    #[serde(flatten)]
    pub event: Event,
}

/// The reason why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub(crate) enum Drop {
    /// The dice of a cable lost it.
    #[error("lost on a cable")]
    Lost,
    /// The queue before a cable with a rate was full.
    #[error("the queue of a cable is full")]
    QueueFull,
    /// More was under way than the lab holds.
    #[error("too much under way for the lab")]
    LabFull,
    /// No host has the destination address.
    #[error("no route")]
    NoRoute,
    /// The packet was sent to a simulated router itself, which runs no services.
    #[error("for the router itself")]
    ForRouter,
    /// The hop limit was used up.
    #[error("hop limit exceeded")]
    Expired,
    /// The receiving kernel did not take it.
    #[error("refused by the kernel")]
    Refused,
    /// The bytes are not a packet, or not one that can be translated.
    #[error("malformed: {0}")]
    Malformed(Malformed),
    /// A NAT or firewall refused it.
    #[error("{0}")]
    Nat(DropReason),
}

/// The destination of events.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    started: Instant,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    kept: VecDeque<Timed>,
    file: Option<BufWriter<File>>,
    fault: Option<io::Error>,
}

impl Log {
    /// Makes a log, and writes it also to a file where one is named.
    pub(crate) fn new(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(File::create).transpose()?.map(BufWriter::new);
        let shared = Shared { file, ..Shared::default() };
        Ok(Self { started: Instant::now(), shared: Arc::new(Mutex::new(shared)) })
    }

    /// Notes an event that happens now.
    pub(crate) fn write(&self, event: impl FnOnce() -> Event) {
        let at = self.started.elapsed().as_micros();
        let timed = Timed { at_us: u64::try_from(at).unwrap_or(u64::MAX), event: event() };
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &mut shared.file {
            let written = serde_json::to_writer(&mut *file, &timed).map_err(io::Error::from);
            if let Err(error) = written.and_then(|()| file.write_all(b"\n")) {
                // Traffic goes on; the next report tells of it.
                shared.file = None;
                shared.fault = Some(error);
            }
        }
        if shared.kept.len() == MOST_KEPT {
            shared.kept.pop_front();
        }
        shared.kept.push_back(timed);
    }

    /// Returns the last events.
    pub(crate) fn kept(&self) -> Vec<Timed> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.kept.iter().cloned().collect()
    }

    /// Writes buffered events to the file.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = shared.fault.take() {
            return Err(fault);
        }
        shared.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

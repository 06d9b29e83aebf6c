//! A plan as data: its tactic, and the dials of each side with their times.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attempt::Role;
use crate::nat::Filtering;

/// What lies between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// The Internet.
    Remote,
    /// One local network.
    Lan,
    /// Nothing: two interfaces of one machine.
    Machine,
    /// Nothing: one interface of one machine, and so one address.
    Interface,
}

impl Mode {
    /// Whether there is no NAT between.
    pub fn is_local(self) -> bool {
        self != Self::Remote
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remote => "remote",
            Self::Lan => "lan",
            Self::Machine => "between interfaces",
            Self::Interface => "on one interface",
        })
    }
}

/// How it is tried; the cheapest that promises enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tactic {
    /// Both dial at once.
    Now,
    /// The side whose NAT answers SYNs dials first.
    First(Role),
    /// Both NATs answer SYNs, but this side's first SYN dies on the way and is not answered: it goes first.
    LowTtl(Role),
    /// Both NATs answer SYNs: several pairs of ports, each at another difference of times.
    Ladder,
    /// This side's SYN opens its NAT for the other's address, whatever the port.
    Open(Role),
    /// A counting NAT: several dials for the ports that are likely.
    Window,
    /// Random ports: many dials.
    Birthday,
}

impl fmt::Display for Tactic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::First(role) => write!(f, "{role} first"),
            Self::LowTtl(role) => write!(f, "{role} first, low TTL"),
            Self::Ladder => f.write_str("ladder"),
            Self::Open(role) => write!(f, "{role} opens"),
            Self::Window => f.write_str("window"),
            Self::Birthday => f.write_str("birthday"),
        }
    }
}

/// One dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dial {
    /// When, after the start of the plan. What is late is dialled at once.
    pub after: Duration,
    /// From which of our local ports, by number.
    pub from: u16,
    /// To which port of the peer.
    pub to: u16,
}

/// What one side has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The dials, in the order they are made.
    pub dials: Vec<Dial>,
    /// A dial that did not succeed for so long is given up; `None`: all stay until the end.
    pub lives: Option<Duration>,
    /// The first SYN of each dial must die before it arrives.
    pub low_ttl: bool,
}

/// What both sides do in one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How.
    pub tactic: Tactic,
    /// The caller's dials.
    pub caller: Schedule,
    /// The answerer's dials.
    pub answerer: Schedule,
    /// When to give up, after the start.
    pub within: Duration,
    /// How probably it works when the facts are right (0.0 … 1.0).
    pub probability: f64,
}

/// Why there is none: nothing promises more than one in ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ports of the two networks cannot be guessed")]
pub struct NoPlan;

impl Plan {
    /// What a side has to do.
    pub fn schedule(&self, role: Role) -> &Schedule {
        match role {
            Role::Caller => &self.caller,
            Role::Answerer => &self.answerer,
        }
    }
}

/// How a side filters where there is no NAT.
pub(crate) const NO_NAT: Filtering = Filtering::EndpointIndependent;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_core::attempt::{Role, Trust};
use p2p_core::relay::circuit::{Act, RelayKind, Via};
use p2p_core::relay::{Circuit, CircuitConfig, MOST_RELAYED, RelayOffer};
use p2p_core::sim::epoch;
use p2p_core::transport::Token;
use p2p_core::{Machine, Output, Seed};

/// The token of the peer, and of anybody who writes in its name.
const THEIRS: Token = Token([3; 8]);
/// The most outputs in a row.
const MOST_OUTPUTS: usize = 2_000;
/// The most addresses that a stranger names, and the most that it adds each time.
const MOST_NAMED: usize = 8;
const PAUSE: Duration = Duration::from_secs(30);
const KNOCK: usize = 18;

/// Runs a relayed connection that a stranger has asked for, where three bytes are a step. Half of the addresses there
/// are belong to the stranger. The other half belong to others, whom it names as its own and in whose name it writes.
/// Whatever it sends, the others get knocks and nothing else, and few of them are named. Nothing panics, and every
/// drain ends.
pub fn relay_circuit(data: &[u8]) {
    let Some((first, steps)) = data.split_first() else { return };
    let mut story = Story::new(*first);
    for step in steps.chunks_exact(3) {
        story.step(step[0], step[1], step[2]);
    }
    story.circuit.close(story.now);
    story.drain();
}

struct Story {
    circuit: Circuit,
    now: Instant,
    /// The time at which the circuit wants to be woken.
    due: Option<Instant>,
    serial: u32,
    /// The token of the circuit itself.
    ours: Option<Token>,
    /// The nonces that the stranger was asked for at its own addresses.
    nonces: BTreeMap<SocketAddr, [u8; 8]>,
    /// The addresses in whose name something was sent.
    forged: BTreeSet<SocketAddr>,
    /// The other addresses that have received something.
    reached: BTreeSet<SocketAddr>,
}

fn address(which: u8) -> SocketAddr {
    SocketAddr::from(([8, 8, which >> 4, which], 1_000))
}

/// Tells whether an address belongs to the stranger.
fn is_its_own(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V4(v4) if v4.ip().octets()[3].is_multiple_of(2))
}

fn knock(kind: u8, token: Token, nonce: [u8; 8]) -> Vec<u8> {
    [&[0xd2, kind][..], &token.0, &nonce].concat()
}

impl Story {
    fn new(first: u8) -> Self {
        let now = epoch() + Duration::from_secs(3_600);
        let mut config = CircuitConfig::new(Role::Answerer, Trust::Stranger, Vec::new());
        config.within = Duration::from_secs(u64::from(first) + 1);
        Self {
            circuit: Circuit::new(config, Seed::from_u64(first.into()), now),
            now,
            due: None,
            serial: 0,
            ours: None,
            nonces: BTreeMap::new(),
            forged: BTreeSet::new(),
            reached: BTreeSet::new(),
        }
    }

    fn step(&mut self, what: u8, who: u8, with: u8) {
        let from = address(who);
        match what % 12 {
            0 | 1 => self.name(who, with),
            2 => self.say(from, |ours| knock(0, ours, [with; 8])),
            3 => {
                let nonce = self.nonces.get(&from).copied().unwrap_or([with; 8]);
                self.say(from, |ours| knock(1, ours, nonce));
            }
            // This sends one address's nonce in another's name.
            4 => {
                let nonce = self.nonces.get(&address(with)).copied().unwrap_or_default();
                self.say(from, |ours| knock(1, ours, nonce));
            }
            5 | 6 => self.say(from, |ours| {
                let rest = Seed::from_u64(with.into()).array::<30>();
                [&[0xd1][..], &ours.0, &[with, 0, with % 11], &rest[..usize::from(with % 31)]].concat()
            }),
            7 => drop(self.circuit.write(&vec![with; usize::from(who) * 100], self.now)),
            8 => drop(self.circuit.read(&mut vec![0; usize::from(with) * 100], self.now)),
            9 => self.pass(Duration::from_millis(u64::from(with) * u64::from(who))),
            10 => {
                self.circuit.handle_dialled(from, with.is_multiple_of(2), self.now);
                self.circuit.handle_connection_failed(self.now);
            }
            _ if with == 0 => self.circuit.keep(RelayKind::Datagrams, self.now),
            _ if with == 255 => self.circuit.release(self.now),
            _ => {
                let due = self.due.unwrap_or(self.now);
                self.pass(due.saturating_duration_since(self.now));
            }
        }
        self.circuit.settle(self.now);
        self.drain();
    }

    fn name(&mut self, first: u8, with: u8) {
        self.serial = self.serial.saturating_add(u32::from(with % 4));
        let all: Vec<_> = (0..MOST_RELAYED as u8 * 2).map(|step| address(first.wrapping_add(step))).collect();
        let offer = RelayOffer {
            serial: self.serial,
            token: THEIRS,
            datagrams: all[..usize::from(with >> 2) % (MOST_RELAYED + 1)].to_vec(),
            connections: all[MOST_RELAYED..][..usize::from(with >> 5) % (MOST_RELAYED + 1)].to_vec(),
            has_more: with & 4 != 0,
            refusal: None,
        };
        let at: Vec<_> = (0..with).map(|step| address(step.wrapping_mul(37)).ip()).collect();
        self.circuit.handle_offer(&offer, &at, self.now);
        self.drain();
    }

    /// Sends to the circuit from an address, once its token is known.
    fn say(&mut self, from: SocketAddr, what: impl FnOnce(Token) -> Vec<u8>) {
        let Some(ours) = self.ours else { return };
        self.forged.insert(from);
        self.circuit.handle_bare(from, &what(ours), self.now);
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        self.circuit.handle_timeout(self.now);
    }

    fn drain(&mut self) {
        let mut count = 0;
        loop {
            count += 1;
            assert!(count < MOST_OUTPUTS, "a drain ends");
            match self.circuit.poll_output() {
                Output::Act(Act::Datagram { via: Via::Bare(to), bytes }) => self.on_datagram(to, &bytes),
                Output::Act(Act::Dial(to)) => self.on_reached(to),
                Output::Act(Act::Signal(offer)) => self.ours = Some(offer.token),
                Output::Act(_) | Output::Event(_) => {}
                Output::Wait(due) => {
                    self.due = due.map(|due| due.at);
                    return;
                }
            }
        }
    }

    fn on_datagram(&mut self, to: SocketAddr, bytes: &[u8]) {
        let is_knock = bytes.len() == KNOCK && bytes[0] == 0xd2;
        assert!(is_knock || is_its_own(to), "{} bytes to somebody else", bytes.len());
        if is_knock && bytes[1] == 0 && is_its_own(to) {
            self.nonces.insert(to, std::array::from_fn(|at| bytes[10 + at]));
        }
        self.on_reached(to);
    }

    fn on_reached(&mut self, to: SocketAddr) {
        if !is_its_own(to) && !self.forged.contains(&to) {
            self.reached.insert(to);
        }
        let since = self.now - epoch() - Duration::from_secs(3_600);
        let rounds = 2 + (since.as_secs() / PAUSE.as_secs()) as usize;
        assert!(self.reached.len() <= MOST_NAMED * rounds, "{} others are reached", self.reached.len());
    }
}

//! # p2p-core: the part that decides
//!
//! Two computers behind routers want one plain TCP connection to each other. This crate holds every decision
//! on the way there, as pure state machines: no clock, no dice, no sockets, no threads. `p2p-actors` drives
//! them on real sockets, [`sim`] in virtual time, and the fuzzer however it likes.
//!
//! | machine | decides |
//! |---|---|
//! | [`node::Node`] | a whole peer: interfaces, brokers, proofs, attempts, and who may come in |
//! | [`connect::Attempt`] | which ways run, which connection is kept, why the others failed, on either side |
//! | [`connect::HappyEyeballs`] | when to dial the next address (RFC 8305) |
//! | [`connect::AskPeer`] | when to ask a peer to dial us |
//! | [`proof::Proof`] | who is at the other end, and that both ends keep this connection |
//! | [`signal::Inbox`] | which signals are fresh, new and from somebody who may speak |
//! | [`signal::link::Link`] | how to keep a session with one MQTT broker |
//! | [`signal::mqtt_server::MqttServer`] | who gets a message, what waits for whom, and who has to go |
//! | [`signal::Tally`] | what became of a signal that was given to several brokers |
//! | [`punch::Punch`] | how to meet a peer behind a NAT: agree, dial, agree again |
//! | [`transport::Stream`], [`transport::Messages`] | what to send again, when and how fast, so that everything arrives |
//! | [`nat::probe::Probe`] | whom to ask what next, to know the NAT in front of us |
//! | [`clock::ntp::Client`] | when to ask NTP servers, and how far our clock is off by what most of them say |
//! | [`stun::Transaction`], [`stun::Query`] | when to ask a STUN server again, and whom to believe |
//! | [`turn::Client`], [`turn::Allocation`] | which TURN server relays for us, and how its address is kept |
//! | [`turn::data::DataConnection`] | how a peer's TCP connection comes to us through a TURN server |
//! | [`turn::server::Relayer`] | what a TURN server answers, to whom it relays, and how much |
//!
//! | pure | says |
//! |---|---|
//! | [`peer`] | who a peer is, and where it can be met |
//! | [`candidate::candidates`] | which addresses are worth dialling, in which order |
//! | [`nat`] | what is known of a NAT, which port comes next, who can meet whom |
//! | [`stun::Responder`] | what a STUN server answers |
//! | [`clock::OffsetFilter`], [`clock::combine`] | how far two clocks are apart, with a bound |
//! | [`text`] | how words of others are shown |
//! | [`addr`], [`clock`], [`rate`], [`Backoff`], [`Seed`] | the small words everything is said in |
//!
//! # The contract
//!
//! All machines keep the convention of [`machine`]: feed them with `handle_*(what, now)`, drain them with
//! [`Machine::poll_output`] until it waits, perform each act once, and come back at the deadline. Noise from
//! the network is traced, counted and dropped; misuse by the caller is an `Err`; an outcome is an event. The
//! laws behind this are tests for every machine: [`machine_laws!`].
//!
//! # Driving one by hand
//!
//! A driver owns the sockets and the clock. It does what the machine wants, tells it what came of that, and comes back at
//! the deadline. The example `own_loop` of the repository does all of it, with two processes and real sockets.
//!
//! ```
//! use std::time::{Instant, SystemTime};
//!
//! use p2p_core::node::{Act, Nic, Node, NodeConfig, SocketAct, SocketEvent};
//! use p2p_core::peer::Identity;
//! use p2p_core::{Clock, Machine, Output, Seed};
//!
//! let (now, mut seed) = (Instant::now(), Seed::from_u64(7)); // a real one has 32 bytes of the system's entropy
//! let config = NodeConfig::new(Identity::generate(&mut seed));
//! let clock = Clock::new(now, SystemTime::now().into());
//! let mut node = Node::new(config, &[Nic::loopback()], clock, seed, now)?;
//! let deadline = loop {
//!     match node.poll_output() {
//!         Output::Act(Act::Socket(owner, SocketAct::Listen { at, .. })) => {
//!             // Here a driver binds a socket to `at`, whose port is 0, and tells which one it got.
//!             let outcome = Ok("127.0.0.1:4711".parse()?);
//!             node.handle_socket(owner, SocketEvent::Listening { at, outcome }, now);
//!         }
//!         Output::Act(_) | Output::Event(_) => {}
//!         Output::Wait(deadline) => break deadline,
//!     }
//! };
//! let address = node.status().address.as_ref().expect("it listens"); // to be given to peers
//! assert_eq!(address.interfaces()[0].listen, 4711);
//! # let _ = deadline;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! - `sim`: the simulated world and the laws, for tests, statistics and fuzzing. Off by default.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(feature = "sim"), doc = "")]
#![cfg_attr(not(feature = "sim"), doc = "[`sim`]: https://docs.rs/p2p-core")]
#![cfg_attr(not(feature = "sim"), doc = "[`machine_laws!`]: https://docs.rs/p2p-core")]

#[macro_use]
mod codes;
#[macro_use]
mod setters;

pub mod addr;
pub mod attempt;
pub mod backoff;
pub mod candidate;
pub mod clock;
pub mod connect;
pub mod machine;
pub mod nat;
pub mod node;
mod noise;
pub mod peer;
pub mod proof;
pub mod punch;
pub mod rate;
pub mod relay;
pub mod seed;
pub mod signal;
pub mod stun;
pub mod text;
pub mod transport;
pub mod turn;

#[cfg(feature = "sim")]
pub mod sim;
#[cfg(test)]
mod vectors;

pub use addr::{Family, Local, Mapped, Reach, Relayed};
pub use backoff::Backoff;
pub use clock::{Clock, Offset, UnixTime};
pub use machine::{Deadline, Machine, Output};
pub use seed::Seed;

//! A TURN server for simulated worlds: the real one ([`Relayer`](crate::turn::server::Relayer)), with faults around it.
//!
//! [`FaultyServer`] knows no sockets, so that one exchange can be tried without a world; [`TurnHost`] runs it on a simulated
//! host, and [`TurnRunner`] a client on another. A second opinion on the client is that of `turn-server-proto`, in the tests
//! of [`turn`](crate::turn).

mod config;
mod faulty;
mod host;
mod runner;

pub use config::{FaultyServerConfig, TurnFaults};
pub use faulty::{FaultyServer, FaultyServerCounters};
pub use host::TurnHost;
pub use runner::TurnRunner;

//! The same punch in virtual time.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use p2p_core::sim::host::HostEvent;
use p2p_core::sim::tcp::{Failure, SocketError, TcpEvent, TcpOptions, TcpSocket};
use p2p_core::sim::world::HostId;
use thiserror::Error;

use super::{Crossing, Dialled, Ended, LOCAL_PORT, PATIENCE, RUN_UP, SOURCE_PORT};
use crate::scenario::{Scenario, SimulateError, Simulated};

/// A reason why a punch could not even begin.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SimulatedCrossingError {
    /// The scenario cannot be simulated.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// A host is missing, or has no address of the right family.
    #[error("a crossing needs hosts a, b and s with addresses of one family, but `{0}` is missing")]
    Host(&'static str),
    /// A simulated kernel refused a call.
    #[error("{0}")]
    Socket(#[from] SocketError),
    /// A host cannot reach the server.
    #[error("`{0}` cannot learn its mapped address")]
    NoAnswer(&'static str),
}

/// Does the same as [`cross`](super::cross), without a kernel and in virtual time.
///
/// # Errors
/// [`SimulatedCrossingError`] when a step before the punch fails.
pub fn cross_simulated(
    scenario: &Scenario,
    skew: Duration,
    patience: Duration,
) -> Result<Crossing, SimulatedCrossingError> {
    let mut lab = scenario.simulate()?;
    let server = host(&lab, "s")?;
    let mut sides = Vec::new();
    for (name, local) in [("a", LOCAL_PORT), ("b", LOCAL_PORT + 1)] {
        let id = host(&lab, name)?;
        let own = address(&lab, id, None).ok_or(SimulatedCrossingError::Host(name))?;
        let from = SocketAddr::new(own, local);
        let to = address(&lab, server, Some(own)).ok_or(SimulatedCrossingError::Host("s"))?;
        let mapped =
            ask_source(&mut lab, id, from, server, to)?.ok_or(SimulatedCrossingError::NoAnswer(name))?;
        sides.push((id, from, mapped));
    }
    let [(a, from_a, mapped_a), (b, from_b, mapped_b)] = sides[..] else {
        unreachable!("two sides were pushed");
    };
    let start = lab.world.now() + RUN_UP;
    let mut first = Side::dial(&mut lab, a, from_a, mapped_b, start);
    let mut second = Side::dial(&mut lab, b, from_b, mapped_a, start + skew);
    let end = start + skew + patience;
    while first.outcome.is_none() || second.outcome.is_none() {
        match lab.world.step() {
            Some(at) if at <= end => (),
            _ => break,
        }
        for side in [&mut first, &mut second] {
            side.look(&mut lab, start)?;
        }
    }
    let silent = Dialled { ended: Ended::Silent, after: patience, late: Duration::ZERO };
    Ok(Crossing {
        first: first.outcome.unwrap_or(silent),
        second: second.outcome.unwrap_or(Dialled { after: skew + patience, ..silent }),
    })
}

fn host(lab: &Simulated, name: &'static str) -> Result<HostId, SimulatedCrossingError> {
    lab.hosts.get(name).copied().ok_or(SimulatedCrossingError::Host(name))
}

/// Returns the first address of a host, of the family of `like` if there is one.
fn address(lab: &Simulated, host: HostId, like: Option<IpAddr>) -> Option<IpAddr> {
    let addresses = lab.world.host(host).addresses(0).iter().copied();
    addresses.into_iter().find(|ip| like.is_none_or(|like| like.is_ipv4() == ip.is_ipv4()))
}

fn shared() -> TcpOptions {
    TcpOptions { reuse_address: true, ..TcpOptions::default() }
}

/// Connects to the server, which sees the mapped address.
fn ask_source(
    lab: &mut Simulated,
    id: HostId,
    from: SocketAddr,
    server: HostId,
    to: IpAddr,
) -> Result<Option<SocketAddr>, SocketError> {
    let to = SocketAddr::new(to, SOURCE_PORT);
    // The server listens already when the second host asks.
    match lab.world.with(server, |context| context.host.tcp_listen(to, TcpOptions::default())) {
        Ok(_) | Err(SocketError::AddressInUse) => (),
        Err(error) => return Err(error),
    }
    lab.world.with(id, |context| context.host.tcp_dial(Some(from), shared(), to, context.now))?;
    let until = lab.world.now() + PATIENCE;
    while lab.world.step().is_some_and(|at| at <= until) {
        let seen = lab.world.with(server, |context| {
            let event = context.host.poll_event()?;
            match event {
                HostEvent::Tcp(TcpEvent::Accepted { socket, .. }) => context.host.tcp().remote(socket),
                _ => None,
            }
        });
        if seen.is_some() {
            // The client needs this time to learn of it, too.
            lab.world.run_for(Duration::from_millis(1));
            return Ok(seen);
        }
    }
    Ok(None)
}

struct Side {
    id: HostId,
    socket: Rc<Cell<Option<Result<TcpSocket, SocketError>>>>,
    outcome: Option<Dialled>,
}

impl Side {
    fn dial(lab: &mut Simulated, id: HostId, from: SocketAddr, to: SocketAddr, at: Instant) -> Self {
        let socket = Rc::new(Cell::new(None));
        let dialled = Rc::clone(&socket);
        lab.world.at(at, id, move |context| {
            let outcome = context.host.tcp_dial(Some(from), shared(), to, context.now);
            dialled.set(Some(outcome));
        });
        Self { id, socket, outcome: None }
    }

    fn look(&mut self, lab: &mut Simulated, start: Instant) -> Result<(), SocketError> {
        let now = lab.world.now();
        let Some(ours) = self.socket.get().transpose()? else {
            return Ok(());
        };
        lab.world.with(self.id, |context| {
            while let Some(event) = context.host.poll_event() {
                let ended = match event {
                    HostEvent::Tcp(TcpEvent::Connected(socket)) if socket == ours => Ended::Connected,
                    HostEvent::Tcp(TcpEvent::Failed(socket, failure)) if socket == ours => match failure {
                        Failure::Refused => Ended::Refused,
                        Failure::Reset => Ended::Reset,
                        Failure::Unreachable(_) => Ended::Unreachable,
                        Failure::TimedOut => Ended::Silent,
                    },
                    _ => continue,
                };
                let after = now.saturating_duration_since(start);
                self.outcome.get_or_insert(Dialled { ended, after, late: Duration::ZERO });
            }
        });
        Ok(())
    }
}

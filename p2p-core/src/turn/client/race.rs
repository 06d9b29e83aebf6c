//! The choice of the servers to ask next.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::output::{Conn, Place};
use super::{MOST_HOPS, MOST_PORTS, Server};
use crate::Reach;
use crate::turn::{Allocation, Carrier, Failure, Relaying};

/// A server to ask.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) server: Server,
    /// The number of redirections that led here.
    hops: u8,
    /// The number of our ports that it was asked from.
    ports: u8,
}

/// A server that is being asked.
#[derive(Debug)]
pub(super) struct Try {
    pub(super) conn: Conn,
    pub(super) candidate: Candidate,
    pub(super) state: TryState,
}

#[derive(Debug)]
pub(super) enum TryState {
    Opening { until: Instant },
    Asking(Box<Allocation>),
}

impl Try {
    pub(super) fn place(&self) -> &Place {
        &self.candidate.server.place
    }
}

/// One race over all servers.
#[derive(Debug, Default)]
pub(super) struct Race {
    pub(super) waiting: VecDeque<Candidate>,
    pub(super) tries: Vec<Try>,
    /// The time at which the next server may be asked although none has failed.
    pub(super) next_start: Option<Instant>,
    /// The servers that were asked or are going to be.
    seen: BTreeSet<(SocketAddr, Carrier)>,
}

impl Race {
    /// Makes a race: UDP before TCP before TLS, and each in the order of the user.
    pub(super) fn new(servers: &[Server], relaying: Relaying) -> Self {
        let mut race = Self::default();
        let mut sorted: Vec<_> = servers.iter().collect();
        sorted.sort_by_key(|server| server.place.carrier);
        for server in sorted {
            let is_able = relaying == Relaying::Udp || server.place.carrier.is_stream();
            if is_able && race.seen.insert((server.place.address, server.place.carrier)) {
                race.waiting.push_back(Candidate { server: server.clone(), hops: 0, ports: 1 });
            }
        }
        race
    }

    pub(super) fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.tries.is_empty()
    }

    /// Queues the server to ask at once instead, if the failure names one. Otherwise returns the reason to report.
    pub(super) fn follow(&mut self, candidate: Candidate, failure: Failure) -> Result<(), Failure> {
        let Candidate { server, hops, ports } = candidate;
        match failure {
            Failure::Redirected { to, domain } => {
                let place = Place { address: to, host: domain.or(server.place.host), ..server.place };
                check_redirection(server.place.address, to)?;
                if hops >= MOST_HOPS || !self.seen.insert((to, place.carrier)) {
                    return Err(Failure::Circle(to));
                }
                let server = Server { place, ..server };
                self.waiting.push_front(Candidate { server, hops: hops + 1, ports: 1 });
                Ok(())
            }
            // Our port was somebody else's before, behind the same NAT, so another one is tried (RFC 8656, section
            // 7.4).
            failure if failure.code() == Some(437) && ports < MOST_PORTS => {
                self.waiting.push_front(Candidate { server, hops, ports: ports + 1 });
                Ok(())
            }
            failure => Err(failure),
        }
    }
}

/// Checks that a server does not send us where it could not reach itself: into our own networks.
fn check_redirection(from: SocketAddr, to: SocketAddr) -> Result<(), Failure> {
    let reach = Reach::of(to.ip());
    let is_inward = reach != Reach::Global && reach != Reach::of(from.ip());
    if to.port() == 0 || reach == Reach::Nowhere || is_inward || to.is_ipv4() != from.is_ipv4() {
        return Err(Failure::Absurd { address: to, why: "no server of its kind can be there" });
    }
    Ok(())
}

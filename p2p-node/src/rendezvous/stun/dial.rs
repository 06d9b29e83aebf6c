//! Dialling back: what does a client's NAT do with a SYN nobody asked for?
//!
//! Only the address that a client's own TCP connection comes from is ever dialled, port included: nobody can have us
//! dial a third party, nor another port of a NAT that others are behind. The client has closed nothing by then and
//! uses a throw-away port, so what is dialled is never a service.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2p_core::nat::SynAnswer;
use p2p_core::rate::{Rate, Source, SourceLimit};
use p2p_core::stun::dial_back::SynOutcome;
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::rendezvous::chance;

/// Dials for one source: a probe needs one or two, and is repeated when the network changes.
const RATE: Rate = Rate { per_second: 1, burst: 6 };

/// Dials, within bounds.
#[derive(Debug)]
pub(super) struct Dialler {
    limit: Mutex<SourceLimit>,
    seats: Arc<Semaphore>,
}

impl Dialler {
    /// For so many clients at once.
    pub(super) fn new(most: usize, now: Instant) -> Self {
        let limit = Mutex::new(SourceLimit::new(RATE, &mut chance(), now));
        Self { limit, seats: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))) }
    }

    /// Dials `client` from the address it came to, and from another one if there is one.
    pub(super) async fn dial(
        &self,
        client: SocketAddr,
        near: IpAddr,
        far: Option<IpAddr>,
        patience: Duration,
    ) -> (SynOutcome, SynOutcome) {
        let is_admitted = {
            let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
            limit.take(Source::of(client.ip()), Instant::now())
        };
        let Some(_seat) = Arc::clone(&self.seats).try_acquire_owned().ok().filter(|_| is_admitted) else {
            return (SynOutcome::Unavailable, SynOutcome::Unavailable);
        };
        let far = async {
            match far {
                Some(far) => dial(far, client, patience).await,
                None => SynOutcome::Unavailable,
            }
        };
        tokio::join!(dial(near, client, patience), far)
    }
}

/// One SYN, and what it got.
async fn dial(from: IpAddr, to: SocketAddr, patience: Duration) -> SynOutcome {
    let made = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let Ok(socket) = made.and_then(|socket| socket.bind(SocketAddr::new(from, 0)).map(|()| socket)) else {
        return SynOutcome::Unavailable;
    };
    let errors = icmp::Errors::of(&socket, to);
    match timeout(patience, socket.connect(to)).await {
        Ok(Ok(stream)) => {
            // Nothing is to be said: a RST costs the least.
            let _ = stream.set_zero_linger();
            SynOutcome::Connected
        }
        Err(_) => SynOutcome::Kept(SynAnswer::Silence),
        Ok(Err(error)) => match error.kind() {
            // Linux says so of a RST and of an ICMP 3/3, port unreachable, which is what its firewalls send.
            ErrorKind::ConnectionRefused if errors.is_some_and(|errors| errors.is_any()) => {
                SynOutcome::Kept(SynAnswer::Icmp)
            }
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => SynOutcome::Kept(SynAnswer::Reset),
            ErrorKind::TimedOut => SynOutcome::Kept(SynAnswer::Silence),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::PermissionDenied => {
                SynOutcome::Kept(SynAnswer::Icmp)
            }
            _ => SynOutcome::Unavailable,
        },
    }
}

/// ICMP errors that came to a socket, where the system tells of them apart.
#[cfg(target_os = "linux")]
mod icmp {
    use std::net::SocketAddr;
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};

    use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
    use nix::sys::socket::{MsgFlags, recv, setsockopt};
    use tokio::net::TcpSocket;

    /// A second handle to a socket, for its queue of errors.
    pub(super) struct Errors(OwnedFd);

    impl Errors {
        /// `None` when the system does not keep them.
        pub(super) fn of(socket: &TcpSocket, to: SocketAddr) -> Option<Self> {
            let set = if to.is_ipv4() {
                setsockopt(socket, Ipv4RecvErr, &true)
            } else {
                setsockopt(socket, Ipv6RecvErr, &true)
            };
            set.ok()?;
            socket.as_fd().try_clone_to_owned().ok().map(Self)
        }

        /// Whether one has come. A RST leaves none.
        pub(super) fn is_any(&self) -> bool {
            let mut packet = [0; 128];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            recv(self.0.as_raw_fd(), &mut packet, flags).is_ok()
        }
    }
}

/// Elsewhere a refusal is taken for a RST.
#[cfg(not(target_os = "linux"))]
mod icmp {
    use std::net::SocketAddr;

    use tokio::net::TcpSocket;

    pub(super) struct Errors;

    impl Errors {
        pub(super) fn of(_: &TcpSocket, _: SocketAddr) -> Option<Self> {
            None
        }

        pub(super) fn is_any(&self) -> bool {
            false
        }
    }
}

//! Keeps TCP connections alive while they are idle, and finds out those whose path is dead.
//!
//! The system does both by itself once it is told to: an idle connection is asked after (RFC 1122, 4.2.3.6), and data that
//! nobody acknowledges ends it (RFC 5482). One thing must be added: Linux counts a reader that pauses as one that does not
//! acknowledge, and would cut it (measured: a connection with `TCP_USER_TIMEOUT` of 5 s ends 5.6 s after its reader has
//! stopped reading). [`StallGuard`] moves that deadline on while the peer's system answers.

use std::io;
use std::time::{Duration, Instant};

use p2p_core::node::KeepAlive;
use socket2::SockRef;
use tokio::net::TcpStream;
use tracing::debug;

/// Tells the system to keep `socket` alive.
///
/// # Errors
/// What the system says. What it does not know is not told to it.
pub(crate) fn set(keep_alive: &KeepAlive, socket: &SockRef<'_>) -> io::Result<()> {
    let is_on = !keep_alive.idle.is_zero() && keep_alive.probes > 0;
    socket.set_keepalive(is_on)?;
    if is_on {
        let seconds = |time: Duration| time.clamp(Duration::from_secs(1), MOST_IDLE);
        let times = socket2::TcpKeepalive::new().with_time(seconds(keep_alive.idle));
        #[cfg(any(target_os = "android", target_os = "linux", target_os = "macos", target_os = "windows"))]
        let times = times
            .with_interval(seconds(keep_alive.interval))
            .with_retries(keep_alive.probes.min(MOST_PROBES));
        socket.set_tcp_keepalive(&times)?;
    }
    #[cfg(any(target_os = "android", target_os = "linux"))]
    if !keep_alive.unacknowledged.is_zero() {
        socket
            .set_tcp_user_timeout(Some(keep_alive.unacknowledged.clamp(LEAST_UNACKNOWLEDGED, MOST_IDLE)))?;
    }
    Ok(())
}

/// Keeps the system from taking a peer that reads slowly for one that is gone.
///
/// Each `look` asks the system whether the peer's system still acknowledges, and if so moves the deadline of
/// unacknowledged data on. If nobody looks any more the deadline stays where it is.
#[derive(Debug)]
pub struct StallGuard {
    /// [`KeepAlive::unacknowledged`]; `None` if that is off.
    usual: Option<Duration>,
    /// When data was first seen to be stuck, if it is.
    stuck_since: Option<Instant>,
}

impl StallGuard {
    /// Guards a connection that was kept alive by `keep_alive`.
    pub fn new(keep_alive: &KeepAlive) -> Self {
        let usual = keep_alive.unacknowledged;
        let usual = (!usual.is_zero()).then(|| usual.clamp(LEAST_UNACKNOWLEDGED, MOST_IDLE));
        Self { usual, stuck_since: None }
    }

    /// The longest pause between two looks; `None` if none are needed.
    pub fn every(&self) -> Option<Duration> {
        self.usual.filter(|_| cfg!(target_os = "linux")).map(|usual| usual / 2)
    }

    /// Looks at the connection.
    pub(crate) fn look(&mut self, stream: &TcpStream, now: Instant) {
        let (Some(usual), Some(every)) = (self.usual, self.every()) else { return };
        let Some(progress) = system::progress(stream) else { return };
        let deadline = match (progress.is_stuck && progress.acknowledged < usual, self.stuck_since) {
            // It began at most one pause ago, and the next look is one pause away.
            (true, since) => {
                let since = *self.stuck_since.insert(since.unwrap_or(now));
                now.saturating_duration_since(since) + 2 * every + usual
            }
            // Stuck and silent: what was granted last runs out.
            (false, Some(_)) if progress.is_stuck => return,
            (false, Some(_)) => {
                self.stuck_since = None;
                usual
            }
            (false, None) => return,
        };
        if let Err(error) = system::grant(stream, deadline) {
            debug!(%error, "TCP_USER_TIMEOUT");
        }
    }
}

/// What the system knows of how a connection's data gets on.
struct Acknowledgement {
    /// Something was sent again, or the peer's full window was asked after.
    is_stuck: bool,
    /// The time since the peer's system acknowledged anything, be it old.
    acknowledged: Duration,
}

/// The system takes any time in whole seconds up to this.
const MOST_IDLE: Duration = Duration::from_secs(32_767);
/// The most probes Linux takes.
const MOST_PROBES: u32 = 127;
/// Shorter, answers to a full window would be missed: Linux gives one each half a second at most.
const LEAST_UNACKNOWLEDGED: Duration = Duration::from_secs(2);

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::time::Duration;

    use nix::sys::socket::getsockopt;
    use nix::sys::socket::sockopt::GetStruct;
    use nix::{getsockopt_impl, libc, sockopt_impl};
    use socket2::SockRef;
    use tokio::net::TcpStream;

    use super::Acknowledgement;

    /// The part of `struct tcp_info` that every Linux has.
    const LENGTH: usize = 60;
    /// Offsets of `tcpi_backoff` and `tcpi_last_ack_recv` in it (linux/tcp.h).
    const BACKOFF: usize = 4;
    const LAST_ACK_RECEIVED: usize = 56;

    sockopt_impl!(
        /// The beginning of `struct tcp_info`.
        TcpInfo,
        GetOnly,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        [u8; LENGTH],
        GetStruct<[u8; LENGTH]>
    );

    /// Asks the system. `None` if it does not say.
    pub(super) fn progress(stream: &TcpStream) -> Option<Acknowledgement> {
        let info = getsockopt(stream, TcpInfo).ok()?;
        let acknowledged = info.get(LAST_ACK_RECEIVED..)?.first_chunk()?;
        Some(Acknowledgement {
            is_stuck: info.get(BACKOFF).is_some_and(|backoff| *backoff > 0),
            acknowledged: Duration::from_millis(u32::from_ne_bytes(*acknowledged).into()),
        })
    }

    pub(super) fn grant(stream: &TcpStream, deadline: Duration) -> io::Result<()> {
        SockRef::from(stream).set_tcp_user_timeout(Some(deadline))
    }
}

/// Nobody but Linux counts a full window as silence.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::time::Duration;

    use tokio::net::TcpStream;

    use super::Acknowledgement;

    pub(super) fn progress(_: &TcpStream) -> Option<Acknowledgement> {
        None
    }

    pub(super) fn grant(_: &TcpStream, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::{interval, timeout};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(TcpStream::connect(here), listener.accept());
        (dialled.unwrap(), accepted.unwrap().0)
    }

    /// Writes until there is no room for a while. Answers how much there was room for.
    async fn fill(stream: &mut TcpStream) -> usize {
        let mut taken = 0;
        let some = [0; 65_536];
        while let Ok(written) = timeout(Duration::from_millis(100), stream.write(&some)).await {
            taken += written.unwrap();
        }
        taken
    }

    #[tokio::test]
    async fn a_reader_that_pauses_is_cut_by_the_system_only_while_nobody_looks() {
        let keep_alive = KeepAlive::new().with_unacknowledged(LEAST_UNACKNOWLEDGED);
        let (mut guarded, mut its_reader) = pair().await;
        let (mut alone, _reader_of_the_other) = pair().await;
        for stream in [&guarded, &alone] {
            set(&keep_alive, &SockRef::from(stream)).unwrap();
        }
        let mut guard = StallGuard::new(&keep_alive);
        let mut looks = interval(guard.every().unwrap() / 2);
        let filled = {
            let mut filling = Box::pin(fill(&mut guarded));
            filling.as_mut().await
        };
        // Both are full. Until the one that nobody looks at is cut the other is looked at, and that twice more.
        fill(&mut alone).await;
        let some = [0; 65_536];
        let cut = {
            let mut writing = Box::pin(alone.write_all(&some));
            loop {
                tokio::select! {
                    written = &mut writing => break written.unwrap_err(),
                    _ = looks.tick() => guard.look(&guarded, crate::drive::now()),
                }
            }
        };
        assert_eq!(cut.kind(), ErrorKind::TimedOut);
        for _ in 0..8 {
            looks.tick().await;
            guard.look(&guarded, crate::drive::now());
        }
        guarded.shutdown().await.unwrap();
        let mut read = Vec::new();
        its_reader.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), filled);
        // It gets on, so the usual deadline is back.
        guard.look(&guarded, crate::drive::now());
        assert_eq!(SockRef::from(&guarded).tcp_user_timeout().unwrap(), Some(LEAST_UNACKNOWLEDGED));
    }
}

//! The loop in which every server accepts its connections.
//!
//! It never waits for a stranger: TLS and everything after it happens in a task for each connection, within the
//! [seats](super::seats) there are. When the system has no descriptor left it pauses, and tells so once a second at most.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2p_core::rate::{Rate, Source, SourceLimit};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tracing::{trace, warn};

use super::chance;
use super::log_limit::LogLimit;
use super::seats::{Notice, Seat, Seats};

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionAddrs {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// What became of a connection, for the counters of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionFate {
    /// It has a seat.
    Accepted,
    /// It was closed because there are too many: at once, or later to make room.
    Crowded,
    /// It was closed because it was silent or stalled.
    Stalled,
}

/// A server as its connections see it.
pub(super) trait Serve: Clone + Send + Sync + 'static {
    /// The name of the server, for the log.
    const NAME: &'static str;

    /// The seats of its connections.
    fn seats(&self) -> &Arc<Seats>;

    /// Counts one more.
    fn count(&self, fate: ConnectionFate);

    /// Serves one connection until it is over, and raises the rank of its seat when it has said something.
    fn serve<T>(
        self,
        stream: T,
        between: ConnectionAddrs,
        seat: &Seat,
    ) -> impl Future<Output = io::Result<()>> + Send
    where
        T: AsyncRead + AsyncWrite + Send + Unpin;
}

/// TLS for a listener, bounded by source and network: a handshake costs a hundred times what a connection costs.
pub(super) struct TlsGate {
    acceptor: TlsAcceptor,
    handshakes: Mutex<Handshakes>,
}

struct Handshakes {
    sources: SourceLimit,
    nets: SourceLimit,
}

impl TlsGate {
    pub(super) fn new(acceptor: TlsAcceptor) -> Arc<Self> {
        let (mut seed, now) = (chance(), Instant::now());
        let mut table = |rate| SourceLimit::new(rate, &mut seed, now);
        let handshakes = Handshakes { sources: table(SOURCE_HANDSHAKES), nets: table(NET_HANDSHAKES) };
        Arc::new(Self { acceptor, handshakes: Mutex::new(handshakes) })
    }

    fn admits(&self, remote: SocketAddr) -> bool {
        let (source, now) = (Source::of(remote.ip()), Instant::now());
        let mut handshakes = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        handshakes.sources.take(source, now) && handshakes.nets.take(source.net(), now)
    }
}

/// Serves the connections of one listener, for ever. When it is dropped all of them end.
pub(super) async fn connections<S: Serve>(server: S, listener: TcpListener, tls: Option<Arc<TlsGate>>) {
    let mut serving = JoinSet::new();
    let mut log = AcceptLog::default();
    loop {
        while serving.try_join_next().is_some() {}
        server.seats().settled().await;
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            // It was over before we had it.
            Err(error) if is_of_one(&error) => continue,
            Err(error) => {
                log.failed(S::NAME, &error);
                sleep(PAUSE).await;
                continue;
            }
        };
        let seat = match &tls {
            Some(tls) if !tls.admits(remote) => None,
            _ => server.seats().take(remote),
        };
        let Some(seat) = seat else {
            log.crowded(S::NAME);
            server.count(ConnectionFate::Crowded);
            // The system need not remember it.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            continue;
        };
        server.count(ConnectionFate::Accepted);
        serving.spawn(serve(server.clone(), stream, remote, tls.clone(), seat));
    }
}

async fn serve<S: Serve>(
    server: S,
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<Arc<TlsGate>>,
    seat: Seat,
) {
    let serving = async {
        stream.set_nodelay(true)?;
        let between = ConnectionAddrs { local: stream.local_addr()?, remote };
        match tls {
            None => server.clone().serve(stream, between, &seat).await,
            Some(tls) => {
                let stream = tls.acceptor.accept(stream).await?;
                server.clone().serve(stream, between, &seat).await
            }
        }
    };
    let end = tokio::select! {
        end = serving => end,
        notice = seat.notice() => {
            server.count(if notice == Notice::Evicted { ConnectionFate::Crowded } else { ConnectionFate::Stalled });
            trace!(%remote, ?notice, "connection of {} closed", S::NAME);
            return;
        }
    };
    if end.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut) {
        server.count(ConnectionFate::Stalled);
    }
    trace!(%remote, ?end, "connection of {} over", S::NAME);
}

/// Whether an error of `accept` is about one connection, and the next one can be accepted at once.
fn is_of_one(error: &io::Error) -> bool {
    use ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
    )
}

/// What is told of a listener.
#[derive(Default)]
struct AcceptLog {
    failures: LogLimit,
    crowds: LogLimit,
}

impl AcceptLog {
    fn failed(&mut self, name: &str, error: &io::Error) {
        if let Some(times) = self.failures.count(Instant::now()) {
            warn!(%error, times, "{name} cannot accept connections, pausing");
        }
    }

    fn crowded(&mut self, name: &str) {
        if let Some(times) = self.crowds.count(Instant::now()) {
            warn!(times, "{name} has no room: connections were closed at once");
        }
    }
}

/// How long to leave a listener alone that only gives errors: no descriptors left, mostly.
const PAUSE: Duration = Duration::from_millis(100);
/// TLS handshakes with one source: those of all nodes behind one address that come back at the same time.
const SOURCE_HANDSHAKES: Rate = Rate { per_second: 50, burst: 500 };
/// TLS handshakes with one network: those of twenty sources, so that none of them uses up what its neighbours have.
const NET_HANDSHAKES: Rate = Rate { per_second: 1_000, burst: 4_000 };

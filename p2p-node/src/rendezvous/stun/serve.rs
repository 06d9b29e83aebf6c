//! The loops: datagrams, and connections.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2p_core::stun::frame::Framer;
use p2p_core::stun::responder::{Reply, Silence};
use p2p_core::stun::{Responder, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{trace, warn};

use super::bind::Site;
use super::dial::Dialler;
use super::{StunServerConfig, Tally};
use crate::rendezvous::limit::{Limit, Source};
use crate::rendezvous::seats::Seats;
use crate::rendezvous::tally::count;

/// How long to leave a socket alone that only gives errors: no descriptors left, mostly.
const PAUSE: Duration = Duration::from_millis(100);

/// What is shared by all tasks of one server.
#[derive(Debug)]
pub(super) struct Bounds {
    limit: Mutex<Limit>,
    seats: Seats,
    dialler: Dialler,
    idle: Duration,
    stall: Duration,
}

impl Bounds {
    pub(super) fn new(config: &StunServerConfig) -> Self {
        Self {
            limit: Mutex::new(Limit::new(config.rate, Instant::now())),
            seats: Seats::new(config.most_connections, config.most_per_source),
            dialler: Dialler::new(Instant::now()),
            idle: config.idle,
            stall: config.stall,
        }
    }

    fn admit(&self, source: SocketAddr) -> bool {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.admit(Source::of(source.ip()), Instant::now())
    }

    /// Waits until every connection is over; none is let in any more.
    pub(super) async fn emptied(&self) {
        self.seats.emptied().await;
    }
}

/// Asks the responder, within the rate, and counts.
fn answer(
    responder: &Responder,
    bytes: &[u8],
    (source, destination): (SocketAddr, SocketAddr),
    transport: Transport,
    bounds: &Bounds,
    tally: &Tally,
) -> Result<Option<Reply>, Silence> {
    if !bounds.admit(source) {
        count(&tally.limited);
        return Ok(None);
    }
    told(responder.respond(bytes, source, destination, transport), source, tally)
}

/// Counts what became of a request.
fn told(reply: Result<Reply, Silence>, source: SocketAddr, tally: &Tally) -> Result<Option<Reply>, Silence> {
    match reply {
        Ok(reply) => {
            count(if reply.is_error { &tally.refused } else { &tally.answered });
            Ok(Some(reply))
        }
        Err(silence) => {
            trace!(%source, %silence, "no STUN answer");
            count(&tally.garbage);
            Err(silence)
        }
    }
}

/// Serves one UDP socket of a site, for ever.
pub(super) async fn datagrams(site: Arc<Site>, index: usize, bounds: Arc<Bounds>, tally: Arc<Tally>) {
    let (destination, socket) = &site.udp[index];
    // One byte more than a message may have, so that a longer one is seen to be longer.
    let mut buffer = vec![0; Transport::Udp.most_bytes() + 1];
    loop {
        let (length, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                trace!(%error, "STUN datagram not received");
                sleep(PAUSE).await;
                continue;
            }
        };
        let ends = (source, *destination);
        let Ok(Some(reply)) =
            answer(&site.responder, &buffer[..length], ends, Transport::Udp, &bounds, &tally)
        else {
            continue;
        };
        let from = site.udp.iter().find(|(address, _)| *address == reply.from);
        // Not waited for: an answer that finds the queue full is a datagram lost, as on any link.
        let sent = from.map(|(_, socket)| socket.try_send_to(&reply.bytes, reply.to));
        if !matches!(sent, Some(Ok(_))) {
            count(&tally.unsent);
        }
    }
}

/// Serves one TCP listener, for ever.
pub(super) async fn connections(
    responder: Responder,
    listener: TcpListener,
    bounds: Arc<Bounds>,
    tally: Arc<Tally>,
) {
    let mut serving = JoinSet::new();
    loop {
        while serving.try_join_next().is_some() {}
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "STUN connection not accepted, pausing");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Some(seat) = bounds.seats.take(source) else {
            count(&tally.crowded);
            continue;
        };
        count(&tally.connections);
        let (bounds, tally) = (Arc::clone(&bounds), Arc::clone(&tally));
        serving.spawn(async move {
            let end = serve(&responder, stream, source, &bounds, &tally).await;
            if let Err(error) = &end
                && error.kind() == io::ErrorKind::TimedOut
            {
                count(&tally.stalled);
            }
            trace!(%source, ?end, "STUN connection over");
            drop(seat);
        });
    }
}

/// Serves one connection until it ends, idles, stalls or speaks something else.
async fn serve(
    responder: &Responder,
    mut stream: TcpStream,
    source: SocketAddr,
    bounds: &Bounds,
    tally: &Tally,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let destination = stream.local_addr()?;
    let mut framer = Framer::default();
    let mut buffer = vec![0; 1_024];
    let mut begun = Instant::now();
    loop {
        let patience =
            if framer.is_partial() { bounds.stall.saturating_sub(begun.elapsed()) } else { bounds.idle };
        let length = timeout(patience, stream.read(&mut buffer)).await??;
        if length == 0 {
            return Ok(());
        }
        if !framer.is_partial() {
            begun = Instant::now();
        }
        let mut rest = &buffer[..length];
        loop {
            let message = match framer.feed(&mut rest) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => {
                    count(&tally.garbage);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            begun = Instant::now();
            let ends = (source, destination);
            let reply = match responder.dial_wish(&message) {
                None => answer(responder, &message, ends, Transport::Tcp, bounds, tally),
                Some(patience) => {
                    count(&tally.dialled);
                    let far = responder.other_ip(destination);
                    let outcomes = bounds.dialler.dial(source, destination.ip(), far, patience).await;
                    told(responder.respond_dialled(&message, source, destination, outcomes), source, tally)
                }
            };
            match reply {
                Ok(Some(reply)) => timeout(bounds.stall, stream.write_all(&reply.bytes)).await??,
                Ok(None) => {}
                Err(silence) => return Err(io::Error::new(io::ErrorKind::InvalidData, silence)),
            }
        }
    }
}

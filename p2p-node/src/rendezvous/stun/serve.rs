//! What is answered: datagrams, and messages on connections.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2p_core::rate::{Bucket, Rate, Source, SourceLimit};
use p2p_core::stun::frame::Framer;
use p2p_core::stun::responder::{Reply, Silence};
use p2p_core::stun::{Responder, Transport};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tracing::trace;

use super::bind::StunSite;
use super::dial::Dialler;
use super::{StunServerConfig, Tally};
use crate::rendezvous::accept::{ConnectionAddrs, ConnectionFate, Serve};
use crate::rendezvous::chance;
use crate::rendezvous::seats::{Rank, Seat, Seats};
use crate::rendezvous::tally::count;

/// How long to leave a socket alone that only gives errors.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of the headers of a datagram: those of IPv6 and UDP.
const HEADERS: usize = 48;
/// Seconds whose bytes one source may have at once.
const BURST: u32 = 4;

/// What is shared by all tasks of one server.
#[derive(Debug)]
pub(super) struct Bounds {
    rate: Rate,
    /// Requests by address and port.
    ports: Mutex<SourceLimit>,
    /// Bytes of answers by source.
    bytes: Option<Mutex<SourceLimit>>,
    seats: Arc<Seats>,
    dialler: Dialler,
    idle: Duration,
    stall: Duration,
}

impl Bounds {
    pub(super) fn new(config: &StunServerConfig) -> Self {
        let (mut seed, now) = (chance(), Instant::now());
        let bytes = config.source_bytes.map(|per_second| {
            let rate = Rate { per_second, burst: per_second.saturating_mul(BURST) };
            Mutex::new(SourceLimit::new(rate, &mut seed, now))
        });
        Self {
            rate: config.rate,
            ports: Mutex::new(SourceLimit::new(config.rate, &mut seed, now)),
            bytes,
            seats: Seats::new(config.most_connections, config.most_per_source),
            dialler: Dialler::new(config.most_dials, now),
            idle: config.idle,
            stall: config.stall,
        }
    }

    /// Whether an answer of so many bytes may go to `remote`. Anybody can send datagrams in the name of another, so its
    /// own port is looked at first: a flood from one port does not use up what the others of an address have.
    fn admits(&self, remote: SocketAddr, bytes: usize) -> bool {
        let (source, now) = (Source::of(remote.ip()), Instant::now());
        let lock = |limit| Mutex::lock(limit).unwrap_or_else(PoisonError::into_inner);
        if !lock(&self.ports).take((source, remote.port()), now) {
            return false;
        }
        let cost = u32::try_from(bytes + HEADERS).unwrap_or(u32::MAX);
        self.bytes.as_ref().is_none_or(|limit| lock(limit).take_many(source, cost, now))
    }

    /// Waits until every connection is over; none is let in any more.
    pub(super) async fn emptied(&self) {
        self.seats.emptied().await;
    }
}

/// Counts what became of a request.
fn told(reply: Result<Reply, Silence>, source: SocketAddr, tally: &Tally) -> Result<Reply, Silence> {
    match &reply {
        Ok(reply) => count(if reply.is_error { &tally.refused } else { &tally.answered }),
        Err(silence) => {
            trace!(%source, %silence, "no STUN answer");
            count(&tally.garbage);
        }
    }
    reply
}

/// Serves one UDP socket of a site, for ever.
pub(super) async fn datagrams(site: Arc<StunSite>, index: usize, bounds: Arc<Bounds>, tally: Arc<Tally>) {
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
        let reply = site.responder.respond(&buffer[..length], source, *destination, Transport::Udp);
        if reply.as_ref().is_ok_and(|reply| !bounds.admits(source, reply.bytes.len())) {
            count(&tally.limited);
            continue;
        }
        let Ok(reply) = told(reply, source, &tally) else { continue };
        let from = site.udp.iter().find(|(address, _)| *address == reply.from);
        // Not waited for: an answer that finds the queue full is a datagram lost, as on any link.
        let sent = from.map(|(_, socket)| socket.try_send_to(&reply.bytes, reply.to));
        if !matches!(sent, Some(Ok(_))) {
            count(&tally.unsent);
        }
    }
}

/// What serves the connections of one listener.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    pub(super) responder: Responder,
    pub(super) bounds: Arc<Bounds>,
    pub(super) tally: Arc<Tally>,
}

impl Serve for Streams {
    const NAME: &'static str = "the STUN server";

    fn seats(&self) -> &Arc<Seats> {
        &self.bounds.seats
    }

    fn count(&self, fate: ConnectionFate) {
        count(match fate {
            ConnectionFate::Accepted => &self.tally.connections,
            ConnectionFate::Crowded => &self.tally.crowded,
            ConnectionFate::Stalled => &self.tally.stalled,
        });
    }

    /// Serves one connection until it ends, idles, stalls or speaks something else.
    async fn serve<T>(self, mut stream: T, between: ConnectionAddrs, seat: &Seat) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let Self { bounds, tally, .. } = &self;
        let (mut framer, mut bucket) = (Framer::default(), Bucket::new(Instant::now()));
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
                // Who asks too often waits: on a connection a question that is dropped is never asked again.
                while !bucket.take(bounds.rate, Instant::now()) {
                    sleep(bucket.wait(bounds.rate, Instant::now())).await;
                }
                match self.answer(&message, between).await {
                    Ok(reply) => timeout(bounds.stall, stream.write_all(&reply.bytes)).await??,
                    Err(silence) => return Err(io::Error::new(io::ErrorKind::InvalidData, silence)),
                }
                seat.rise(Rank::Heard);
            }
        }
    }
}

impl Streams {
    async fn answer(&self, message: &[u8], between: ConnectionAddrs) -> Result<Reply, Silence> {
        let (Self { responder, bounds, tally }, ConnectionAddrs { local, remote }) = (self, between);
        let reply = match responder.dial_wish(message) {
            None => responder.respond(message, remote, local, Transport::Tcp),
            Some(patience) => {
                count(&tally.dialled);
                let far = responder.other_ip(local);
                let outcomes = bounds.dialler.dial(remote, local.ip(), far, patience).await;
                responder.respond_dialled(message, remote, local, outcomes)
            }
        };
        told(reply, remote, tally)
    }
}

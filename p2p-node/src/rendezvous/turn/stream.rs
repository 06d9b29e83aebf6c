//! Clients over TCP and TLS, and the connections they are joined to.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use p2p_core::stun::Transport;
use p2p_core::turn::allocation::ConnectionId;
use p2p_core::turn::server::FiveTuple;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::frame::{CHANNEL_HEADER, TurnFrame};
use super::relay::Peer;
use super::serve::{Join, Outlet, Shared};
use crate::rendezvous::accept::{ConnectionAddrs, ConnectionFate, Serve};
use crate::rendezvous::seats::{Rank, Seat, Seats};
use crate::rendezvous::tally::count;

/// Bytes that wait for a client that reads slowly; more are lost.
const QUEUED: usize = 256 * 1024;
/// What a queued message costs besides its bytes: otherwise many empty ones would cost more than the bound.
const PLACE: usize = 64;
/// Messages written at once.
const BATCH: usize = 64;
/// Bytes read at once.
const READ: usize = 16 * 1024;
/// Bytes passed on at once on a connection with a peer.
const PASSED: usize = 32 * 1024;
/// A connection of which one end has said everything may outlive its allocation by so much: what was said is still
/// delivered. The other end has heard the end and gives back what it was lent, while we have bytes for it.
const DRAIN: Duration = Duration::from_secs(10);

/// What waits to be written to a client.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    to: mpsc::UnboundedSender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
}

impl Queue {
    fn new() -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (to, from) = mpsc::unbounded_channel();
        (Self { to, queued: Arc::default() }, from)
    }

    /// Adds a message, if there is room.
    pub(super) fn push(&self, bytes: &[u8]) -> bool {
        // Several may add at once and each be one message too much; it is a bound on memory, not a promise.
        let cost = bytes.len() + PLACE;
        let is_room = self.queued.load(Ordering::Relaxed) + cost <= QUEUED;
        if is_room {
            self.queued.fetch_add(cost, Ordering::Relaxed);
        }
        is_room && self.to.send(bytes.to_vec()).is_ok()
    }
}

impl Serve for Arc<Shared> {
    const NAME: &'static str = "the TURN server";

    fn seats(&self) -> &Arc<Seats> {
        &self.seats
    }

    fn count(&self, fate: ConnectionFate) {
        count(match fate {
            ConnectionFate::Accepted => &self.tally.connections,
            ConnectionFate::Crowded => &self.tally.crowded,
            ConnectionFate::Stalled => &self.tally.stalled,
        });
    }

    /// Serves a connection until it ends, idles, stalls or speaks something else.
    async fn serve<T>(self, stream: T, between: ConnectionAddrs, seat: &Seat) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let client = FiveTuple { transport: Transport::Tcp, server: between.local, client: between.remote };
        let (mut from, mut to) = split(stream);
        let (queue, mut queued) = Queue::new();
        let mut buffer = BytesMut::new();
        // What the client had goes with its connection, however that ends.
        let gone = Gone { shared: &self, client };
        let joined = tokio::select! {
            read = read(&self, &mut from, &mut buffer, client, queue.clone(), seat) => read,
            written = write(&self, &mut to, &mut queued, &queue) => written.map(|()| None),
        };
        drop(gone);
        let Some(join) = joined? else {
            return Ok(());
        };
        seat.rise(Rank::Proven);
        self.joined(join, (from, to), queued, buffer).await
    }
}

/// Ends what a client has when it is dropped.
struct Gone<'a> {
    shared: &'a Arc<Shared>,
    client: FiveTuple,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.shared.turn(None, |tables, now| tables.relayer.handle_gone(self.client, now));
    }
}

impl Shared {
    /// Serves a connection that is one with a peer's.
    async fn joined<T: AsyncRead + AsyncWrite>(
        &self,
        Join { over, peer, connection }: Join,
        (from, mut to): (ReadHalf<T>, WriteHalf<T>),
        mut queued: mpsc::UnboundedReceiver<Vec<u8>>,
        early: BytesMut,
    ) -> io::Result<()> {
        let is_ending = AtomicBool::new(false);
        // However it ends, also when its seat is taken.
        let _parted = Parted { shared: self, connection };
        let mut passed = pin!(async {
            while let Ok(bytes) = queued.try_recv() {
                to.write_all(&bytes).await?;
            }
            to.flush().await?;
            pass(self, (from, to), peer, early, connection, &is_ending).await
        });
        tokio::select! {
            end = &mut passed => end,
            () = over.cancelled() => match is_ending.load(Ordering::Relaxed) {
                true => timeout(DRAIN, passed).await.unwrap_or(Ok(())),
                false => Ok(()),
            },
        }
    }
}

/// Ends a joined connection when it is dropped.
struct Parted<'a> {
    shared: &'a Shared,
    connection: ConnectionId,
}

impl Drop for Parted<'_> {
    fn drop(&mut self) {
        self.shared.parted(self.connection);
    }
}

/// Reads messages until the connection ends, or becomes one with a peer's.
async fn read<T: AsyncRead>(
    shared: &Arc<Shared>,
    from: &mut ReadHalf<T>,
    buffer: &mut BytesMut,
    client: FiveTuple,
    queue: Queue,
    seat: &Seat,
) -> io::Result<Option<Join>> {
    let outlet = Outlet::Stream(queue);
    let mut is_proven = false;
    let broken = |error| {
        count(&shared.tally.garbage);
        io::Error::new(io::ErrorKind::InvalidData, error)
    };
    let mut begun = Instant::now();
    loop {
        loop {
            let frame = TurnFrame::first(buffer).map_err(broken)?;
            let whole = frame.on_stream();
            if buffer.len() < whole {
                break;
            }
            let bytes = buffer.split_to(whole);
            begun = Instant::now();
            if let TurnFrame::Channel { number, length } = frame {
                shared.channel(client, number, &bytes[CHANNEL_HEADER..CHANNEL_HEADER + length]);
            } else if let Some(join) = shared.message(client, &bytes, &outlet).map_err(broken)? {
                return Ok(Some(join));
            } else if !is_proven {
                is_proven = shared.lock().relayer.has_allocation(&client);
                seat.rise(if is_proven { Rank::Proven } else { Rank::Heard });
            }
        }
        let is_partial = !buffer.is_empty();
        let patience = if is_partial { shared.stall.saturating_sub(begun.elapsed()) } else { shared.idle };
        buffer.reserve(READ);
        match timeout(patience, from.read_buf(buffer)).await {
            Ok(Ok(0)) => return Ok(None),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            // Whoever has an allocation may listen.
            Err(_) if !is_partial && shared.lock().relayer.has_allocation(&client) => {}
            Err(late) => return Err(late.into()),
        }
        if !is_partial {
            begun = Instant::now();
        }
    }
}

/// Writes what is queued, until that stalls.
async fn write<T: AsyncWrite>(
    shared: &Shared,
    to: &mut WriteHalf<T>,
    queued: &mut mpsc::UnboundedReceiver<Vec<u8>>,
    queue: &Queue,
) -> io::Result<()> {
    let (mut batch, mut all) = (Vec::with_capacity(BATCH), Vec::new());
    loop {
        queued.recv_many(&mut batch, BATCH).await;
        all.clear();
        let places = batch.len() * PLACE;
        batch.drain(..).for_each(|bytes| all.extend_from_slice(&bytes));
        let written = async {
            to.write_all(&all).await?;
            to.flush().await
        };
        timeout(shared.stall, written).await??;
        queue.queued.fetch_sub(all.len() + places, Ordering::Relaxed);
        // One burst shall not cost its memory for ever.
        all.shrink_to(READ);
    }
}

/// Passes bytes between a client and a peer until both are done, or one breaks.
async fn pass<T>(
    shared: &Shared,
    (client_from, mut client_to): (ReadHalf<T>, WriteHalf<T>),
    mut peer: Peer,
    early: BytesMut,
    connection: ConnectionId,
    is_ending: &AtomicBool,
) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite,
{
    let (peer_from, mut peer_to) = peer.stream.split();
    // What came behind the request belongs to the peer already.
    peer_to.write_all(&early).await?;
    drop(early);
    tokio::try_join!(
        pump(shared, client_from, &mut peer_to, connection, is_ending),
        pump(shared, peer_from, &mut client_to, connection, is_ending),
    )?;
    Ok(())
}

/// One direction, at the rate there is for the user.
async fn pump(
    shared: &Shared,
    mut from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    connection: ConnectionId,
    is_ending: &AtomicBool,
) -> io::Result<()> {
    let Some(account) = shared.lock().relayer.account_of(connection) else {
        return Ok(());
    };
    let mut buffer = vec![0; PASSED];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            is_ending.store(true, Ordering::Relaxed);
            return to.shutdown().await;
        }
        loop {
            let paid = shared.lock().relayer.handle_stream(&account, length, Instant::now());
            match paid {
                Ok(()) => break,
                Err(wait) => sleep(wait).await,
            }
        }
        to.write_all(&buffer[..length]).await?;
    }
}

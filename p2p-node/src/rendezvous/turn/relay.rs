//! The relayed addresses: sockets peers send to and dial.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_core::Family;
use p2p_core::turn::Relaying;
use p2p_core::turn::server::{CONNECTION_LIFETIME, FiveTuple, NoRelayedAddress};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{trace, warn};

use super::frame::CHANNEL_HEADER;
use super::serve::{Outlet, Shared, Tables};
use crate::rendezvous::pair;
use crate::rendezvous::tally::count;

/// Datagrams taken from a socket before others get their turn.
pub(super) const BATCH: usize = 64;
/// How long to leave a socket alone that only gives errors: no descriptors left, mostly.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// The largest datagram there is, with a channel header and its filling.
const LARGEST: usize = CHANNEL_HEADER + 65_536;

thread_local! {
    /// One for each thread, not for each of many idle sockets.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST].into());
}

/// A relayed address. Dropping it closes it.
#[derive(Debug)]
pub(super) struct RelaySocket {
    pub(super) client: FiveTuple,
    /// For datagrams; connections come to a task of their own.
    pub(super) udp: Option<Arc<UdpSocket>>,
    /// Cancelled when it is dropped, or the server stops.
    over: CancellationToken,
}

impl Drop for RelaySocket {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

impl RelaySocket {
    /// Dials a peer from a relayed address.
    pub(super) async fn dial(shared: &Shared, relayed: SocketAddr, peer: SocketAddr) -> io::Result<Peer> {
        let room = shared.room_for_peer().ok_or(io::ErrorKind::QuotaExceeded)?;
        let stream = timeout(CONNECTION_LIFETIME, socket(relayed)?.connect(peer)).await??;
        stream.set_nodelay(true)?;
        Ok(Peer { stream, _room: room })
    }
}

/// A connection with a peer (RFC 6062), and the room it takes.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    _room: OwnedSemaphorePermit,
}

impl Shared {
    /// Opens a relayed address.
    pub(super) fn bind_relayed(
        self: &Arc<Self>,
        tables: &mut Tables,
        client: FiveTuple,
        outlet: Option<Outlet>,
        family: Family,
        relaying: Relaying,
        is_even: bool,
    ) -> Result<SocketAddr, NoRelayedAddress> {
        let mut relays = self.relays.iter();
        let &ip = relays.find(|ip| Family::of(**ip) == family).ok_or(NoRelayedAddress::Family)?;
        let outlet = outlet.ok_or(NoRelayedAddress::Exhausted)?;
        let over = self.stop.child_token();
        let (address, udp) = match relaying {
            Relaying::Udp => {
                let bound = self.free_port(ip, is_even, pair::datagrams);
                let (address, udp) = bound.ok_or(NoRelayedAddress::Exhausted)?;
                let udp = Arc::new(udp);
                let (shared, socket, outlet) = (Arc::clone(self), Arc::clone(&udp), outlet.clone());
                self.spawn_until(&over, datagrams(shared, address, socket, outlet));
                (address, Some(udp))
            }
            Relaying::Tcp => {
                let bound = self.free_port(ip, is_even, listener);
                let (address, listener) = bound.ok_or(NoRelayedAddress::Exhausted)?;
                self.spawn_until(&over, connections(Arc::clone(self), address, listener));
                (address, None)
            }
        };
        tables.outlets.insert(client, outlet);
        tables.relays.insert((relaying, address), RelaySocket { client, udp, over });
        Ok(address)
    }
}

/// Whether an address is this machine's: only one's own can be bound to.
pub(super) fn is_own(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// A socket on a port that others may be on as well: we listen and dial on it.
fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listener(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    // With the options above a port could be bound that somebody else listens on already.
    std::net::TcpListener::bind(address)?;
    let listener = socket(address)?.listen(64)?;
    Ok((listener.local_addr()?, listener))
}

/// Takes what peers send to a relayed address.
async fn datagrams(shared: Arc<Shared>, relayed: SocketAddr, socket: Arc<UdpSocket>, outlet: Outlet) {
    loop {
        if let Err(error) = socket.readable().await {
            trace!(%error, "nothing from peers");
            sleep(PAUSE).await;
            continue;
        }
        let end = BUFFER.with_borrow_mut(|buffer| {
            (0..BATCH).try_for_each(|_| {
                let (length, peer) = socket.try_recv_from(&mut buffer[CHANNEL_HEADER..])?;
                pass(&shared, relayed, &outlet, buffer, length, peer);
                Ok::<_, io::Error>(())
            })
        });
        match end {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                trace!(%error, "a datagram from a peer was not received");
            }
            Err(_) => {}
            // Others want to be heard as well.
            Ok(()) => tokio::task::yield_now().await,
        }
    }
}

/// Passes a datagram on to the client. It stands in `buffer` behind room for the header of a channel.
fn pass(
    shared: &Shared,
    relayed: SocketAddr,
    outlet: &Outlet,
    buffer: &mut [u8],
    length: usize,
    peer: SocketAddr,
) {
    let peer = SocketAddr::new(peer.ip(), peer.port());
    let end = CHANNEL_HEADER + length;
    let mut tables = shared.lock();
    let Some((client, channel)) = tables.relayer.route_back(relayed, peer, length, Instant::now()) else {
        return;
    };
    let Some(channel) = channel else {
        let data = bytes::Bytes::copy_from_slice(&buffer[CHANNEL_HEADER..end]);
        let indication = tables.relayer.data_indication(peer, data, client.transport);
        drop(tables);
        match indication {
            Some(bytes) => outlet.say(shared, client, &bytes),
            // Larger than messages are.
            None => count(&shared.tally.unsent),
        }
        return;
    };
    drop(tables);
    buffer[..2].copy_from_slice(&channel.to_be_bytes());
    buffer[2..CHANNEL_HEADER].copy_from_slice(&(length as u16).to_be_bytes());
    let filled = end.next_multiple_of(4).min(buffer.len());
    buffer[end..filled].fill(0);
    // Filled up on streams only (RFC 8656, section 12.5).
    let end = if matches!(outlet, Outlet::Stream(_)) { filled } else { end };
    outlet.say(shared, client, &buffer[..end]);
}

/// Takes connections of peers to a relayed address (RFC 6062, section 5.3).
async fn connections(shared: Arc<Shared>, relayed: SocketAddr, listener: TcpListener) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(times) = shared.failures.count(Instant::now()) {
                    warn!(%error, times, "connections of peers were not accepted, pausing");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        if let Some(room) = shared.room_for_peer().filter(|_| stream.set_nodelay(true).is_ok()) {
            shared.accepted(relayed, SocketAddr::new(peer.ip(), peer.port()), Peer { stream, _room: room });
        }
    }
}

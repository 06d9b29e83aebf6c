//! The relayed addresses: sockets peers send to and dial.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_core::Family;
use p2p_core::stun::{Attribute, Class, Message, Method, TransactionId};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{trace, warn};

use super::allocation::{CONNECTION, Kind};
use super::core::{Client, NoPort, Ports};
use super::frame::CHANNEL_HEADER;
use super::serve::{Outlet, Shared};
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

/// A relayed address. Dropping the last of it closes it, and every connection made from it.
#[derive(Debug)]
pub(super) struct Relay {
    address: SocketAddr,
    udp: Option<Arc<UdpSocket>>,
    /// Cancelled when it is dropped, or the server stops.
    pub(super) over: CancellationToken,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

impl Relay {
    /// Sends a datagram to a peer, if the system takes it at once: one that finds the queue full is lost, as on any
    /// link.
    pub(super) fn send(&self, shared: &Shared, data: &[u8], peer: SocketAddr) {
        let sent = self.udp.as_ref().map(|udp| udp.try_send_to(data, peer));
        if !matches!(sent, Some(Ok(_))) {
            count(&shared.tally.unsent);
        }
    }

    /// Dials a peer from this address.
    pub(super) async fn dial(shared: &Shared, address: SocketAddr, peer: SocketAddr) -> io::Result<Peer> {
        let room = shared.room_for_peer().ok_or(io::ErrorKind::QuotaExceeded)?;
        let stream = timeout(CONNECTION, socket(address)?.connect(peer)).await??;
        stream.set_nodelay(true)?;
        Ok(Peer { stream, _room: room })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A connection with a peer (RFC 6062), and the room it takes.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    _room: OwnedSemaphorePermit,
}

/// Makes relayed addresses for one client.
pub(super) struct Binder<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) client: Client,
    pub(super) outlet: &'a Outlet,
}

impl Ports<Arc<Relay>> for Binder<'_> {
    fn bind(&mut self, family: Family, kind: Kind, even: bool) -> Result<(SocketAddr, Arc<Relay>), NoPort> {
        let mut relays = self.shared.relays.iter();
        let &ip = relays.find(|ip| Family::of(**ip) == family).ok_or(NoPort::Family)?;
        let over = self.shared.stop.child_token();
        let (shared, client, outlet) = (Arc::clone(self.shared), self.client, self.outlet.clone());
        let (address, udp) = match kind {
            Kind::Udp => {
                let (address, udp) =
                    self.shared.free_port(ip, even, pair::datagrams).ok_or(NoPort::Exhausted)?;
                let udp = Arc::new(udp);
                self.shared.spawn_until(&over, datagrams(shared, client, Arc::clone(&udp), outlet));
                (address, Some(udp))
            }
            Kind::Tcp => {
                let (address, listener) =
                    self.shared.free_port(ip, even, listener).ok_or(NoPort::Exhausted)?;
                self.shared.spawn_until(&over, connections(shared, client, listener, outlet));
                (address, None)
            }
        };
        self.shared.wake.notify_one();
        Ok((address, Arc::new(Relay { address, udp, over })))
    }

    /// Only one's own addresses can be bound to.
    fn is_ours(&self, ip: IpAddr) -> bool {
        std::net::UdpSocket::bind((ip, 0)).is_ok()
    }
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
async fn datagrams(shared: Arc<Shared>, client: Client, socket: Arc<UdpSocket>, outlet: Outlet) {
    loop {
        if let Err(error) = socket.readable().await {
            trace!(%error, "nothing from peers");
            sleep(PAUSE).await;
            continue;
        }
        let end = BUFFER.with_borrow_mut(|buffer| {
            (0..BATCH).try_for_each(|_| {
                let (length, peer) = socket.try_recv_from(&mut buffer[CHANNEL_HEADER..])?;
                pass(&shared, client, &outlet, buffer, length, peer);
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
    client: Client,
    outlet: &Outlet,
    buffer: &mut [u8],
    length: usize,
    peer: SocketAddr,
) {
    let peer = SocketAddr::new(peer.ip(), peer.port());
    let Some(channel) = shared.lock().handle_peer(client, peer, length, Instant::now()) else {
        return;
    };
    let end = CHANNEL_HEADER + length;
    let Some(channel) = channel else {
        let data = bytes::Bytes::copy_from_slice(&buffer[CHANNEL_HEADER..end]);
        match indication(shared, peer, data).encode(client.transport) {
            Ok(bytes) => outlet.say(shared, client, &bytes),
            // Larger than messages are.
            Err(_) => count(&shared.tally.unsent),
        }
        return;
    };
    buffer[..2].copy_from_slice(&channel.to_be_bytes());
    buffer[2..CHANNEL_HEADER].copy_from_slice(&(length as u16).to_be_bytes());
    let filled = end.next_multiple_of(4).min(buffer.len());
    buffer[end..filled].fill(0);
    // Filled up on streams only (RFC 8656, section 12.5).
    let end = if matches!(outlet, Outlet::Stream(_)) { filled } else { end };
    outlet.say(shared, client, &buffer[..end]);
}

fn indication(shared: &Shared, peer: SocketAddr, data: bytes::Bytes) -> Message {
    let transaction = TransactionId::new(&mut shared.lock().dice);
    Message::new(Class::Indication, Method::DATA, transaction)
        .with(Attribute::XorPeerAddress(peer))
        .with(Attribute::Data(data))
}

/// Takes connections of peers to a relayed address (RFC 6062, section 5.3).
async fn connections(shared: Arc<Shared>, client: Client, listener: TcpListener, outlet: Outlet) {
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
        let peer = SocketAddr::new(peer.ip(), peer.port());
        let indication = match (stream.set_nodelay(true), shared.room_for_peer()) {
            (Ok(()), Some(room)) => {
                let stream = Peer { stream, _room: room };
                shared.lock().handle_accepted(client, peer, stream, Instant::now())
            }
            _ => None,
        };
        if let Some(bytes) = indication {
            shared.wake.notify_one();
            outlet.say(&shared, client, &bytes);
        }
    }
}

//! What all tasks share, and the loop of datagrams from clients.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2p_core::stun::Transport;
use p2p_core::stun::wire::WireError;
use p2p_core::turn::allocation::ConnectionId;
use p2p_core::turn::server::{Act, FiveTuple, Quota, Relayer, RelayerConfig};
use p2p_core::turn::{Credentials, Relaying};
use p2p_core::{Clock, Machine, Output, Seed, UnixTime};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, trace};

use super::credential::Secret;
use super::frame::{CHANNEL_HEADER, TurnFrame};
use super::relay::{BATCH, PAUSE, Peer, RelaySocket, is_own};
use super::stream::Queue;
use super::{Tally, TurnServerConfig, TurnServerError, unix_time};
use crate::rendezvous::log_limit::LogLimit;
use crate::rendezvous::seats::Seats;
use crate::rendezvous::tally::count;

/// Ports looked at before there are said to be none.
const TRIES: usize = 1_024;
/// Larger than any datagram.
const LARGEST: usize = 65_536;

/// What is shared by all tasks of one server.
#[derive(Debug)]
pub(super) struct Shared {
    tables: Mutex<Tables>,
    pub(super) tally: Arc<Tally>,
    pub(super) seats: Arc<Seats>,
    /// Connections with peers there may still be.
    peers: Arc<Semaphore>,
    /// Connections of peers that could not be accepted.
    pub(super) failures: LogLimit,
    pub(super) relays: Vec<IpAddr>,
    ports: RangeInclusive<u16>,
    pub(super) idle: Duration,
    pub(super) stall: Duration,
    /// Something may be due earlier than was thought.
    wake: Notify,
    tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// The machine, and the sockets it speaks of.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) relayer: Relayer,
    /// The ways back to clients that have an allocation.
    pub(super) outlets: HashMap<FiveTuple, Outlet>,
    pub(super) relays: HashMap<(Relaying, SocketAddr), RelaySocket>,
    peers: HashMap<ConnectionId, PeerStream>,
    /// When the task that waits for the next deadline will wake.
    wakes_at: Option<Instant>,
}

/// A connection with a peer.
#[derive(Debug)]
enum PeerStream {
    /// It is dialled, or a client has it, until this is cancelled.
    Elsewhere(CancellationToken),
    /// It waits, unread.
    Waiting(Peer),
}

/// What is done without the tables.
enum Effect {
    Send(Outlet, FiveTuple, bytes::Bytes),
    Relay(Arc<UdpSocket>, SocketAddr, bytes::Bytes),
    Dial { relayed: SocketAddr, peer: SocketAddr, connection: ConnectionId, over: CancellationToken },
}

/// What a connection that asked for it becomes (RFC 6062, section 5.4).
pub(super) struct Join {
    pub(super) over: CancellationToken,
    pub(super) peer: Peer,
    pub(super) connection: ConnectionId,
}

/// The way back to a client.
#[derive(Clone, Debug)]
pub(super) enum Outlet {
    Datagrams(Arc<UdpSocket>),
    Stream(Queue),
}

impl Outlet {
    /// Tells the client, if there is room: what there is none for is lost, as on any link.
    pub(super) fn say(&self, shared: &Shared, client: FiveTuple, bytes: &[u8]) {
        let is_taken = match self {
            Self::Datagrams(socket) => socket.try_send_to(bytes, client.client).is_ok(),
            Self::Stream(queue) => queue.push(bytes),
        };
        if !is_taken {
            count(&shared.tally.unsent);
        }
    }
}

/// Whose input is handled, and how to answer him.
pub(super) type RequestOrigin<'a> = Option<(FiveTuple, &'a Outlet)>;

impl Shared {
    pub(super) fn new(config: TurnServerConfig, relays: Vec<IpAddr>) -> Result<Arc<Self>, TurnServerError> {
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy).map_err(|error| TurnServerError::Entropy(error.into()))?;
        let users = config.users.iter().map(|login| Credentials::new(&login.user, &login.password));
        let relayer = RelayerConfig {
            secret: config.secret.map(|Secret(secret)| secret),
            users: users.collect::<Result<_, _>>().map_err(TurnServerError::User)?,
            relays: relays.clone(),
            allow_peers: config.allow_peers,
            deny_peers: config.deny_peers,
            quota: Quota {
                per_user: config.most_per_user,
                most: config.most_allocations,
                user_rate: config.user_rate,
                total_rate: config.total_rate,
            },
            lifetime: config.lifetime,
            most_lifetime: config.most_lifetime,
            nonce_lifetime: config.nonce_lifetime,
            rate: config.rate,
            ..RelayerConfig::new(config.realm)
        };
        let tables = Tables {
            relayer: Relayer::new(relayer, clock(), Seed::new(entropy), Instant::now()),
            outlets: HashMap::new(),
            relays: HashMap::new(),
            peers: HashMap::new(),
            wakes_at: None,
        };
        Ok(Arc::new(Self {
            tables: Mutex::new(tables),
            tally: Arc::new(Tally::default()),
            seats: Seats::new(config.most_connections, config.most_connections_per_source),
            peers: Arc::new(Semaphore::new(config.most_peer_connections.min(Semaphore::MAX_PERMITS))),
            failures: LogLimit::default(),
            relays,
            ports: config.ports,
            idle: config.idle,
            stall: config.stall,
            wake: Notify::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more connection with a peer, if there is any.
    pub(super) fn room_for_peer(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.peers).try_acquire_owned().ok()
    }

    /// Runs a task until the server stops.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_until(&self.stop, task);
    }

    /// Runs a task until `over`.
    pub(super) fn spawn_until(
        &self,
        over: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let over = over.clone();
        self.tasks.spawn(async move {
            let _ = over.run_until_cancelled(task).await;
        });
    }

    pub(super) async fn shutdown(self: &Arc<Self>) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.seats.emptied().await;
        self.turn(None, |tables, now| tables.relayer.close(now));
    }

    /// Binds something to a port of `ip` within the range, beginning anywhere in it: the next relayed address
    /// cannot be told from the last.
    pub(super) fn free_port<T>(
        &self,
        ip: IpAddr,
        even: bool,
        bind: impl Fn(SocketAddr) -> io::Result<(SocketAddr, T)>,
    ) -> Option<(SocketAddr, T)> {
        let mut dice = [0; 2];
        getrandom::fill(&mut dice).ok()?;
        let (first, size) = (*self.ports.start(), usize::from(self.ports.end() - self.ports.start()) + 1);
        let start = usize::from(u16::from_be_bytes(dice)) % size;
        // The offset is below the size of a range of 16 bits.
        let ports = (start..size).chain(0..start).map(|offset| first + offset as u16);
        let mut fitting = ports.filter(|port| !even || port % 2 == 0).take(TRIES);
        fitting.find_map(|port| bind(SocketAddr::new(ip, port)).ok())
    }

    /// Has the machine handle something, and does what it wants done. Returns what becomes of the connection of who
    /// asked, if that changes.
    pub(super) fn turn<T>(
        self: &Arc<Self>,
        asking: RequestOrigin<'_>,
        handle: impl FnOnce(&mut Tables, Instant) -> T,
    ) -> (T, Option<Join>) {
        let now = Instant::now();
        let (mut effects, mut join) = (Vec::new(), None);
        let mut tables = self.lock();
        let handled = handle(&mut tables, now);
        let due = loop {
            match tables.relayer.poll_output() {
                Output::Act(act) => self.act(&mut tables, act, asking, (&mut effects, &mut join), now),
                Output::Event(event) => debug!(?event, "TURN"),
                Output::Wait(deadline) => break deadline.map(|deadline| deadline.at),
            }
        };
        if due.is_some_and(|due| tables.wakes_at.is_none_or(|wakes_at| due < wakes_at)) {
            self.wake.notify_one();
        }
        drop(tables);
        effects.into_iter().for_each(|effect| self.perform(effect));
        (handled, join)
    }

    fn act(
        self: &Arc<Self>,
        tables: &mut Tables,
        act: Act,
        asking: RequestOrigin<'_>,
        (effects, join): (&mut Vec<Effect>, &mut Option<Join>),
        now: Instant,
    ) {
        match act {
            Act::Send { client, bytes } => {
                let asking = asking.filter(|(who, _)| *who == client).map(|(_, outlet)| outlet);
                if let Some(outlet) = asking.or(tables.outlets.get(&client)) {
                    effects.push(Effect::Send(outlet.clone(), client, bytes));
                }
            }
            Act::Check { client, mut ips } => {
                ips.retain(|ip| is_own(*ip));
                tables.relayer.handle_checked(client, &ips, now);
            }
            Act::Bind { client, family, relaying, is_even } => {
                let outlet = asking.filter(|(who, _)| *who == client).map(|(_, outlet)| outlet.clone());
                let bound = self.bind_relayed(tables, client, outlet, family, relaying, is_even);
                tables.relayer.handle_bound(client, family, relaying, bound, now);
            }
            Act::Release { relaying, relayed } => {
                if let Some(relay) = tables.relays.remove(&(relaying, relayed))
                    && !tables.relays.values().any(|other| other.client == relay.client)
                {
                    tables.outlets.remove(&relay.client);
                }
            }
            Act::Relay { relayed, peer, data } => {
                match tables.relays.get(&(Relaying::Udp, relayed)).and_then(|relay| relay.udp.clone()) {
                    Some(udp) => effects.push(Effect::Relay(udp, peer, data)),
                    None => count(&self.tally.unsent),
                }
            }
            Act::Dial { relayed, peer, connection } => {
                let over = self.stop.child_token();
                tables.peers.insert(connection, PeerStream::Elsewhere(over.clone()));
                effects.push(Effect::Dial { relayed, peer, connection, over });
            }
            Act::Join { connection, .. } => {
                let over = self.stop.child_token();
                let joined = tables.peers.insert(connection, PeerStream::Elsewhere(over.clone()));
                if let Some(PeerStream::Waiting(peer)) = joined {
                    *join = Some(Join { over, peer, connection });
                }
            }
            Act::Hang { connection } => {
                if let Some(PeerStream::Elsewhere(over)) = tables.peers.remove(&connection) {
                    over.cancel();
                }
            }
        }
    }

    fn perform(self: &Arc<Self>, effect: Effect) {
        match effect {
            Effect::Send(outlet, client, bytes) => outlet.say(self, client, &bytes),
            // What finds the queue full is lost, as on any link.
            Effect::Relay(udp, peer, data) => self.relay(&udp, &data, peer),
            Effect::Dial { relayed, peer, connection, over } => {
                let shared = Arc::clone(self);
                self.spawn_until(&over, async move {
                    let dialled = RelaySocket::dial(&shared, relayed, peer).await;
                    trace!(%peer, ?dialled, "TURN dialled a peer");
                    shared.turn(None, |tables, now| {
                        let is_connected = dialled.is_ok();
                        match dialled {
                            Ok(stream) => drop(tables.peers.insert(connection, PeerStream::Waiting(stream))),
                            Err(_) => drop(tables.peers.remove(&connection)),
                        }
                        tables.relayer.handle_dialled(connection, is_connected, now);
                    });
                });
            }
        }
    }

    /// Sends a datagram to a peer, if the system takes it at once.
    fn relay(&self, udp: &UdpSocket, data: &[u8], peer: SocketAddr) {
        if udp.try_send_to(data, peer).is_err() {
            count(&self.tally.unsent);
        }
    }

    /// A peer has dialled a relayed address. Its connection is closed if nobody wants it.
    pub(super) fn accepted(self: &Arc<Self>, relayed: SocketAddr, peer: SocketAddr, stream: Peer) {
        self.turn(None, |tables, now| {
            if let Some(connection) = tables.relayer.handle_accepted(relayed, peer, now) {
                tables.peers.insert(connection, PeerStream::Waiting(stream));
            }
        });
    }

    /// A joined connection is over.
    pub(super) fn parted(&self, connection: ConnectionId) {
        let mut tables = self.lock();
        tables.peers.remove(&connection);
        tables.relayer.handle_parted(connection);
    }

    /// Data on a channel.
    pub(super) fn channel(&self, client: FiveTuple, number: u16, data: &[u8]) {
        let mut tables = self.lock();
        let route = tables.relayer.route(&client, number, data.len(), Instant::now());
        let udp = route.and_then(|(relayed, peer)| {
            Some((Arc::clone(tables.relays.get(&(Relaying::Udp, relayed))?.udp.as_ref()?), peer))
        });
        drop(tables);
        match udp {
            Some((udp, peer)) => self.relay(&udp, data, peer),
            None => trace!(client = %client.client, number, "nothing goes out on this channel"),
        }
    }

    /// A STUN message. Returns what becomes of its connection, if that changes.
    ///
    /// # Errors
    /// When it is not one: on a stream nothing sensible can follow.
    pub(super) fn message(
        self: &Arc<Self>,
        client: FiveTuple,
        bytes: &[u8],
        outlet: &Outlet,
    ) -> Result<Option<Join>, WireError> {
        let (handled, join) = self.turn(Some((client, outlet)), |tables, now| {
            tables.relayer.handle_clock(clock());
            tables.relayer.handle_data(client, bytes, now)
        });
        handled.map(|()| join)
    }
}

/// What the system's clock shows now.
fn clock() -> Clock {
    Clock::new(Instant::now(), UnixTime(0).after(unix_time()))
}

/// Serves one UDP socket, for ever.
pub(super) async fn datagrams(shared: Arc<Shared>, socket: Arc<UdpSocket>, server: SocketAddr) {
    let outlet = Outlet::Datagrams(Arc::clone(&socket));
    let mut buffer = vec![0; LARGEST];
    loop {
        if let Err(error) = socket.readable().await {
            trace!(%error, "TURN datagram not received");
            sleep(PAUSE).await;
            continue;
        }
        let is_more = (0..BATCH).all(|_| match socket.try_recv_from(&mut buffer) {
            Ok((length, remote)) => {
                let client = FiveTuple { transport: Transport::Udp, server, client: remote };
                datagram(&shared, client, &buffer[..length], &outlet);
                true
            }
            Err(error) => {
                trace!(%error, "no TURN datagram");
                false
            }
        });
        if is_more {
            // Others want to be heard as well.
            tokio::task::yield_now().await;
        }
    }
}

fn datagram(shared: &Arc<Shared>, client: FiveTuple, bytes: &[u8], outlet: &Outlet) {
    if let Ok(TurnFrame::Channel { number, length }) = TurnFrame::first(bytes) {
        shared.channel(client, number, &bytes[CHANNEL_HEADER..CHANNEL_HEADER + length]);
    } else if let Err(error) = shared.message(client, bytes, outlet) {
        trace!(client = %client.client, %error, "neither STUN nor ChannelData");
    }
}

/// Ends what has had its time, for ever.
pub(super) async fn sweep(shared: Arc<Shared>) {
    loop {
        shared.turn(None, |tables, now| tables.relayer.handle_timeout(now));
        let next = {
            let mut tables = shared.lock();
            let Output::Wait(deadline) = tables.relayer.poll_output() else { continue };
            tables.wakes_at = deadline.map(|deadline| deadline.at);
            tables.wakes_at
        };
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = shared.wake.notified() => {}
        }
    }
}

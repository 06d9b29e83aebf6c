//! What all tasks share, and the loop of datagrams from clients.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2p_core::Seed;
use p2p_core::rate::{Rate, RateTable, Source};
use p2p_core::stun::wire::{Header, Parsed, WireError};
use p2p_core::stun::{Class, Method, Responder, Transport};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::trace;

use super::auth::{Gate, Question, Refusal};
use super::core::{At, Client, Core, Reaction, Terms};
use super::credential::Users;
use super::frame::{CHANNEL_HEADER, Frame};
use super::ledger::{Ledger, Quota};
use super::nonce::Nonces;
use super::peers::Policy;
use super::relay::{BATCH, Binder, PAUSE, Peer, Relay};
use super::stream::Queue;
use super::{Tally, TurnServerConfig, TurnServerError, unix_time};
use crate::rendezvous::log_limit::LogLimit;
use crate::rendezvous::seats::Seats;
use crate::rendezvous::tally::count;

/// Ports looked at before there are said to be none.
const TRIES: usize = 1_024;
/// Larger than any datagram.
const LARGEST: usize = 65_536;

type Tables = Core<Arc<Relay>, Peer>;

/// What is shared by all tasks of one server.
#[derive(Debug)]
pub(super) struct Shared {
    tables: Mutex<Tables>,
    unsigned: Mutex<RateTable>,
    signed: Mutex<RateTable>,
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
    /// Something new may be due.
    pub(super) wake: Notify,
    tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// What a connection that asked for it becomes (RFC 6062, section 5.4).
pub(super) struct Join {
    pub(super) reply: Vec<u8>,
    pub(super) over: CancellationToken,
    pub(super) peer: Peer,
    pub(super) id: u32,
}

/// The way back to a client.
#[derive(Clone, Debug)]
pub(super) enum Outlet {
    Datagrams(Arc<UdpSocket>),
    Stream(Queue),
}

impl Outlet {
    /// Tells the client, if there is room: what there is none for is lost, as on any link.
    pub(super) fn say(&self, shared: &Shared, client: Client, bytes: &[u8]) {
        let is_taken = match self {
            Self::Datagrams(socket) => socket.try_send_to(bytes, client.remote).is_ok(),
            Self::Stream(queue) => queue.push(bytes),
        };
        if !is_taken {
            count(&shared.tally.unsent);
        }
    }
}

impl Shared {
    pub(super) fn new(config: TurnServerConfig, relays: Vec<IpAddr>) -> Result<Arc<Self>, TurnServerError> {
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy).map_err(|error| TurnServerError::Entropy(error.into()))?;
        let mut dice = Seed::new(entropy);
        let now = Instant::now();
        let quota = Quota {
            per_user: config.most_per_user,
            most: config.most_allocations,
            user_rate: config.user_rate,
            total_rate: config.total_rate,
        };
        let Rate { per_second, burst } = config.rate;
        let signed = Rate { per_second: per_second.saturating_mul(10), burst: burst.saturating_mul(10) };
        let tally = Arc::new(Tally::default());
        let unsigned = Mutex::new(RateTable::new(config.rate, &mut dice, now));
        let signed = Mutex::new(RateTable::new(signed, &mut dice, now));
        let nonces = Nonces::new(dice.array(), config.nonce_lifetime);
        let users = Users::new(config.secret, config.users);
        let policy = Policy { allow: config.allow_peers, deny: config.deny_peers, relays: relays.clone() };
        let terms = Terms { lifetime: config.lifetime, most_lifetime: config.most_lifetime };
        let tables = Core {
            gate: Gate::new(config.realm, users, nonces),
            policy,
            ledger: Ledger::new(quota, now),
            terms,
            dice,
            tally: Arc::clone(&tally),
            sessions: Default::default(),
            relayed: Default::default(),
            owners: Default::default(),
        };
        Ok(Arc::new(Self {
            tables: Mutex::new(tables),
            unsigned,
            signed,
            tally,
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

    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.seats.emptied().await;
        let mut tables = self.lock();
        let clients: Vec<Client> = tables.sessions.keys().copied().collect();
        clients.into_iter().for_each(|client| tables.handle_gone(client, Instant::now()));
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

    fn admit(&self, limit: &Mutex<RateTable>, client: Client) -> bool {
        let source = Source::of(client.remote.ip());
        let is_in = limit.lock().unwrap_or_else(PoisonError::into_inner).take(source, Instant::now());
        if !is_in {
            count(&self.tally.limited);
        }
        is_in
    }

    /// Data on a channel.
    pub(super) fn channel(&self, client: Client, number: u16, data: &[u8]) {
        let way = self.lock().handle_channel(client, number, data.len(), Instant::now());
        match way {
            Some((relay, peer)) => relay.send(self, data, peer),
            None => trace!(client = %client.remote, number, "nothing goes out on this channel"),
        }
    }

    /// A STUN message. Returns what becomes of its connection, if that changes.
    ///
    /// # Errors
    /// When it is not one: on a stream nothing sensible can follow.
    pub(super) fn message(
        self: &Arc<Self>,
        client: Client,
        bytes: &[u8],
        outlet: &Outlet,
    ) -> Result<Option<Join>, WireError> {
        let header = Header::decode(bytes)?;
        match (header.class, header.method) {
            (Class::Request, Method::BINDING) => self.binding(client, bytes, outlet),
            (Class::Request, _) => return self.request(client, &header, bytes, outlet),
            (Class::Indication, Method::SEND) => {
                let parsed = Parsed::decode(bytes, client.transport)?;
                let way = self.lock().handle_send(client, &parsed, Instant::now());
                if let Some((relay, peer, data)) = way {
                    relay.send(self, &data, peer);
                }
            }
            _ => count(&self.tally.garbage),
        }
        Ok(None)
    }

    fn binding(&self, client: Client, bytes: &[u8], outlet: &Outlet) {
        if !self.admit(&self.unsigned, client) {
            return;
        }
        let responder = Responder::new(client.server);
        match responder.respond(bytes, client.remote, client.server, client.transport) {
            Ok(reply) => {
                count(&self.tally.bindings);
                outlet.say(self, client, &reply.bytes);
            }
            Err(silence) => {
                trace!(%silence, "no STUN answer");
                count(&self.tally.garbage);
            }
        }
    }

    fn request(
        self: &Arc<Self>,
        client: Client,
        header: &Header,
        bytes: &[u8],
        outlet: &Outlet,
    ) -> Result<Option<Join>, WireError> {
        let parsed = match Parsed::decode(bytes, client.transport) {
            Ok(parsed) => Some(parsed),
            Err(WireError::Malformed { .. }) => None,
            Err(error) => return Err(error),
        };
        let is_signed = parsed.as_ref().is_some_and(|parsed| parsed.algorithm().is_some());
        if !self.admit(if is_signed { &self.signed } else { &self.unsigned }, client) {
            return Ok(None);
        }
        let unix = unix_time().as_secs();
        let reaction = match parsed {
            Some(parsed) => {
                let at = At { now: Instant::now(), unix };
                let mut binder = Binder { shared: self, client, outlet };
                self.lock().handle_request(client, &parsed, at, &mut binder)
            }
            None => {
                let (method, transaction) = (header.method, header.transaction);
                let question = Question { method, transaction, fingerprint: false };
                self.lock().refuse_unsigned(Refusal::BAD_REQUEST, question, client, unix)
            }
        };
        match reaction {
            Reaction::Silence => {}
            Reaction::Reply(bytes) => outlet.say(self, client, &bytes),
            Reaction::Join { reply, relay, stream, id } => {
                return Ok(Some(Join { reply, over: relay.over.clone(), peer: stream, id }));
            }
            Reaction::Dial { relay, peer, id } => {
                let (shared, outlet, from) = (Arc::clone(self), outlet.clone(), relay.address());
                self.spawn_until(&relay.over, async move {
                    let dialled = Relay::dial(&shared, from, peer).await;
                    trace!(%peer, ?dialled, "TURN dialled a peer");
                    let reply = shared.lock().handle_dialled(id, dialled.ok(), Instant::now());
                    if let Some(bytes) = reply {
                        shared.wake.notify_one();
                        outlet.say(&shared, client, &bytes);
                    }
                });
            }
        }
        Ok(None)
    }
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
                let client = Client { transport: Transport::Udp, server, remote };
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

fn datagram(shared: &Arc<Shared>, client: Client, bytes: &[u8], outlet: &Outlet) {
    let is_sense = match Frame::first(bytes) {
        Ok(Frame::Channel { number, length }) => {
            shared.channel(client, number, &bytes[CHANNEL_HEADER..CHANNEL_HEADER + length]);
            true
        }
        Ok(Frame::Message(whole)) => whole == bytes.len() && shared.message(client, bytes, outlet).is_ok(),
        _ => false,
    };
    if !is_sense {
        count(&shared.tally.garbage);
    }
}

/// Ends what has had its time, for ever.
pub(super) async fn sweep(shared: Arc<Shared>) {
    loop {
        let next = shared.lock().sweep(Instant::now());
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

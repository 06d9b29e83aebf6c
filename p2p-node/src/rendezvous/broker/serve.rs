//! The sockets and timers around [`MqttServer`].

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use p2p_core::rate::Source;
use p2p_core::signal::mqtt_server::{
    Act, ClientNumber, Config, Event, MqttServer, MqttServerCounters, Reading,
};
use p2p_core::{Machine, Output, Seed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout};

use super::{Options, Tally};
use crate::rendezvous::accept::{ConnectionAddrs, ConnectionFate, Serve};
use crate::rendezvous::seats::{Rank, Seat, Seats};
use crate::rendezvous::tally::count;

/// What all tasks of one broker share.
#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
    seats: Arc<Seats>,
    stall: Duration,
    /// The rank of a client that has connected.
    rank: Rank,
    /// Something is due earlier than before.
    wake: Notify,
    pub(super) tally: Tally,
}

#[derive(Debug)]
struct State {
    server: MqttServer,
    lines: HashMap<ClientNumber, Arc<ClientLine>>,
    due: Option<Instant>,
}

/// What the task of a connection is told.
#[derive(Debug, Default)]
struct ClientLine {
    /// There is something to write.
    write: Notify,
    /// Something was written.
    written: Notify,
    is_connected: AtomicBool,
    is_over: AtomicBool,
}

impl ClientLine {
    fn hang_up(&self) {
        self.is_over.store(true, Ordering::Release);
        self.write.notify_one();
    }
}

impl Hub {
    pub(super) fn new(options: &Options, seed: Seed) -> Arc<Self> {
        let mut config = Config::default();
        config.login = options.login.clone();
        config.publishes = options.publishes;
        config.source_publishes = options.source_publishes;
        config.keep_alive = options.keep_alive;
        let server = MqttServer::new(config, seed, Instant::now());
        Arc::new(Self {
            state: Mutex::new(State { server, lines: HashMap::new(), due: None }),
            seats: Seats::new(options.max_clients, options.most_per_source),
            stall: options.stall,
            rank: if options.login.is_some() { Rank::Proven } else { Rank::Heard },
            wake: Notify::new(),
            tally: Tally::default(),
        })
    }

    pub(super) fn counters(&self) -> MqttServerCounters {
        self.turn(|server, _| server.counters())
    }

    /// Ends all sessions and waits until every connection is over.
    pub(super) async fn close(&self) {
        self.turn(MqttServer::close);
        self.seats.emptied().await;
    }

    /// Ends those who are silent, for ever.
    pub(super) async fn watch(self: Arc<Self>) {
        loop {
            let due = async {
                match self.due() {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.turn(MqttServer::handle_timeout),
                () = self.wake.notified() => {}
            }
        }
    }

    /// Does something with the server and carries out what it says.
    fn turn<T>(&self, what: impl FnOnce(&mut MqttServer, Instant) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { server, lines, due } = &mut *state;
        let done = what(server, Instant::now());
        let next = loop {
            match server.poll_output() {
                Output::Act(Act::Write(client)) => {
                    lines.get(&client).inspect(|line| line.write.notify_one());
                }
                Output::Act(Act::HangUp(client)) => {
                    lines.get(&client).inspect(|line| line.hang_up());
                }
                Output::Event(Event::Connected(client)) => {
                    lines.get(&client).inspect(|line| line.is_connected.store(true, Ordering::Release));
                }
                Output::Wait(deadline) => break deadline.map(|deadline| deadline.at),
            }
        };
        let is_earlier = next.is_some_and(|next| due.is_none_or(|due| next < due));
        *due = next;
        drop(state);
        if is_earlier {
            self.wake.notify_one();
        }
        done
    }

    fn due(&self) -> Option<Instant> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).due
    }

    fn accept(self: &Arc<Self>, source: Source) -> ClientConnection {
        let line = Arc::<ClientLine>::default();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let client = state.server.handle_accepted(source, Instant::now());
        state.lines.insert(client, Arc::clone(&line));
        drop(state);
        ClientConnection { hub: Arc::clone(self), client, line }
    }
}

impl Serve for Arc<Hub> {
    const NAME: &'static str = "the broker";

    fn seats(&self) -> &Arc<Seats> {
        &self.seats
    }

    fn count(&self, fate: ConnectionFate) {
        count(match fate {
            ConnectionFate::Accepted => &self.tally.accepted,
            ConnectionFate::Crowded => &self.tally.crowded,
            ConnectionFate::Stalled => &self.tally.stalled,
        });
    }

    async fn serve<T>(self, stream: T, between: ConnectionAddrs, seat: &Seat) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let connection = self.accept(Source::of(between.remote.ip()));
        let (from, to) = split(stream);
        tokio::select! {
            read = connection.read(from, seat) => read,
            written = connection.write(to) => written,
        }
    }
}

/// One connection. Dropping it tells the server that it is gone.
struct ClientConnection {
    hub: Arc<Hub>,
    client: ClientNumber,
    line: Arc<ClientLine>,
}

impl ClientConnection {
    /// Reads what the client says, as fast as the server wants it, until the connection ends.
    async fn read<T: AsyncRead>(&self, mut from: ReadHalf<T>, seat: &Seat) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        let mut is_connected = false;
        loop {
            let reading = self.hub.turn(|server, now| server.handle_bytes(self.client, &mut buffer, now));
            if !is_connected && self.line.is_connected.load(Ordering::Acquire) {
                is_connected = true;
                seat.rise(self.hub.rank);
            }
            match reading {
                Reading::More => {
                    if buffer.is_empty() {
                        // A large packet shall not cost its memory for ever.
                        buffer = BytesMut::with_capacity(READ);
                    }
                    buffer.reserve(READ / 2);
                    if from.read_buf(&mut buffer).await? == 0 {
                        return Ok(());
                    }
                }
                Reading::Later(wait) => sleep(wait).await,
                Reading::Full => self.line.written.notified().await,
                Reading::Over => {
                    self.line.hang_up();
                    std::future::pending().await
                }
            }
        }
    }

    /// Writes what is for the client, until it is over or the client does not read.
    async fn write<T: AsyncWrite>(&self, mut to: WriteHalf<T>) -> io::Result<()> {
        let mut out = BytesMut::new();
        loop {
            let is_over = self.line.is_over.load(Ordering::Acquire);
            self.hub.turn(|server, _| server.take_outgoing(self.client, &mut out));
            if !out.is_empty() {
                let written = async {
                    to.write_all(&out).await?;
                    to.flush().await
                };
                timeout(self.hub.stall, written).await??;
                out = BytesMut::new();
                self.line.written.notify_one();
            } else if is_over {
                return timeout(self.hub.stall, to.shutdown()).await?;
            } else {
                self.line.write.notified().await;
            }
        }
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let mut state = self.hub.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lines.remove(&self.client);
        state.server.handle_gone(self.client, Instant::now());
    }
}

/// Bytes read at once.
const READ: usize = 2 * 1024;

//! A circuit, its sockets and its timer: what turns it, on whatever runtime it works.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_core::relay::End;
use p2p_core::relay::circuit::{Act, Circuit, CircuitFailure, Event, RelayKind, Transmit, Via};
use p2p_core::transport::TransportError;
use p2p_core::turn::Relaying;
use p2p_core::{Family, Machine, Output};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tracing::{debug, trace};

use super::link::Link;
use super::offers::OfferSender;
use super::sockets::{Came, CircuitSockets, RestedSockets};
use crate::drive::now;

/// Datagrams taken in before anything else is looked at.
const BATCH: usize = 64;
/// Batches before others of the runtime have their turn.
const ROUNDS: usize = 4;
/// A connection through a server is waited for so long, when its user has let go.
const LINGER: Duration = Duration::from_secs(5);
/// A peer that has everything says so; what is on its way to it may take long.
const FAREWELL: Duration = Duration::from_secs(60);
/// What the server still has for the peer is waited for so long, when the peer has said everything.
const SETTLE: Duration = Duration::from_secs(1);
/// What one receive can bring: a datagram of any size, or as much of a stream.
const ROOM: usize = 64 * 1024;
/// The largest datagram of a circuit, framed.
const DATAGRAM: usize = 1_216;

/// What still has to come before a connection whose user has let go may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// The peer's end.
    End,
    /// The peer has said everything, and will say once more that it has heard everything.
    Farewell,
}

impl Parting {
    /// How long that is waited for.
    pub(super) fn patience(self) -> Duration {
        match self {
            Self::End => LINGER,
            Self::Farewell => FAREWELL,
        }
    }
}

/// A connection that its user has let go.
struct Lingering {
    /// Until the last has come.
    link: Option<Link>,
    parting: Parting,
    /// When its server is not needed any more.
    until: Instant,
}

thread_local! {
    /// One for all circuits of a thread: an idle one needs none.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM].into_boxed_slice());
}

/// What the attempt is told.
pub(crate) enum Told {
    /// Datagrams come through.
    Up,
    /// The peer, or somebody from there, has dialled the address that our server lends us.
    Arrived { link: Link, early: Bytes, peer: SocketAddr },
    /// This address is to be dialled.
    Dial(SocketAddr),
    /// Nothing came through.
    Failed(CircuitFailure),
}

enum SocketStage {
    Work(CircuitSockets, Pin<Box<Sleep>>),
    Rest(RestedSockets),
    /// On the way from one to the other, or over.
    Gone,
}

/// Everything that one circuit is.
pub(super) struct Core {
    pub(super) circuit: Circuit,
    sockets: SocketStage,
    offers: OfferSender,
    told: mpsc::UnboundedSender<Told>,
    /// A datagram that found no room.
    stuck: Option<(Via, Bytes)>,
    /// Rises each time it is put to work: the driver of an earlier runtime may not have left yet.
    shift: u64,
    /// When the driver wakes by itself.
    armed: Option<Instant>,
    driver: Option<Waker>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Who waits until all is delivered.
    deliverer: Option<Waker>,
    lingering: Option<Lingering>,
    /// How the stream ended, and what was wrong with the server then.
    pub(super) ended: Option<(Option<TransportError>, Option<String>)>,
}

impl Core {
    pub(super) fn new(
        circuit: Circuit,
        sockets: CircuitSockets,
        offers: OfferSender,
        told: mpsc::UnboundedSender<Told>,
    ) -> Self {
        let sleep = Box::pin(tokio::time::sleep_until(tokio::time::Instant::now()));
        Self {
            circuit,
            sockets: SocketStage::Work(sockets, sleep),
            offers,
            told,
            stuck: None,
            shift: 0,
            armed: None,
            driver: None,
            reader: None,
            writer: None,
            deliverer: None,
            lingering: None,
            ended: None,
        }
    }

    /// Does what the circuit wants, without a driver: what would wait is left to that.
    pub(super) fn pump_aside(&mut self) {
        if let SocketStage::Rest(_) = self.sockets {
            return;
        }
        let deadline = self.pump(&mut Context::from_waker(Waker::noop()));
        let is_earlier = match (deadline, self.armed) {
            (Some(deadline), Some(armed)) => deadline < armed,
            (deadline, None) => deadline.is_some(),
            (None, Some(_)) => false,
        };
        let is_waiting = matches!(&self.sockets, SocketStage::Work(sockets, _) if sockets.has_unsent());
        if is_earlier || is_waiting || self.stuck.is_some() || self.circuit.is_over() {
            self.wake_driver();
        }
    }

    pub(super) fn wake_driver(&mut self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn wait_for_reading(&mut self, cx: &mut Context<'_>) {
        self.reader = Some(cx.waker().clone());
    }

    pub(super) fn wait_for_writing(&mut self, cx: &mut Context<'_>) {
        self.writer = Some(cx.waker().clone());
    }

    fn wake_users(&mut self) {
        let all = [self.reader.take(), self.writer.take(), self.deliverer.take()];
        all.into_iter().flatten().for_each(Waker::wake);
    }

    /// Waits until everything that was written is with the peer, and everything that the peer wrote has come, its end
    /// too: that may come after the last bytes, by a datagram of its own, and who lets go before cuts the peer off.
    pub(super) fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if let Some((Some(error), _)) = self.ended {
            return Poll::Ready(Err(error));
        }
        if self.ended.is_none() && !self.circuit.is_done() {
            self.deliverer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.circuit.close(now());
        self.pump_aside();
        Poll::Ready(Ok(()))
    }

    /// Which driver is the right one from now on.
    pub(super) fn shift(&self) -> u64 {
        self.shift
    }

    /// One turn on the runtime, by the driver of this shift. Ready when there is nothing left to drive here.
    pub(super) fn poll_drive(&mut self, shift: u64, cx: &mut Context<'_>) -> Poll<()> {
        if shift != self.shift {
            return Poll::Ready(());
        }
        if !matches!(self.sockets, SocketStage::Work(..)) {
            // At rest, or over. What is to be done at rest is done when it is put to work.
            return Poll::Ready(());
        }
        self.driver = Some(cx.waker().clone());
        for _ in 0..ROUNDS {
            let is_full = self.take_in(cx);
            if self.armed.is_some_and(|armed| armed <= now()) {
                self.circuit.handle_timeout(now());
            }
            self.armed = self.pump(cx);
            self.see_off(cx);
            if self.circuit.is_over() {
                self.sockets = SocketStage::Gone;
                self.offers.end();
                self.wake_users();
            }
            let SocketStage::Work(_, sleep) = &mut self.sockets else { return Poll::Ready(()) };
            let mut is_due = false;
            if let Some(armed) = self.armed {
                sleep.as_mut().reset(armed.into());
                is_due = sleep.as_mut().poll(cx).is_ready();
            }
            if !is_full && !is_due {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands in what has come. Whether there may be more.
    fn take_in(&mut self, cx: &mut Context<'_>) -> bool {
        let SocketStage::Work(sockets, _) = &mut self.sockets else { return false };
        BUFFER.with_borrow_mut(|buffer| {
            let at = now();
            for (way, kind) in sockets.poll_unsent(cx) {
                self.circuit.handle_closed(way, Some(kind), at);
            }
            for _ in 0..BATCH {
                let Poll::Ready(came) = sockets.poll_receive(cx, buffer) else {
                    self.circuit.settle(at);
                    return false;
                };
                match came {
                    Came::Opened(way) => self.circuit.handle_opened(way, at),
                    Came::Datagram(way, length) => self.circuit.handle_slice(way, &buffer[..length], at),
                    Came::Piece(way, length) => {
                        self.circuit.handle_data(way, Bytes::copy_from_slice(&buffer[..length]), at);
                    }
                    Came::Bare(from, length) => self.circuit.handle_bare(from, &buffer[..length], at),
                    Came::Closed(way, why) => self.circuit.handle_closed(way, why, at),
                }
            }
            self.circuit.settle(at);
            true
        })
    }

    /// Does all that the circuit wants, as far as there is room; answers when it wants to be woken.
    fn pump(&mut self, cx: &mut Context<'_>) -> Option<Instant> {
        loop {
            self.transmit(cx);
            match self.circuit.poll_control() {
                Output::Act(act) => self.perform(act, cx),
                Output::Event(event) => self.on_event(event),
                Output::Wait(deadline) => {
                    if self.circuit.is_done() || self.ended.is_some() {
                        self.deliverer.take().into_iter().for_each(Waker::wake);
                    }
                    return deadline.map(|deadline| deadline.at);
                }
            }
        }
    }

    fn transmit(&mut self, cx: &mut Context<'_>) {
        let SocketStage::Work(sockets, _) = &mut self.sockets else { return };
        let mut buffer = [0; DATAGRAM];
        loop {
            let (via, sent) = match self.stuck.take() {
                Some((via, bytes)) => {
                    let sent = sockets.poll_send(via, &bytes, cx);
                    if sent.is_pending() {
                        self.stuck = Some((via, bytes));
                        return;
                    }
                    (via, sent)
                }
                None => {
                    let Some(Transmit { via, length }) = self.circuit.poll_transmit(&mut buffer) else {
                        return;
                    };
                    let sent = sockets.poll_send(via, &buffer[..length], cx);
                    if sent.is_pending() {
                        self.stuck = Some((via, Bytes::copy_from_slice(&buffer[..length])));
                        return;
                    }
                    (via, sent)
                }
            };
            if let Poll::Ready(Err((way, kind))) = sent {
                trace!(?via, %kind, "a datagram was not sent");
                self.circuit.handle_closed(way, Some(kind), now());
            }
        }
    }

    fn perform(&mut self, act: Act, cx: &mut Context<'_>) {
        let SocketStage::Work(sockets, _) = &mut self.sockets else { return };
        let sent = match act {
            Act::Open { way, place } => {
                debug!(%place, "asking a TURN server");
                sockets.open(way, place);
                // Only the driver opens.
                self.driver.take().into_iter().for_each(Waker::wake);
                Ok(())
            }
            Act::Transmit { way, packet } => sockets.send(way, &packet.into_bytes(), cx),
            Act::Close { way } => {
                sockets.close(way);
                Ok(())
            }
            Act::Datagram { via: Via::Server(way), bytes } => sockets.send(way, &bytes, cx),
            Act::Datagram { via, bytes } => match sockets.poll_send(via, &bytes, cx) {
                Poll::Ready(sent) => sent,
                // It is lost, and said again.
                Poll::Pending => Ok(()),
            },
            Act::Signal(offer) => {
                self.offers.say(offer);
                Ok(())
            }
            Act::Dial(to) => {
                self.tell(Told::Dial(to));
                Ok(())
            }
        };
        if let Err((way, kind)) = sent {
            self.circuit.handle_closed(way, Some(kind), now());
        }
    }

    fn on_event(&mut self, event: Event) {
        debug!(?event, "relay");
        match event {
            Event::Up => self.tell(Told::Up),
            Event::Arrived { way, peer, early } => {
                if let SocketStage::Work(sockets, _) = &mut self.sockets
                    && let Some(link) = sockets.take(way)
                {
                    self.tell(Told::Arrived { link, early, peer });
                }
            }
            Event::Readable => self.reader.take().into_iter().for_each(Waker::wake),
            Event::Writable => self.writer.take().into_iter().for_each(Waker::wake),
            Event::Ended(error) => {
                self.ended = Some((error, self.circuit.trouble().map(str::to_owned)));
                self.wake_users();
            }
            Event::Failed(failure) => self.tell(Told::Failed(failure)),
            Event::Closed => {}
        }
    }

    /// An attempt that is over does not listen.
    fn tell(&mut self, told: Told) {
        let _ = self.told.send(told);
    }

    /// The owner keeps this.
    pub(super) fn keep(&mut self, kind: RelayKind) {
        self.circuit.keep(kind, now());
        self.pump_aside();
        self.wake_driver();
    }

    /// A connection whose user has let go: it ends before the allocation that it needs. See [`Parting`].
    pub(super) fn linger(&mut self, link: Link, parting: Parting) {
        let until = now() + parting.patience();
        self.lingering = Some(Lingering { link: Some(link), parting, until });
        self.wake_driver();
    }

    fn see_off(&mut self, cx: &mut Context<'_>) {
        let Some(Lingering { link, parting, until }) = &mut self.lingering else { return };
        let is_done = link
            .as_mut()
            .is_some_and(|link| BUFFER.with_borrow_mut(|buffer| hear_out(link, *parting, buffer, cx)));
        if is_done {
            (*link, *until) = (None, (now() + SETTLE).min(*until));
        }
        if *until <= now() {
            self.lingering = None;
            self.circuit.close(now());
            self.armed = self.pump(cx);
        } else {
            self.armed = Some(self.armed.map_or(*until, |armed| armed.min(*until)));
        }
    }

    /// The address that our server lends us for connections from there.
    pub(super) fn lent_for(&self, remote: SocketAddr) -> Option<SocketAddr> {
        self.circuit.relayed(Relaying::Tcp, Family::of(remote.ip()))
    }

    /// Our end of the stream, and the peer's.
    pub(super) fn ends(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let route = self.circuit.route().ok_or(io::ErrorKind::NotConnected)?;
        let local = match (route.from, &self.sockets) {
            (End::Relayed, _) => self.circuit.relayed(Relaying::Udp, Family::of(route.to.ip())),
            (End::Bare, SocketStage::Work(sockets, _)) => Some(sockets.local(route.to)?),
            (End::Bare, _) => None,
        };
        Ok((local.ok_or(io::ErrorKind::NotConnected)?, route.to))
    }

    /// Takes everything off its runtime.
    pub(super) fn rest(&mut self) {
        if let SocketStage::Work(sockets, _) = std::mem::replace(&mut self.sockets, SocketStage::Gone) {
            self.sockets = SocketStage::Rest(sockets.rest());
        }
        (self.armed, self.reader, self.writer, self.deliverer) = (None, None, None, None);
        self.wake_driver();
    }

    /// Puts everything to work on the current runtime. Whether it was at rest.
    pub(super) fn wake(&mut self) -> io::Result<bool> {
        let rested = match std::mem::replace(&mut self.sockets, SocketStage::Gone) {
            SocketStage::Rest(rested) => rested,
            other => {
                self.sockets = other;
                return Ok(false);
            }
        };
        let (sockets, lost) = rested.wake()?;
        let sleep = Box::pin(tokio::time::sleep_until(tokio::time::Instant::now()));
        self.sockets = SocketStage::Work(sockets, sleep);
        self.shift += 1;
        self.armed = Some(now());
        for way in lost {
            self.circuit.handle_closed(way, Some(io::ErrorKind::Interrupted), now());
        }
        Ok(true)
    }

    /// Nobody wants it any more. At rest one word to the server is all there can be.
    pub(super) fn end(&mut self, is_cut: bool) {
        if self.lingering.is_some() {
            return self.wake_driver();
        }
        match (&self.sockets, is_cut) {
            (SocketStage::Work(..), true) => self.circuit.close(now()),
            (SocketStage::Work(..), false) => self.circuit.release(now()),
            _ => self.circuit.close(now()),
        }
        if let SocketStage::Rest(rested) = &self.sockets {
            loop {
                match self.circuit.poll_control() {
                    Output::Act(Act::Transmit { way, packet }) => rested.send(way, &packet.into_bytes()),
                    Output::Act(Act::Datagram { via: Via::Server(way), bytes }) => rested.send(way, &bytes),
                    Output::Act(_) | Output::Event(_) => {}
                    Output::Wait(_) => break,
                }
            }
            self.sockets = SocketStage::Gone;
        }
        self.pump_aside();
        self.wake_driver();
    }
}

/// Whether the peer has said everything; nobody wants to know what.
fn hear_out(link: &mut Link, parting: Parting, buffer: &mut [u8], cx: &mut Context<'_>) -> bool {
    loop {
        match link.poll_recv(cx, buffer) {
            Poll::Ready(Ok(1..)) if parting != Parting::Farewell => {}
            Poll::Ready(_) => return true,
            Poll::Pending => return false,
        }
    }
}

//! One TCP connection (RFC 9293), run as Linux does it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Failure, TcpState, TcpTimers};
use crate::sim::packet::{Body, Flags, Header, IcmpKind, Packet, TcpFacts};

/// The payload bytes in one segment, which fits 1,500-byte links under IPv6 with options to spare.
const MSS: usize = 1_400;
/// The most bytes in flight, and the most that wait out of order.
const WINDOW: u32 = 64 * 1024;
/// The most bytes that wait to be sent or read.
pub(super) const BUFFER: usize = 256 * 1024;
const RTO_LEAST: Duration = Duration::from_millis(200);
const RTO_MOST: Duration = Duration::from_secs(120);

/// A change that a segment or a timer brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Established,
    Failed(Failure),
    Readable,
    PeerClosed,
}

/// The packets to send and the changes that a connection makes.
#[derive(Debug, Default)]
pub(super) struct Io {
    pub(super) packets: VecDeque<Packet>,
    pub(super) changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug)]
struct Retransmit {
    at: Instant,
    rto: Duration,
    count: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) state: TcpState,
    /// True when the peer dialled, and a listener answered.
    pub(super) is_passive: bool,
    /// True when both dialled, and the SYNs crossed.
    pub(super) is_crossed: bool,
    /// True when the program has closed its end, so nobody will read.
    pub(super) is_detached: bool,
    pub(super) ttl: u8,
    timers: TcpTimers,
    iss: u32,
    snd_una: u32,
    snd_nxt: u32,
    rcv_nxt: u32,
    /// The bytes from `snd_una` on: first those sent and not acknowledged, then those not sent.
    outgoing: VecDeque<u8>,
    fin_wanted: bool,
    fin_seen: bool,
    incoming: VecDeque<u8>,
    early: BTreeMap<u32, Bytes>,
    retransmit: Option<Retransmit>,
    /// The end of TIME_WAIT, or of FIN_WAIT_2 of a socket that nobody holds.
    ends_at: Option<Instant>,
    repeated_acks: u8,
    /// The smoothed round-trip time and its variation (RFC 6298).
    rtt: Option<(Duration, Duration)>,
    /// A sequence number whose acknowledgement measures the round trip, and the time it was sent.
    timed: Option<(u32, Instant)>,
}

/// Tells whether sequence number `a` is before `b`.
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Connection {
    fn new(local: SocketAddr, remote: SocketAddr, iss: u32, ttl: u8, timers: TcpTimers) -> Self {
        Self {
            local,
            remote,
            state: TcpState::SynSent,
            is_passive: false,
            is_crossed: false,
            is_detached: false,
            ttl,
            timers,
            iss,
            snd_una: iss,
            snd_nxt: iss.wrapping_add(1),
            rcv_nxt: 0,
            outgoing: VecDeque::new(),
            fin_wanted: false,
            fin_seen: false,
            incoming: VecDeque::new(),
            early: BTreeMap::new(),
            retransmit: None,
            ends_at: None,
            repeated_acks: 0,
            rtt: None,
            timed: None,
        }
    }

    /// Opens a connection by a SYN.
    pub(super) fn dial(
        ends: (SocketAddr, SocketAddr),
        iss: u32,
        ttl: u8,
        timers: TcpTimers,
        now: Instant,
        io: &mut Io,
    ) -> Self {
        let mut connection = Self::new(ends.0, ends.1, iss, ttl, timers);
        connection.start(now);
        connection.emit(Flags::SYN, iss, Bytes::new(), io);
        connection
    }

    /// Answers a SYN that came to a listener.
    pub(super) fn answer(
        ends: (SocketAddr, SocketAddr),
        syn: TcpFacts,
        iss: u32,
        ttl: u8,
        timers: TcpTimers,
        now: Instant,
        io: &mut Io,
    ) -> Self {
        let mut connection = Self::new(ends.0, ends.1, iss, ttl, timers);
        connection.state = TcpState::SynReceived;
        connection.is_passive = true;
        connection.rcv_nxt = syn.seq.wrapping_add(1);
        connection.start(now);
        connection.emit(Flags::SYN | Flags::ACK, iss, Bytes::new(), io);
        connection
    }

    fn start(&mut self, now: Instant) {
        self.timed = Some((self.snd_nxt, now));
        self.retransmit =
            Some(Retransmit { at: now + self.timers.initial_rto, rto: self.timers.initial_rto, count: 0 });
    }

    /// Returns the time at which [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let retransmit = self.retransmit.map(|timer| timer.at);
        [retransmit, self.ends_at].into_iter().flatten().min()
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == TcpState::Closed
    }

    fn emit(&self, flags: Flags, seq: u32, payload: Bytes, io: &mut Io) {
        let ack = if flags.has(Flags::ACK) { self.rcv_nxt } else { 0 };
        let mut header = Header::tcp(self.local, self.remote, flags, seq, ack);
        header.ttl = self.ttl;
        if let Body::Tcp(tcp) = &mut header.body {
            tcp.len = payload.len() as u16;
        }
        io.packets.push_back(Packet { header, payload });
    }

    fn acknowledge(&self, io: &mut Io) {
        self.emit(Flags::ACK, self.snd_nxt, Bytes::new(), io);
    }

    fn finish(&mut self, change: Option<Change>, io: &mut Io) {
        self.state = TcpState::Closed;
        self.retransmit = None;
        self.ends_at = None;
        io.changes.extend(change);
    }

    pub(super) fn handle_segment(&mut self, tcp: TcpFacts, payload: &Bytes, now: Instant, io: &mut Io) {
        match self.state {
            TcpState::SynSent => self.on_segment_in_syn_sent(tcp, now, io),
            TcpState::Closed => (),
            _ => self.on_segment(tcp, payload, now, io),
        }
    }

    fn on_segment_in_syn_sent(&mut self, tcp: TcpFacts, now: Instant, io: &mut Io) {
        let has_ack = tcp.flags.has(Flags::ACK);
        if has_ack && tcp.ack != self.snd_nxt {
            if !tcp.flags.has(Flags::RST) {
                self.emit(Flags::RST, tcp.ack, Bytes::new(), io);
            }
            return;
        }
        if tcp.flags.has(Flags::RST) {
            // A RST counts only with an acceptable ACK, so that a stranger cannot refuse for the peer.
            if has_ack {
                self.finish(Some(Change::Failed(Failure::Refused)), io);
            }
            return;
        }
        if !tcp.flags.has(Flags::SYN) {
            return;
        }
        self.rcv_nxt = tcp.seq.wrapping_add(1);
        if has_ack {
            self.establish(tcp.ack, now, io);
            self.acknowledge(io);
        } else {
            self.state = TcpState::SynReceived;
            self.is_crossed = true;
            self.emit(Flags::SYN | Flags::ACK, self.iss, Bytes::new(), io);
        }
    }

    fn establish(&mut self, ack: u32, now: Instant, io: &mut Io) {
        self.state = TcpState::Established;
        self.on_ack(ack, now);
        io.changes.push(Change::Established);
        self.transmit(now, io);
    }

    fn on_segment(&mut self, tcp: TcpFacts, payload: &Bytes, now: Instant, io: &mut Io) {
        let offset = tcp.seq.wrapping_sub(self.rcv_nxt);
        if tcp.flags.has(Flags::RST) {
            // RFC 5961: only the exact next number resets. A number in the window is answered with a challenge ACK.
            if offset == 0 {
                let change = (!self.is_unanswered()).then_some(Change::Failed(Failure::Reset));
                self.finish(change, io);
            } else if offset < WINDOW {
                self.acknowledge(io);
            }
            return;
        }
        if tcp.flags.has(Flags::SYN) && !self.is_their_syn_ack(tcp) {
            let repeated = self.state == TcpState::SynReceived
                && !tcp.flags.has(Flags::ACK)
                && tcp.seq.wrapping_add(1) == self.rcv_nxt;
            if repeated {
                self.emit(Flags::SYN | Flags::ACK, self.iss, Bytes::new(), io);
            } else {
                self.acknowledge(io);
            }
            return;
        }
        if !tcp.flags.has(Flags::ACK) {
            return;
        }
        if self.state == TcpState::SynReceived {
            if tcp.ack != self.snd_nxt {
                self.emit(Flags::RST, tcp.ack, Bytes::new(), io);
                return;
            }
            self.establish(tcp.ack, now, io);
        } else {
            self.on_ack_of_data(tcp, now, io);
        }
        if tcp.flags.has(Flags::SYN) {
            // Linux takes the SYN of a crossed SYN-ACK for a repetition, and acknowledges that at once.
            self.acknowledge(io);
        } else {
            self.on_data(tcp, payload, now, io);
        }
    }

    /// Tells whether this is a listener's connection that no program knows of yet.
    fn is_unanswered(&self) -> bool {
        self.is_passive && self.state == TcpState::SynReceived
    }

    /// Tells whether this is the SYN-ACK of a simultaneous open.
    fn is_their_syn_ack(&self, tcp: TcpFacts) -> bool {
        self.state == TcpState::SynReceived
            && tcp.flags.has(Flags::ACK)
            && tcp.seq.wrapping_add(1) == self.rcv_nxt
            && tcp.ack == self.snd_nxt
    }

    /// Takes an acknowledgement into account. Returns true when it is a new one.
    fn on_ack(&mut self, ack: u32, now: Instant) -> bool {
        if !before(self.snd_una, ack) || before(self.snd_nxt, ack) {
            return false;
        }
        let mut bytes = ack.wrapping_sub(self.snd_una) as usize;
        if self.snd_una == self.iss {
            bytes -= 1;
        }
        let data = bytes.min(self.outgoing.len());
        self.outgoing.drain(..data);
        self.snd_una = ack;
        self.repeated_acks = 0;
        if let Some((seq, sent)) = self.timed
            && !before(ack, seq)
        {
            self.timed = None;
            self.measure(now.saturating_duration_since(sent));
        }
        self.retransmit = (self.snd_una != self.snd_nxt).then(|| Retransmit {
            at: now + self.rto(),
            rto: self.rto(),
            count: 0,
        });
        true
    }

    /// Updates the smoothed round trip (RFC 6298, section 2).
    fn measure(&mut self, sample: Duration) {
        self.rtt = Some(match self.rtt {
            None => (sample, sample / 2),
            Some((smooth, variation)) => {
                let error = smooth.abs_diff(sample);
                ((smooth * 7 + sample) / 8, (variation * 3 + error) / 4)
            }
        });
    }

    fn rto(&self) -> Duration {
        match self.rtt {
            None => self.timers.initial_rto,
            Some((smooth, variation)) => (smooth + (variation * 4).max(RTO_LEAST)).min(RTO_MOST),
        }
    }

    fn on_ack_of_data(&mut self, tcp: TcpFacts, now: Instant, io: &mut Io) {
        let is_repeated = tcp.ack == self.snd_una && tcp.len == 0 && !tcp.flags.has(Flags::FIN);
        if self.on_ack(tcp.ack, now) {
            if self.is_fin_acknowledged() {
                match self.state {
                    TcpState::FinWait1 => {
                        self.state = TcpState::FinWait2;
                        self.ends_at = self.is_detached.then(|| now + self.timers.time_wait);
                    }
                    TcpState::Closing => self.wait(now),
                    TcpState::LastAck => self.finish(None, io),
                    _ => (),
                }
            }
            self.transmit(now, io);
        } else if is_repeated && self.snd_una != self.snd_nxt {
            self.repeated_acks = self.repeated_acks.saturating_add(1);
            if self.repeated_acks == 3 {
                self.timed = None;
                self.repeat_first(io);
            }
        }
    }

    fn is_fin_sent(&self) -> bool {
        !matches!(
            self.state,
            TcpState::SynSent | TcpState::SynReceived | TcpState::Established | TcpState::CloseWait
        )
    }

    fn is_fin_acknowledged(&self) -> bool {
        self.is_fin_sent() && self.snd_una == self.snd_nxt
    }

    fn wait(&mut self, now: Instant) {
        self.state = TcpState::TimeWait;
        self.retransmit = None;
        self.ends_at = Some(now + self.timers.time_wait);
    }

    fn on_data(&mut self, tcp: TcpFacts, payload: &Bytes, now: Instant, io: &mut Io) {
        let has_fin = tcp.flags.has(Flags::FIN);
        if payload.is_empty() && !has_fin || self.is_over() {
            return;
        }
        if self.is_detached && !payload.is_empty() && !before(tcp.seq, self.rcv_nxt) {
            self.emit(Flags::RST, self.snd_nxt, Bytes::new(), io);
            self.finish(None, io);
            return;
        }
        let before_len = self.incoming.len();
        self.accept_data(tcp.seq, payload);
        while let Some((seq, early)) = self.early.pop_first() {
            if before(self.rcv_nxt, seq) {
                self.early.insert(seq, early);
                break;
            }
            self.accept_data(seq, &early);
        }
        if self.incoming.len() > before_len {
            io.changes.push(Change::Readable);
        }
        let end = tcp.seq.wrapping_add(payload.len() as u32);
        if has_fin && end == self.rcv_nxt && !self.fin_seen {
            self.fin_seen = true;
            self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
            io.changes.push(Change::PeerClosed);
            match self.state {
                TcpState::Established => self.state = TcpState::CloseWait,
                TcpState::FinWait1 => self.state = TcpState::Closing,
                TcpState::FinWait2 => self.wait(now),
                _ => (),
            }
        }
        self.acknowledge(io);
    }

    fn accept_data(&mut self, seq: u32, payload: &Bytes) {
        if self.fin_seen {
            return;
        }
        if before(self.rcv_nxt, seq) {
            let fits = seq.wrapping_sub(self.rcv_nxt) < WINDOW && self.early.len() < 64;
            if fits && !payload.is_empty() {
                self.early.insert(seq, payload.clone());
            }
            return;
        }
        let known = self.rcv_nxt.wrapping_sub(seq) as usize;
        let Some(new) = payload.get(known..) else { return };
        let room = BUFFER.saturating_sub(self.incoming.len());
        let new = &new[..new.len().min(room)];
        self.incoming.extend(new);
        self.rcv_nxt = self.rcv_nxt.wrapping_add(new.len() as u32);
    }

    /// Sends what the window allows, and the FIN behind it.
    fn transmit(&mut self, now: Instant, io: &mut Io) {
        if !matches!(self.state, TcpState::Established | TcpState::CloseWait) {
            return;
        }
        loop {
            let in_flight = self.snd_nxt.wrapping_sub(self.snd_una);
            let unsent = self.outgoing.len().saturating_sub(in_flight as usize);
            let len = unsent.min(MSS).min(WINDOW.saturating_sub(in_flight) as usize);
            if len == 0 {
                break;
            }
            let payload = self.slice(in_flight as usize, len);
            let seq = self.snd_nxt;
            self.snd_nxt = seq.wrapping_add(len as u32);
            self.timed.get_or_insert((self.snd_nxt, now));
            self.emit(Flags::ACK | Flags::PSH, seq, payload, io);
        }
        let all_sent = self.snd_nxt.wrapping_sub(self.snd_una) as usize == self.outgoing.len();
        if self.fin_wanted && all_sent {
            self.emit(Flags::FIN | Flags::ACK, self.snd_nxt, Bytes::new(), io);
            self.snd_nxt = self.snd_nxt.wrapping_add(1);
            self.state = match self.state {
                TcpState::CloseWait => TcpState::LastAck,
                _ => TcpState::FinWait1,
            };
        }
        if self.snd_una != self.snd_nxt && self.retransmit.is_none() {
            let rto = self.rto();
            self.retransmit = Some(Retransmit { at: now + rto, rto, count: 0 });
        }
    }

    fn slice(&self, start: usize, len: usize) -> Bytes {
        self.outgoing.iter().skip(start).take(len).copied().collect()
    }

    /// Sends the first unacknowledged segment again.
    fn repeat_first(&mut self, io: &mut Io) {
        match self.state {
            TcpState::SynSent => self.emit(Flags::SYN, self.iss, Bytes::new(), io),
            TcpState::SynReceived => self.emit(Flags::SYN | Flags::ACK, self.iss, Bytes::new(), io),
            _ => {
                let fin = u32::from(self.is_fin_sent());
                let sent = self.snd_nxt.wrapping_sub(self.snd_una).saturating_sub(fin) as usize;
                let payload = self.slice(0, sent.min(MSS));
                let flags =
                    if payload.is_empty() { Flags::FIN | Flags::ACK } else { Flags::ACK | Flags::PSH };
                self.emit(flags, self.snd_una, payload, io);
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, io: &mut Io) {
        if self.ends_at.is_some_and(|at| at <= now) {
            self.finish(None, io);
            return;
        }
        let Some(mut timer) = self.retransmit.filter(|timer| timer.at <= now) else {
            return;
        };
        let linear = match self.state {
            TcpState::SynSent => self.timers.syn_linear_timeouts,
            _ => 0,
        };
        let most = match self.state {
            TcpState::SynSent => self.timers.syn_retries + linear,
            TcpState::SynReceived if self.is_passive => self.timers.syn_ack_retries,
            TcpState::SynReceived => self.timers.syn_retries,
            _ => self.timers.data_retries,
        };
        if timer.count >= most {
            let change = (!self.is_unanswered()).then_some(Change::Failed(Failure::TimedOut));
            self.finish(change, io);
            return;
        }
        timer.count += 1;
        if timer.count > linear {
            timer.rto = (timer.rto * 2).min(RTO_MOST);
        }
        timer.at = now + timer.rto;
        self.retransmit = Some(timer);
        // By Karn's algorithm a repeated segment measures nothing.
        self.timed = None;
        self.repeat_first(io);
    }

    /// Takes an ICMP error about a segment of ours. It ends a connection that is not established, and is ignored
    /// afterwards. RFC 1122 would have only hard errors end it, but Linux does not distinguish.
    pub(super) fn handle_icmp(&mut self, kind: IcmpKind, seq: u32, io: &mut Io) {
        let is_opening = matches!(self.state, TcpState::SynSent | TcpState::SynReceived) && !self.is_passive;
        if is_opening && seq == self.iss && kind != IcmpKind::TooBig {
            self.finish(Some(Change::Failed(Failure::Unreachable(kind))), io);
        }
    }

    /// Queues bytes, and returns the number that there was room for.
    pub(super) fn send(&mut self, bytes: &[u8], now: Instant, io: &mut Io) -> usize {
        let taken = &bytes[..bytes.len().min(self.room())];
        self.outgoing.extend(taken);
        self.transmit(now, io);
        taken.len()
    }

    /// Returns the number of bytes that `send` would take.
    pub(super) fn room(&self) -> usize {
        BUFFER.saturating_sub(self.outgoing.len())
    }

    pub(super) fn is_sendable(&self) -> bool {
        matches!(self.state, TcpState::Established | TcpState::CloseWait) && !self.fin_wanted
    }

    pub(super) fn read(&mut self) -> Bytes {
        Vec::from(std::mem::take(&mut self.incoming)).into()
    }

    pub(super) fn read_at_most(&mut self, most: usize) -> Bytes {
        self.incoming.drain(..most.min(self.incoming.len())).collect()
    }

    /// The peer has said that nothing follows, and everything was read.
    pub(super) fn is_ended(&self) -> bool {
        self.fin_seen && self.incoming.is_empty()
    }

    /// Ends our direction: no more data will be sent.
    pub(super) fn shut(&mut self, now: Instant, io: &mut Io) {
        match self.state {
            TcpState::SynSent => self.finish(None, io),
            TcpState::SynReceived | TcpState::Established | TcpState::CloseWait => {
                self.fin_wanted = true;
                self.transmit(now, io);
            }
            _ => (),
        }
    }

    /// Lets go of the socket for its program.
    pub(super) fn detach(&mut self, now: Instant, io: &mut Io) {
        self.is_detached = true;
        if !self.incoming.is_empty() {
            // On Linux, unread data turn the FIN into a RST.
            self.abort(io);
            return;
        }
        self.shut(now, io);
        if self.state == TcpState::FinWait2 {
            self.ends_at = Some(now + self.timers.time_wait);
        }
    }

    /// Ends the connection with a RST, if the other side knows of it.
    pub(super) fn abort(&mut self, io: &mut Io) {
        if !matches!(self.state, TcpState::SynSent | TcpState::TimeWait | TcpState::Closed) {
            self.emit(Flags::RST | Flags::ACK, self.snd_nxt, Bytes::new(), io);
        }
        self.finish(None, io);
    }

    /// Tells whether a SYN may begin a new connection on this 4-tuple in TIME_WAIT (RFC 6191, without timestamps).
    pub(super) fn gives_way_to(&self, syn: TcpFacts) -> bool {
        self.state == TcpState::TimeWait && syn.flags.is_syn() && before(self.rcv_nxt, syn.seq)
    }
}

//! An NTP server that is off by as much as a test wants it to be: what it answers, and a program that does so on a
//! simulated host.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::epoch;
use super::host::{Host, HostEvent};
use super::tcp::SocketError;
use super::udp::UdpSocket;
use super::world::{Context, Program};
use crate::UnixTime;
use crate::clock::ntp::packet::{CLIENT, HEADER, Leap, Packet, SERVER, Short, Timestamp};

/// Returns the true time of every world: 2027-01-15 08:00 UTC at [`epoch`].
pub fn true_time(now: Instant) -> UnixTime {
    UnixTime::from_secs(1_800_000_000).after(now.saturating_duration_since(epoch()))
}

/// The clock of an NTP server, and the fields of its answers.
#[derive(Clone, Debug)]
pub struct NtpServer {
    /// The time by which its clock is ahead of the true time, in microseconds.
    pub ahead: i64,
    /// The fields of its answers that the request does not decide. Default: stratum 2, a root delay of 1 ms, a root
    /// dispersion of 0.5 ms, a precision of a microsecond.
    pub says: Packet,
}

impl Default for NtpServer {
    fn default() -> Self {
        let says = Packet {
            stratum: 2,
            poll: 6,
            precision: -20,
            root_delay: Short((1 << 16) / 1_000),
            root_dispersion: Short((1 << 16) / 2_000),
            reference_id: [127, 0, 0, 1],
            ..Packet::request(0)
        };
        Self { ahead: 0, says }
    }
}

impl NtpServer {
    /// Returns a server whose clock is `ahead` microseconds ahead of the true time.
    pub fn ahead(ahead: i64) -> Self {
        Self { ahead, ..Self::default() }
    }

    /// Returns a server that answers with a kiss-o'-death.
    pub fn kissing(code: [u8; 4]) -> Self {
        let says =
            Packet { stratum: 0, reference_id: code, leap: Leap::Unsynchronised, ..Self::default().says };
        Self { ahead: 0, says }
    }

    /// Returns the answer to a datagram that came at `received` and is answered at `replied`, both true times. It is
    /// `None` when the datagram is no client's question.
    pub fn answer(&self, request: &[u8], received: UnixTime, replied: UnixTime) -> Option<[u8; HEADER]> {
        let request = Packet::decode(request).ok().filter(|request| request.mode == CLIENT)?;
        let shows = |time: UnixTime| UnixTime(time.0.saturating_add_signed(self.ahead));
        let answer = Packet {
            version: request.version,
            mode: SERVER,
            reference: Timestamp::new(shows(received)),
            origin: request.transmit,
            receive: Timestamp::new(shows(received)),
            transmit: Timestamp::new(shows(replied)),
            ..self.says
        };
        Some(answer.encode())
    }
}

/// An [`NtpServer`] on a simulated host.
#[derive(Debug)]
pub struct NtpProgram {
    socket: UdpSocket,
    /// What it answers. May be changed while it runs.
    pub server: NtpServer,
}

impl NtpProgram {
    /// Binds `address` on `host`, which must have it.
    ///
    /// # Errors
    /// When the address is not the host's, or in use.
    pub fn bind(host: &mut Host, address: SocketAddr, server: NtpServer) -> Result<Self, SocketError> {
        Ok(Self { socket: host.udp_bind(address)?, server })
    }
}

impl Program for NtpProgram {
    fn handle_event(&mut self, event: HostEvent, context: &mut Context<'_>) {
        let HostEvent::Datagram { from, payload, .. } = event else { return };
        let now = true_time(context.now);
        if let Some(answer) = self.server.answer(&payload, now, now) {
            // An answer that cannot be sent is a lost one: the client asks again.
            let _ = context.host.udp_send(self.socket, from, Bytes::copy_from_slice(&answer));
        }
    }
}

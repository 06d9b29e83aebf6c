//! An NTP server without a socket, whose clock is off by as much as a test wants.

use crate::UnixTime;
use crate::clock::ntp::packet::{CLIENT, HEADER, Leap, Packet, SERVER, Short, Timestamp};

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

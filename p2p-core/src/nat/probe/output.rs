//! The acts and events of a probe.

use std::net::{IpAddr, SocketAddr};

use crate::nat::report::NatReport;
use crate::stun::Transport;
use crate::{Local, Mapped};

/// An effect for the driver to perform. Sockets are named by their local address. They must be bound with
/// `SO_REUSEADDR`, and with `SO_REUSEPORT` where the system has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends a datagram from a UDP port, after binding it if it is not bound. Datagrams go out in the order of acts.
    SendUdp {
        /// The local port to send from.
        from: Local,
        /// The address to send to.
        to: SocketAddr,
        /// The bytes to send.
        bytes: Vec<u8>,
    },
    /// Closes a UDP port that is not needed any more.
    CloseUdp {
        /// The local port to close.
        from: Local,
    },
    /// Listens on a throw-away port, and drops connections that come in. A connection to a server will be dialled
    /// from it.
    Listen {
        /// The local port to listen on.
        at: Local,
    },
    /// Stops listening on a port.
    Unlisten {
        /// The local port.
        at: Local,
    },
    /// Dials a server. The outcome is told by [`Probe::handle_tcp_open`](super::Probe::handle_tcp_open) or
    /// [`Probe::handle_tcp_closed`](super::Probe::handle_tcp_closed). SYNs go out in the order of acts.
    OpenTcp {
        /// The local port to dial from.
        from: Local,
        /// The address to dial.
        to: SocketAddr,
    },
    /// Sends bytes on a connection.
    SendTcp {
        /// The local port of the connection.
        from: Local,
        /// The server of the connection.
        to: SocketAddr,
        /// The bytes to send.
        bytes: Vec<u8>,
    },
    /// Closes a connection, or stops dialling, at once by a RST (`SO_LINGER` of zero). Nothing of use is lost.
    CloseTcp {
        /// The local port of the connection.
        from: Local,
        /// The server of the connection.
        to: SocketAddr,
    },
    /// Asks a helper to dial an address of ours once. Its outcome is told by
    /// [`Probe::handle_syn_probe`](super::Probe::handle_syn_probe).
    AskSynProbe {
        /// The helper that is to dial.
        helper: IpAddr,
        /// The address to dial.
        target: Mapped,
    },
}

/// A fact that became known.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first address heard over a transport, which is enough to publish. It is the word of one server.
    External {
        /// The transport it was asked over.
        transport: Transport,
        /// The local port it was asked from.
        local: Local,
        /// The address that the server saw.
        mapped: Mapped,
    },
    /// A report of what is known once the questions about mapping and ports over TCP are answered, while others are
    /// still out. It says nothing yet of answers to SYNs, nor of what lasts.
    Early(Box<NatReport>),
    /// The report of the whole probe, which is its last event.
    Done(Box<NatReport>),
}

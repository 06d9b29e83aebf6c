//! What a probe wants done, and what it tells.

use std::net::{IpAddr, SocketAddr};

use crate::nat::report::NatReport;
use crate::stun::Transport;
use crate::{Local, Mapped};

/// What to do. Sockets are named by their local address; bind them with `SO_REUSEADDR`, and with
/// `SO_REUSEPORT` where the system has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Send a datagram from this port, binding it first if it is not. Datagrams go out in the order of acts.
    SendUdp {
        /// From where.
        from: Local,
        /// To whom.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// The port is not needed any more.
    CloseUdp {
        /// Which.
        from: Local,
    },
    /// Listen on a throw-away port, and drop what comes in. A connection to a server will be dialled from it.
    Listen {
        /// Where.
        at: Local,
    },
    /// Stop that.
    Unlisten {
        /// Where.
        at: Local,
    },
    /// Dial, and tell by [`Probe::handle_tcp_open`](super::Probe::handle_tcp_open) or [`Probe::handle_tcp_closed`](super::Probe::handle_tcp_closed). SYNs go out in the order
    /// of acts.
    OpenTcp {
        /// From where.
        from: Local,
        /// To whom.
        to: SocketAddr,
    },
    /// Send on the connection.
    SendTcp {
        /// From where.
        from: Local,
        /// To whom.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Close the connection, or stop dialling: at once, by a RST (`SO_LINGER` of zero), as nothing is lost.
    CloseTcp {
        /// From where.
        from: Local,
        /// To whom.
        to: SocketAddr,
    },
    /// Ask a helper to dial that address of ours once and to say what it got, by
    /// [`Probe::handle_syn_probe`](super::Probe::handle_syn_probe).
    AskSynProbe {
        /// Who is to dial.
        helper: IpAddr,
        /// What.
        target: Mapped,
    },
}

/// What is known now.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first address heard over this transport: enough to publish. One server's word.
    External {
        /// Over what.
        transport: Transport,
        /// The local port it was asked from.
        local: Local,
        /// What the server saw.
        mapped: Mapped,
    },
    /// All that came of it. The last word.
    Done(Box<NatReport>),
}

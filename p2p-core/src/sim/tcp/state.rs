//! The states of a TCP connection (RFC 9293, section 3.3.2).

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// Our SYN was sent.
    SynSent,
    /// Both SYNs are known, and ours is not acknowledged.
    SynReceived,
    /// The connection is open.
    Established,
    /// We have closed.
    FinWait1,
    /// We have closed, and the other side knows.
    FinWait2,
    /// The other side has closed.
    CloseWait,
    /// Both sides have closed at once.
    Closing,
    /// The other side closed first, and then we did.
    LastAck,
    /// The connection is over, but its 4-tuple must not be used again yet.
    TimeWait,
    /// The connection is over.
    Closed,
}

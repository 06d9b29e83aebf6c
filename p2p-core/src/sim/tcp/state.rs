//! The states of a TCP connection (RFC 9293, section 3.3.2).

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// Our SYN is out.
    SynSent,
    /// Both SYNs are known, ours is not acknowledged.
    SynReceived,
    /// Open.
    Established,
    /// We have closed.
    FinWait1,
    /// We have closed and the other side knows.
    FinWait2,
    /// The other side has closed.
    CloseWait,
    /// Both have closed at once.
    Closing,
    /// The other side closed first, then we.
    LastAck,
    /// Over, but the 4-tuple must not be used again yet.
    TimeWait,
    /// Over.
    Closed,
}

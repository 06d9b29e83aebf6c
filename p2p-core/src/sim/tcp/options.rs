//! The options of a socket and the timers of a kernel.

use std::time::Duration;

use crate::sim::packet::TTL;

/// The socket options that matter to punching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// The option `SO_REUSEADDR`.
    pub reuse_address: bool,
    /// The option `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// The value of `IP_TTL` or `IPV6_UNICAST_HOPS`, in hops.
    pub ttl: u8,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { reuse_address: false, reuse_port: false, ttl: TTL }
    }
}

impl TcpOptions {
    /// Returns `SO_REUSEADDR` and `SO_REUSEPORT`, which punching needs on all sockets of its port.
    pub fn shared() -> Self {
        Self { reuse_address: true, reuse_port: true, ..Self::default() }
    }
}

/// The kernel's times and counts. The default is that of Linux 6.5 and later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpTimers {
    /// The first retransmission timeout (RFC 6298: one second).
    pub initial_rto: Duration,
    /// The number of SYN timeouts before they double: `tcp_syn_linear_timeouts`.
    pub syn_linear_timeouts: u32,
    /// The number of SYN retransmissions with doubling timeouts: `tcp_syn_retries`.
    pub syn_retries: u32,
    /// The number of SYN-ACK retransmissions of a listener: `tcp_synack_retries`.
    pub syn_ack_retries: u32,
    /// The number of retransmissions of data: `tcp_retries2`.
    pub data_retries: u32,
    /// The length of TIME_WAIT, and of FIN_WAIT_2 when nobody holds the socket: `tcp_fin_timeout`.
    pub time_wait: Duration,
}

impl Default for TcpTimers {
    fn default() -> Self {
        Self {
            initial_rto: Duration::from_secs(1),
            syn_linear_timeouts: 4,
            syn_retries: 6,
            syn_ack_retries: 5,
            data_retries: 15,
            time_wait: Duration::from_secs(60),
        }
    }
}

impl TcpTimers {
    /// Returns the timers of Linux before 6.5 and of most other systems: SYN timeouts double from the start.
    pub fn exponential() -> Self {
        Self { syn_linear_timeouts: 0, ..Self::default() }
    }
}

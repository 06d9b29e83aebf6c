//! One port, over UDP and TCP.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};

use socket2::SockRef;
use tokio::net::{TcpListener, UdpSocket};

/// What a socket may hold while we are busy with another: 200 ms at 40 Mbit/s. The system may grant less.
const BUFFER: usize = 1024 * 1024;

/// A UDP and a TCP socket on one port. With port 0 the port is free for UDP; it may be taken for TCP.
pub(super) fn pair(address: SocketAddr) -> io::Result<(SocketAddr, UdpSocket, TcpListener)> {
    let (bound, udp) = datagrams(address)?;
    let tcp = StdTcpListener::bind(bound)?;
    tcp.set_nonblocking(true)?;
    Ok((bound, udp, TcpListener::from_std(tcp)?))
}

/// A UDP socket with room for a burst.
pub(super) fn datagrams(address: SocketAddr) -> io::Result<(SocketAddr, UdpSocket)> {
    let udp = StdUdpSocket::bind(address)?;
    udp.set_nonblocking(true)?;
    let socket = SockRef::from(&udp);
    // Less room is no reason not to serve.
    let _ = socket.set_recv_buffer_size(BUFFER).and_then(|()| socket.set_send_buffer_size(BUFFER));
    let bound = udp.local_addr()?;
    Ok((bound, UdpSocket::from_std(udp)?))
}

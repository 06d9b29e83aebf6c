//! Sockets to listen on: one port, over UDP and TCP.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that wait to be accepted. The system may grant less. With the 128 of the standard library, one of a crowd
/// loses its SYN and comes a second later.
const BACKLOG: i32 = 4_096;
/// What a socket may hold while we are busy with another: 200 ms at 40 Mbit/s. The system may grant less.
const BUFFER: usize = 1024 * 1024;

/// A UDP and a TCP socket on one port. With port 0 the port is free for UDP; it may be taken for TCP.
pub(super) fn pair(address: SocketAddr) -> io::Result<(SocketAddr, UdpSocket, TcpListener)> {
    let (bound, udp) = datagrams(address)?;
    let (_, tcp) = listener(bound)?;
    Ok((bound, udp, tcp))
}

/// A TCP socket that listens, with room for a crowd that comes at once.
pub(super) fn listener(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // As the standard library does: a port can be had again while connections of its last owner are closing.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    Ok((listener.local_addr()?, listener))
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

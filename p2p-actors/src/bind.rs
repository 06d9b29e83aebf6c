//! Sockets of one address: to listen, to dial from a given port, to send datagrams.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::num::NonZeroU32;

use futures_util::FutureExt;
use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

/// Connections the system may keep for us before we take them.
const BACKLOG: u32 = 1_024;

fn socket(local: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match local {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // On Windows the option means that anybody may steal the port; there a port in TIME_WAIT can be had anyway.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

/// Listens at `local`. Others cannot listen there at the same time, but [`dial`] can go out from its port.
///
/// # Errors
/// When the system refuses: the port is in use, or the address is not ours (any more).
pub(crate) fn listen(local: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(local)?;
    socket.bind(local)?;
    let listener = socket.listen(BACKLOG)?;
    // Set before, two programs could listen on one port and each would get half of the connections. Set now, it
    // lets our own outgoing sockets in and no other listener.
    #[cfg(unix)]
    SockRef::from(&listener).set_reuse_port(true)?;
    Ok(listener)
}

/// Dials `remote` from `local`, whose port may be that of a listener, or 0. With `device`, the index of an
/// interface, packets leave through it whatever the routing table says (Linux and Android only).
///
/// # Errors
/// When the connection cannot be made. Dialling oneself is one such case: a socket that dials its own address
/// connects to itself.
pub(crate) async fn dial(
    local: SocketAddr,
    remote: SocketAddr,
    device: Option<NonZeroU32>,
) -> io::Result<TcpStream> {
    dial_unheard(local, remote, device, None).await
}

/// As [`dial`]. With `ttl`, the first SYN dies after so many hops, and those that the system repeats do not.
///
/// # Errors
/// As [`dial`].
pub(crate) async fn dial_unheard(
    local: SocketAddr,
    remote: SocketAddr,
    device: Option<NonZeroU32>,
    ttl: Option<u8>,
) -> io::Result<TcpStream> {
    let to_self = || io::Error::new(io::ErrorKind::InvalidInput, "a socket cannot dial itself");
    if local == remote {
        return Err(to_self());
    }
    let socket = socket(local)?;
    #[cfg(unix)]
    SockRef::from(&socket).set_reuse_port(true)?;
    if let Some(device) = device {
        bind_device(&socket, local, device)?;
    }
    socket.bind(local)?;
    socket.set_nodelay(true)?;
    let unheard = ttl.map(|ttl| Unheard::new(&socket, local, ttl)).transpose()?;
    let mut connecting = Box::pin(socket.connect(with_scope(remote, local)));
    // The first step of it sends the SYN.
    let first = (&mut connecting).now_or_never();
    if let Some(unheard) = unheard {
        unheard.end()?;
    }
    let stream = match first {
        Some(connected) => connected,
        None => connecting.await,
    }?;
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(to_self());
    }
    Ok(stream)
}

/// A second handle to a socket whose packets die on the way, until the end of this.
struct Unheard {
    socket: Socket,
    is_v4: bool,
    usual: u32,
}

impl Unheard {
    fn new(socket: &TcpSocket, local: SocketAddr, ttl: u8) -> io::Result<Self> {
        let (socket, is_v4) = (SockRef::from(socket).try_clone()?, local.is_ipv4());
        let usual = if is_v4 { socket.ttl_v4()? } else { socket.unicast_hops_v6()? };
        let unheard = Self { socket, is_v4, usual };
        unheard.set(u32::from(ttl))?;
        Ok(unheard)
    }

    fn set(&self, hops: u32) -> io::Result<()> {
        if self.is_v4 { self.socket.set_ttl_v4(hops) } else { self.socket.set_unicast_hops_v6(hops) }
    }

    fn end(self) -> io::Result<()> {
        self.set(self.usual)
    }
}

/// A socket for datagrams at `local`.
///
/// # Errors
/// When the system refuses: the port is in use, or the address is not ours.
pub(crate) fn datagrams(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = StdUdpSocket::bind(local)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// A link-local address is reached in the zone we are in, unless it names another.
fn with_scope(mut remote: SocketAddr, local: SocketAddr) -> SocketAddr {
    if let (SocketAddr::V6(to), SocketAddr::V6(from)) = (&mut remote, local)
        && to.scope_id() == 0
        && to.ip().is_unicast_link_local()
    {
        to.set_scope_id(from.scope_id());
    }
    remote
}

#[cfg(any(target_os = "android", target_os = "linux"))]
fn bind_device(socket: &TcpSocket, local: SocketAddr, device: NonZeroU32) -> io::Result<()> {
    let socket = SockRef::from(socket);
    match local {
        SocketAddr::V4(_) => socket.bind_device_by_index_v4(Some(device)),
        SocketAddr::V6(_) => socket.bind_device_by_index_v6(Some(device)),
    }
}

#[cfg(not(any(target_os = "android", target_os = "linux")))]
fn bind_device(_: &TcpSocket, _: SocketAddr, _: NonZeroU32) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system binds to addresses only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn from_the_port_of_a_listener_one_can_dial_but_not_listen() {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let server = listen(any(ip)).unwrap();
            let there = server.local_addr().unwrap();
            let listener = listen(any(ip)).unwrap();
            let here = listener.local_addr().unwrap();
            assert_eq!(listen(here).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            let stream = dial(here, there, None).await.unwrap();
            assert_eq!(stream.local_addr().unwrap(), here);
            let (accepted, from) = server.accept().await.unwrap();
            assert_eq!(from, here);
            // The listener still takes what comes in.
            let incoming = dial(any(ip), here, None).await.unwrap();
            let (_, from) = listener.accept().await.unwrap();
            assert_eq!(from, incoming.local_addr().unwrap());
            drop((stream, accepted));
        }
    }

    #[tokio::test]
    async fn an_unheard_dial_is_heard_in_the_end() {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let server = listen(any(ip)).unwrap();
            let there = server.local_addr().unwrap();
            let usual = dial(any(ip), there, None).await.unwrap();
            let stream = dial_unheard(any(ip), there, None, Some(1)).await.unwrap();
            let hops = |stream: &TcpStream| {
                let socket = SockRef::from(stream);
                if there.is_ipv4() { socket.ttl_v4() } else { socket.unicast_hops_v6() }.unwrap()
            };
            assert_eq!(hops(&stream), hops(&usual));
        }
    }

    #[tokio::test]
    async fn nobody_dials_himself() {
        let closed = {
            let gone = listen(any("127.0.0.1:0")).unwrap();
            gone.local_addr().unwrap()
        };
        let error = dial(closed, closed, None).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_device_is_respected() {
        let server = listen(any("127.0.0.1:0")).unwrap();
        let there = server.local_addr().unwrap();
        let nics = crate::interface::nics().unwrap();
        let loopback = nics.iter().find(|nic| nic.is_loopback).unwrap();
        let index = NonZeroU32::new(loopback.index);
        assert!(dial(any("127.0.0.1:0"), there, index).await.is_ok());
        let nowhere = NonZeroU32::new(0x7fff_fff0);
        assert!(dial(any("127.0.0.1:0"), there, nowhere).await.is_err());
    }

    #[tokio::test]
    async fn a_taken_datagram_port_is_refused() {
        let first = datagrams(any("127.0.0.1:0")).unwrap();
        let error = datagrams(first.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn link_local_peers_are_in_our_zone() {
        let local = any("[fe80::1%3]:5");
        assert_eq!(with_scope(any("[fe80::2]:9"), local), any("[fe80::2%3]:9"));
        assert_eq!(with_scope(any("[fe80::2%4]:9"), local), any("[fe80::2%4]:9"));
        assert_eq!(with_scope(any("[2001:db8::2]:9"), local), any("[2001:db8::2]:9"));
    }
}

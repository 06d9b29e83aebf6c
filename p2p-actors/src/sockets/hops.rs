//! Dials whose SYN is to die on the way: who says that it did?
//!
//! It takes a system that tells who sent an ICMP error about a TCP socket: Linux does, by `IP_RECVERR`.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpSocket;
use tracing::trace;

use super::work::{Done, Fate};

/// Dials with this time to live; silence takes as long as it is waited for.
pub(super) async fn dial(syn: u8, from: SocketAddr, to: SocketAddr, ttl: u8) -> Done {
    let fate = fate(from, to, ttl).await;
    trace!(syn, %from, ?fate, "a SYN that was to die");
    Done::HopDialled { syn, from, fate }
}

async fn fate(from: SocketAddr, to: SocketAddr, ttl: u8) -> Fate {
    let made = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let prepared = made.and_then(|socket| {
        let hops = u32::from(ttl);
        let options = SockRef::from(&socket);
        if to.is_ipv4() { options.set_ttl_v4(hops) } else { options.set_unicast_hops_v6(hops) }?;
        socket.bind(from)?;
        Ok((icmp::Errors::of(&socket, to)?, socket))
    });
    let Ok((errors, socket)) = prepared else { return Fate::Unsent };
    match socket.connect(to).await {
        Ok(stream) => {
            // Nothing is to be said: a RST costs the least.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            Fate::Answered
        }
        Err(_) => errors.expired().map_or(Fate::Answered, Fate::Expired),
    }
}

#[cfg(target_os = "linux")]
mod icmp {
    use std::io::{self, IoSliceMut};
    use std::net::{IpAddr, SocketAddr};
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};

    use nix::cmsg_space;
    use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
    use tokio::net::TcpSocket;

    /// Time exceeded in transit (RFC 792; RFC 4443, section 3.3), as `sock_extended_err` tells it: its origin
    /// (`SO_EE_ORIGIN_ICMP`, `SO_EE_ORIGIN_ICMP6`), type and code.
    const EXPIRED: [(u8, u8, u8); 2] = [(2, 11, 0), (3, 3, 0)];

    /// A second handle to a socket, for its queue of errors.
    pub(super) struct Errors(OwnedFd);

    impl Errors {
        pub(super) fn of(socket: &TcpSocket, to: SocketAddr) -> io::Result<Self> {
            if to.is_ipv4() {
                setsockopt(socket, Ipv4RecvErr, &true)?;
            } else {
                setsockopt(socket, Ipv6RecvErr, &true)?;
            }
            Ok(Self(socket.as_fd().try_clone_to_owned()?))
        }

        /// Who says that the time to live of the SYN was used up, if somebody does.
        pub(super) fn expired(&self) -> Option<IpAddr> {
            let mut packet = [0; 128];
            let mut parts = [IoSliceMut::new(&mut packet)];
            // An error (16 bytes) and an address (28 at most), each with its header.
            let mut control = cmsg_space!([u8; 16], [u8; 28], [u8; 64]);
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let fd = self.0.as_raw_fd();
            let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags).ok()?;
            let is_expired = |error: (u8, u8, u8)| EXPIRED.contains(&error);
            message.cmsgs().ok()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4RecvErr(error, Some(from))
                    if is_expired((error.ee_origin, error.ee_type, error.ee_code)) =>
                {
                    Some(IpAddr::from(from.sin_addr.s_addr.to_ne_bytes()))
                }
                ControlMessageOwned::Ipv6RecvErr(error, Some(from))
                    if is_expired((error.ee_origin, error.ee_type, error.ee_code)) =>
                {
                    Some(IpAddr::from(from.sin6_addr.s6_addr))
                }
                _ => None,
            })
        }
    }
}

/// Elsewhere nobody says who, and the node is told so at its start: no such dial is asked for.
#[cfg(not(target_os = "linux"))]
mod icmp {
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    use tokio::net::TcpSocket;

    pub(super) struct Errors;

    impl Errors {
        pub(super) fn of(_: &TcpSocket, _: SocketAddr) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn expired(&self) -> Option<IpAddr> {
            None
        }
    }
}

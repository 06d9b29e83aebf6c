//! From a broker's name to a connection.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use p2p_core::Family;
use p2p_core::signal::link::LinkError;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tracing::debug;

use super::{Bind, Endpoint, tls};
use crate::descriptors::is_exhausted;

/// The next address is tried this long after the last one (RFC 8305, section 5: "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses tried at most: a name server must not make us dial the world.
const MOST_ADDRESSES: usize = 8;

/// A connection, plain or within TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Resolves, connects and, if so, secures. The machine bounds the time of all of it; dropping the future stops it,
/// except a name lookup, which the system finishes on a thread of the runtime's pool.
pub(super) async fn dial(endpoint: &Endpoint) -> Result<Box<dyn Stream>, LinkError> {
    let addresses = resolve(&endpoint.host, endpoint.port, &endpoint.bind).await?;
    debug!(?addresses, host = endpoint.host, "dialling the broker");
    let stream = connect(addresses, &endpoint.bind).await?;
    match &endpoint.tls {
        None => Ok(Box::new(stream)),
        Some(tls) => Ok(Box::new(tls::secure(stream, &endpoint.host, tls).await?)),
    }
}

async fn resolve(host: &str, port: u16, bind: &Bind) -> Result<VecDeque<SocketAddr>, LinkError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let all = match bare.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => lookup_host((bare, port))
            .await
            .map_err(|error| LinkError::Unresolved(format!("{bare}: {error}")))?
            .collect(),
    };
    let family = bind.address.map(Family::of);
    let fits = |address: &SocketAddr| family.is_none_or(|family| family == Family::of(address.ip()));
    let fitting = interleave(all.into_iter().filter(fits));
    if fitting.is_empty() {
        let wanted = family.map_or(String::new(), |family| format!(" of {family}"));
        return Err(LinkError::Unresolved(format!("{bare} has no address{wanted}")));
    }
    Ok(fitting)
}

/// Families by turns, in the order given otherwise (RFC 8305, section 4).
fn interleave(all: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut all: VecDeque<_> = all.collect();
    let mut order: VecDeque<SocketAddr> = VecDeque::new();
    while order.len() < MOST_ADDRESSES {
        let last = order.back().map(|address| Family::of(address.ip()));
        let other = all.iter().position(|next| Some(Family::of(next.ip())) != last);
        let Some(next) = all.remove(other.unwrap_or(0)) else {
            break;
        };
        order.push_back(next);
    }
    order
}

/// The first connection that comes up, one attempt more after each failure or [`STAGGER`].
async fn connect(mut addresses: VecDeque<SocketAddr>, bind: &Bind) -> Result<TcpStream, LinkError> {
    let mut attempts = FuturesUnordered::new();
    let mut failure = LinkError::Unreachable("no address".into());
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.push(attempt(address, bind));
        }
        loop {
            tokio::select! {
                done = attempts.next() => match done {
                    Some(Ok(stream)) => return Ok(stream),
                    Some(Err(error)) => {
                        debug!(%error, "no connection");
                        failure = error;
                        if !addresses.is_empty() {
                            break;
                        }
                    }
                    None => return Err(failure),
                },
                () = tokio::time::sleep(STAGGER), if !addresses.is_empty() => break,
            }
        }
    }
}

async fn attempt(address: SocketAddr, bind: &Bind) -> Result<TcpStream, LinkError> {
    let here = |error: io::Error| match is_exhausted(&error) {
        true => LinkError::Exhausted(error.to_string()),
        false => LinkError::Configuration(format!("binding to {bind:?}: {error}")),
    };
    let there = |error: io::Error| match is_exhausted(&error) {
        true => LinkError::Exhausted(error.to_string()),
        false => LinkError::Unreachable(format!("{address}: {error}")),
    };
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .map_err(there)?;
    // Without it a QoS 1 exchange of small packets takes 40 ms: Nagle waits for a delayed acknowledgement.
    socket.set_nodelay(true).map_err(there)?;
    if let Some(device) = &bind.device {
        bind_device(&socket, device).map_err(here)?;
    }
    if let Some(local) = bind.address {
        socket.bind(SocketAddr::new(local, 0)).map_err(here)?;
    }
    socket.connect(address).await.map_err(there)
}

#[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
fn bind_device(socket: &TcpSocket, device: &str) -> io::Result<()> {
    SockRef::from(socket).bind_device(Some(device.as_bytes()))
}

#[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
fn bind_device(_: &TcpSocket, _: &str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system binds to addresses only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_their_number_is_bounded() {
        let v4 = |n: u8| SocketAddr::from(([192, 0, 2, n], 1883));
        let v6 = |n: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 1883));
        let order = interleave([v6(1), v6(2), v6(3), v4(1), v4(2)].into_iter());
        assert_eq!(order, [v6(1), v4(1), v6(2), v4(2), v6(3)]);
        assert_eq!(interleave((0..100).map(v4)).len(), MOST_ADDRESSES);
    }

    #[tokio::test]
    async fn a_name_that_cannot_fit_is_told() {
        let bind = Bind { address: Some("::1".parse().unwrap()), device: None };
        let error = resolve("127.0.0.1", 1, &bind).await.unwrap_err();
        assert_eq!(error, LinkError::Unresolved("127.0.0.1 has no address of IPv6".into()));
        assert_eq!(resolve("[::1]", 7, &bind).await.unwrap(), ["[::1]:7".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_bind_to_what_is_not_ours_is_our_fault() {
        for bind in [
            Bind { address: Some("192.0.2.1".parse().unwrap()), device: None },
            Bind { address: None, device: Some("no-such-device".into()) },
        ] {
            let nowhere = [SocketAddr::from(([127, 0, 0, 1], 9))];
            let error = connect(nowhere.into(), &bind).await.unwrap_err();
            assert!(matches!(error, LinkError::Configuration(_)), "{error}");
        }
    }

    #[tokio::test]
    async fn the_second_address_is_taken_when_the_first_refuses_and_small_packets_go_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            gone.local_addr().unwrap()
        };
        let stream = connect([closed, open].into(), &Bind::default()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        assert!(stream.nodelay().unwrap());
        let refused = connect([closed].into(), &Bind::default()).await.unwrap_err();
        assert!(matches!(refused, LinkError::Unreachable(_)), "{refused}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn it_leaves_from_where_it_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bind = Bind { address: Some("127.0.0.5".parse().unwrap()), device: Some("lo".into()) };
        let stream = connect([listener.local_addr().unwrap()].into(), &bind).await.unwrap();
        let (_, from) = listener.accept().await.unwrap();
        assert_eq!(from.ip(), bind.address.unwrap());
        assert_eq!(SockRef::from(&stream).device().unwrap().unwrap(), b"lo");
    }
}

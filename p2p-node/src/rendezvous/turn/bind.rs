//! The sockets to listen on, and what must hold before: all of it, or an error.

use std::io;
use std::net::{IpAddr, SocketAddr};

use p2p_core::Family;
use p2p_core::turn::server::MOST_REALM;
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

use super::{TurnServerConfig, TurnServerError};
use crate::rendezvous::pair::{listener, pair};

/// How often to look for a port that is free over UDP and TCP.
const TRIES: usize = 32;

/// What was bound.
pub(super) struct Bound {
    pub(super) pairs: Vec<(SocketAddr, UdpSocket, TcpListener)>,
    pub(super) tls: Vec<(SocketAddr, TcpListener)>,
    pub(super) acceptor: Option<TlsAcceptor>,
    /// Where to relay from.
    pub(super) relays: Vec<IpAddr>,
}

pub(super) fn bind(config: &TurnServerConfig) -> Result<Bound, TurnServerError> {
    let tls_listen = config.tls.as_ref().map_or(&[][..], |tls| &tls.listen);
    if config.listen.is_empty() && tls_listen.is_empty() {
        return Err(TurnServerError::Nowhere);
    }
    if config.secret.is_none() && config.users.is_empty() {
        return Err(TurnServerError::Nobody);
    }
    if !(1..=MOST_REALM).contains(&config.realm.len()) {
        return Err(TurnServerError::Realm);
    }
    if config.ports.is_empty() || *config.ports.start() == 0 {
        return Err(TurnServerError::Ports(config.ports.clone()));
    }
    let listen = || config.listen.iter().chain(tls_listen).map(SocketAddr::ip);
    let relays = match config.relay.is_empty() {
        true => guess(listen())?,
        false => config.relay.clone(),
    };
    check(&relays)?;
    let acceptor = config.tls.as_ref().map(|tls| tls.acceptor()).transpose().map_err(TurnServerError::Tls)?;
    let refused = |address| move |reason| TurnServerError::Listen { address, reason };
    let pairs =
        config.listen.iter().map(|&at| try_pair(at).map_err(refused(at))).collect::<Result<_, _>>()?;
    let tls = tls_listen.iter().map(|&at| listener(at).map_err(refused(at))).collect::<Result<_, _>>()?;
    Ok(Bound { pairs, tls, acceptor, relays })
}

/// The first specific address of each family.
fn guess(listen: impl Iterator<Item = IpAddr> + Clone) -> Result<Vec<IpAddr>, TurnServerError> {
    let specific = |family| {
        listen
            .clone()
            .find(move |ip| Family::of(*ip) == family && !ip.is_unspecified())
            .map(|ip| ip.to_canonical())
    };
    let relays: Vec<_> = [Family::V4, Family::V6].into_iter().filter_map(specific).collect();
    match listen.clone().next() {
        Some(first) if relays.is_empty() => Err(TurnServerError::Relay(first)),
        _ => Ok(relays),
    }
}

fn check(relays: &[IpAddr]) -> Result<(), TurnServerError> {
    for (index, &address) in relays.iter().enumerate() {
        let no = |reason: String| TurnServerError::RelayAddress { address, reason };
        if relays[..index].iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            return Err(no("it is the second of its family".to_owned()));
        }
        if address.is_unspecified() || address.is_multicast() {
            return Err(no("peers could not send to it".to_owned()));
        }
        std::net::UdpSocket::bind((address, 0)).map_err(|error| no(error.to_string()))?;
    }
    Ok(())
}

fn try_pair(address: SocketAddr) -> io::Result<(SocketAddr, UdpSocket, TcpListener)> {
    for _ in 1..TRIES {
        match pair(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && address.port() == 0 => {}
            done => return done,
        }
    }
    pair(address)
}

//! The sockets: all of them, or an error.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use p2p_core::stun::Responder;
use tokio::net::{TcpListener, UdpSocket};

use super::{StunServerConfig, StunServerError};
use crate::rendezvous::pair::pair;

/// How often to look for a port that is free everywhere.
const TRIES: usize = 32;

/// One listening address with its alternate, if it has one: the unit that answers as one server.
#[derive(Debug)]
pub(super) struct StunSite {
    pub(super) responder: Responder,
    /// In the order of [`Responder::sockets`]: the first is the primary.
    pub(super) udp: Vec<(SocketAddr, UdpSocket)>,
}

impl StunSite {
    pub(super) fn primary(&self) -> SocketAddr {
        self.udp[0].0
    }

    pub(super) fn alternate(&self) -> Option<SocketAddr> {
        self.udp.get(3).map(|(address, _)| *address)
    }
}

type Listeners = Vec<(Responder, TcpListener)>;

pub(super) fn bind(config: &StunServerConfig) -> Result<(Vec<Arc<StunSite>>, Listeners), StunServerError> {
    if config.listen.is_empty() {
        return Err(StunServerError::Nowhere);
    }
    let mut alternates = config.alternate.clone();
    let (mut sites, mut listeners) = (Vec::new(), Vec::new());
    for listen in &config.listen {
        let found = alternates.iter().position(|alternate| alternate.is_ipv4() == listen.is_ipv4());
        let alternate = found.map(|index| alternates.remove(index));
        if let Some(alternate) = alternate {
            let is_other = alternate.ip() != listen.ip()
                && (alternate.port() != listen.port() || alternate.port() == 0)
                && !alternate.ip().is_unspecified()
                && !listen.ip().is_unspecified();
            if !is_other {
                return Err(StunServerError::Alternate(alternate));
            }
        }
        let (site, tcp) = bind_site(*listen, alternate)?;
        listeners.extend(tcp.into_iter().map(|listener| (site.responder, listener)));
        sites.push(Arc::new(site));
    }
    match alternates.first() {
        Some(lost) => Err(StunServerError::Alternate(*lost)),
        None => Ok((sites, listeners)),
    }
}

/// With port 0 a free port has to be free for UDP and TCP, and on both IP addresses; so it may take several tries.
fn bind_site(
    listen: SocketAddr,
    alternate: Option<SocketAddr>,
) -> Result<(StunSite, Vec<TcpListener>), StunServerError> {
    let is_fixed = listen.port() != 0 && alternate.is_none_or(|alternate| alternate.port() != 0);
    for _ in 1..TRIES {
        match try_site(listen, alternate) {
            Err(StunServerError::Listen { reason, .. })
                if reason.kind() == io::ErrorKind::AddrInUse && !is_fixed => {}
            done => return done,
        }
    }
    try_site(listen, alternate)
}

fn try_site(
    listen: SocketAddr,
    alternate: Option<SocketAddr>,
) -> Result<(StunSite, Vec<TcpListener>), StunServerError> {
    let pair = |address| pair(address).map_err(|reason| StunServerError::Listen { address, reason });
    let first = pair(listen)?;
    let primary = first.0;
    let mut pairs = vec![first];
    let mut responder = Responder::new(primary).with_dialling();
    if let Some(alternate) = alternate {
        let beside = pair(SocketAddr::new(primary.ip(), alternate.port()))?;
        let alternate = SocketAddr::new(alternate.ip(), beside.0.port());
        responder = responder.with_alternate(alternate);
        pairs.push(beside);
        pairs.push(pair(SocketAddr::new(alternate.ip(), primary.port()))?);
        pairs.push(pair(alternate)?);
    }
    let (udp, tcp): (Vec<_>, Vec<_>) =
        pairs.into_iter().map(|(address, udp, tcp)| ((address, udp), tcp)).unzip();
    Ok((StunSite { responder, udp }, tcp))
}

//! A STUN server over UDP and TCP.
//!
//! What it says is decided by [`p2p_core::stun::Responder`]; here are its sockets and its bounds. For RFC 5780
//! it can be given a second address, and then listens on the four combinations of two addresses and two ports.
//!
//! Over TCP it dials back when asked to, which shows how a client's NAT answers a SYN that it did not ask for. It
//! dials the very address the asking connection comes from and no other, a few times per source.

mod bind;
mod dial;
mod serve;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use p2p_core::rate::Rate;
use tokio::task::JoinSet;

use super::accept;
use super::tally::counters;
use bind::StunSite;

/// Where to listen, and how much to bear.
#[derive(Clone, Debug)]
pub struct StunServerConfig {
    /// Addresses to listen on, each over UDP and TCP. Port 0 takes a free one, the same for both.
    pub listen: Vec<SocketAddr>,
    /// A second address for those of the same family in `listen` (RFC 5780): its IP address and port must
    /// differ from theirs. Port 0 takes a free one. Default none.
    pub alternate: Vec<SocketAddr>,
    /// Requests answered to one port of one address. More are dropped over UDP, and wait over TCP. Default 20 a second
    /// and 60 at once: what an eager client with a full enumeration needs.
    pub rate: Rate,
    /// Bytes a second answered over UDP to one source: one IPv4 address, or the /64 of an IPv6 address. Four seconds'
    /// worth may go at once. Default 125,000, some 900 answers: 1 Mbit/s is all that anybody can have sent to a victim,
    /// and a home of twenty nodes that probe their networks at the same time, with 40 packets each, needs a quarter of
    /// what may go at once. `None`: no limit.
    pub source_bytes: Option<u32>,
    /// TCP connections at once, over all addresses. When there are as many, a silent one makes room. Default 1,024.
    pub most_connections: usize,
    /// TCP connections at once from one source. Default 256.
    pub most_per_source: usize,
    /// Clients that are dialled back at once, from two addresses each. Default 64.
    pub most_dials: usize,
    /// How long a TCP connection may say nothing; clients keep one open to keep their mapping. Default 10 min.
    pub idle: Duration,
    /// How long a message may take to arrive once begun, and an answer to be taken. Default 5 s.
    pub stall: Duration,
}

impl StunServerConfig {
    /// Listens on these addresses, with the default bounds.
    pub fn new(listen: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            listen: listen.into_iter().collect(),
            alternate: Vec::new(),
            rate: Rate { per_second: 20, burst: 60 },
            source_bytes: Some(125_000),
            most_connections: 1_024,
            most_per_source: 256,
            most_dials: 64,
            idle: Duration::from_secs(600),
            stall: Duration::from_secs(5),
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StunServerError {
    /// The system refused an address: in use, not ours, or a port that needs privileges.
    #[error("the STUN server cannot listen on {address}: {reason}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// What the system says.
        reason: io::Error,
    },
    /// An alternate that is no alternate: same IP address or port, unspecified, or nothing of its family in
    /// `listen`.
    #[error(
        "{0} cannot be an alternate STUN address: both its IP address and its port must differ from one specific address listened on"
    )]
    Alternate(SocketAddr),
    /// Nothing to listen on.
    #[error("a STUN server needs an address to listen on")]
    Nowhere,
}

counters! {
    /// What the server has done so far.
    StunServerCounters, Tally;
    /// Requests answered.
    answered,
    /// Requests answered with an error response.
    refused,
    /// What was not STUN or not a request, dropped.
    garbage,
    /// Requests dropped because their source asked too often.
    limited,
    /// Answers the system would not send.
    unsent,
    /// TCP connections accepted.
    connections,
    /// TCP connections closed because there are too many, from one source or from all: at once, or to make room.
    crowded,
    /// TCP connections closed for idling, stalling, or saying nothing at all for 5 s.
    stalled,
    /// Wishes to be dialled back; those beyond the bounds are answered without a dial.
    dialled,
}

/// A running STUN server. Dropping it stops it.
#[derive(Debug)]
pub struct StunServer {
    tasks: JoinSet<()>,
    sites: Vec<Arc<StunSite>>,
    bounds: Arc<serve::Bounds>,
    tally: Arc<Tally>,
}

impl StunServer {
    /// Binds all sockets, then serves in tasks of the calling runtime.
    ///
    /// # Errors
    /// When an address cannot be had; then nothing is left running.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(config: StunServerConfig) -> Result<Self, StunServerError> {
        let (sites, listeners) = bind::bind(&config)?;
        let tally = Arc::new(Tally::default());
        let bounds = Arc::new(serve::Bounds::new(&config));
        let mut tasks = JoinSet::new();
        for site in &sites {
            for index in 0..site.udp.len() {
                tasks.spawn(serve::datagrams(
                    Arc::clone(site),
                    index,
                    Arc::clone(&bounds),
                    Arc::clone(&tally),
                ));
            }
        }
        for (responder, listener) in listeners {
            let streams =
                serve::Streams { responder, bounds: Arc::clone(&bounds), tally: Arc::clone(&tally) };
            tasks.spawn(accept::connections(streams, listener, None));
        }
        Ok(Self { tasks, sites, bounds, tally })
    }

    /// The addresses of [`StunServerConfig::listen`], in order, with the ports that were taken. Each is served
    /// over UDP and TCP.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sites.iter().map(|site| site.primary()).collect()
    }

    /// The addresses of [`StunServerConfig::alternate`], in the order of those they belong to.
    pub fn alternate_addrs(&self) -> Vec<SocketAddr> {
        self.sites.iter().filter_map(|site| site.alternate()).collect()
    }

    /// What it has done so far.
    pub fn counters(&self) -> StunServerCounters {
        self.tally.read()
    }

    /// Stops, and waits until every socket is closed.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
        self.bounds.emptied().await;
    }
}

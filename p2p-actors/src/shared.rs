//! What all actors of one node know.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use p2p_core::attempt::{AttemptId, Path, Role, Way};
use p2p_core::candidate::{HostView, path_to};
use p2p_core::clock::ntp::Measured;
use p2p_core::nat::NatFacts;
use p2p_core::peer::{Identity, PeerId};
use p2p_core::proof::{Cipher, Counterpart, Proof, ProofConfig};
use p2p_core::punch::{Limits, NetworkView, View};
use p2p_core::relay::circuit::Connections;
use p2p_core::{Clock, Family, Seed, UnixTime};
use tokio::sync::Semaphore;

use crate::counters::Tallies;
use crate::drive::now;
use crate::established::{ConnectionInfo, Established};
use crate::prove::Proving;
use crate::purse::Purse;
use crate::relay::Ears;
use crate::turn::TurnServer;

/// Peers our user has called that are remembered.
const MOST_REMEMBERED: usize = 1_024;

/// Facts and sources shared by the actors of one node, on their one thread.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    /// Replaced when the system's clock was set, or stood still.
    pub(crate) clock: Cell<Clock>,
    /// How far the true time is ahead of that clock, if NTP servers were asked and most of them agree.
    pub(crate) ntp: Cell<Option<Measured>>,
    pub(crate) seed: RefCell<Seed>,
    /// Where we are: changes when the network does.
    pub(crate) place: RefCell<HostView>,
    /// Whether we listen on any of our addresses.
    pub(crate) listens: Cell<bool>,
    /// What is in front of each of our addresses.
    pub(crate) outlooks: RefCell<BTreeMap<IpAddr, Outlook>>,
    /// Peers that our user has called, the last ones.
    pub(crate) called: RefCell<VecDeque<PeerId>>,
    /// What one punch may do for our sake.
    pub(crate) punch: Limits,
    /// What all of them may do together.
    pub(crate) purse: Rc<Purse>,
    /// Seats for connections that come to punched ports, until they are proven.
    pub(crate) punched: Arc<Semaphore>,
    /// Whether we wish bare connections when we are called.
    pub(crate) plain: bool,
    pub(crate) cipher: Cipher,
    pub(crate) proof_within: Duration,
    /// Connections we make because others asked, each one dial or one proof.
    pub(crate) dials_for_peers: Arc<Semaphore>,
    /// Strangers for whom our TURN servers are asked at a time.
    pub(crate) relays: Arc<Semaphore>,
    /// The TURN servers of the configuration.
    pub(crate) turn: Rc<[TurnServer]>,
    pub(crate) relay_connections: Connections,
    pub(crate) families: BTreeSet<Family>,
    /// Circuits of attempts and of connections, whose peers may have something to say to them.
    pub(crate) ears: RefCell<Ears>,
    pub(crate) closing: Cell<bool>,
    pub(crate) tallies: Arc<Tallies>,
}

impl Shared {
    pub(crate) fn fork(&self, label: &str) -> Seed {
        self.seed.borrow_mut().fork(label)
    }

    pub(crate) fn attempt_id(&self) -> AttemptId {
        AttemptId(self.seed.borrow_mut().array())
    }

    /// Our user named this peer.
    pub(crate) fn remember(&self, peer: PeerId) {
        let mut called = self.called.borrow_mut();
        called.retain(|known| *known != peer);
        if called.len() == MOST_REMEMBERED {
            called.pop_front();
        }
        called.push_back(peer);
    }

    /// Whether our user has named this peer, not too many peers ago.
    pub(crate) fn remembers(&self, peer: &PeerId) -> bool {
        self.called.borrow().contains(peer)
    }

    /// What is in front of this address of ours.
    pub(crate) fn outlook(&self, address: IpAddr) -> Outlook {
        self.outlooks.borrow().get(&address).cloned().unwrap_or_default()
    }

    /// Lends a view of all that is known at this moment.
    pub(crate) fn with_view<T>(&self, read: impl FnOnce(&View<'_>) -> T) -> T {
        let network = |outlook: &Outlook| NetworkView {
            facts: outlook.facts,
            can_observe: !outlook.servers.is_empty(),
            silent_hop: outlook.silent_hop,
        };
        let outlooks = self.outlooks.borrow();
        let networks = outlooks.iter().map(|(address, outlook)| (*address, network(outlook))).collect();
        read(&View {
            host: &self.place.borrow(),
            networks: &networks,
            listens: self.listens.get(),
            clock: self.clock.get(),
            served: self.ntp.get().map(|measured| measured.offset(now())),
            limits: self.punch,
        })
    }

    /// A proof for a connection that we dialled, or on which it is we who speak first.
    pub(crate) fn proof_dialled(&self, peer: PeerId, attempt: AttemptId, role: Role, plain: bool) -> Proof {
        self.proof(Counterpart::Dialled { peer, attempt, role, plain })
    }

    /// A proof for a connection that came to us.
    pub(crate) fn proof_arrived(&self) -> Proof {
        self.proof(Counterpart::Unknown)
    }

    fn proof(&self, counterpart: Counterpart) -> Proof {
        let config = ProofConfig {
            identity: self.identity.clone(),
            counterpart,
            cipher: self.cipher,
            within: self.proof_within,
        };
        Proof::new(config, self.fork("proof"), now())
    }

    /// Makes a kept connection ready to leave. `None` when it died in the last moment.
    pub(crate) fn established(&self, kept: Proving, draft: Draft) -> Option<Established> {
        let Proving { stream, proof } = kept;
        let session = proof.into_session()?;
        let (local, remote) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        let info = ConnectionInfo {
            way: draft.way,
            path: draft.path.unwrap_or_else(|| path_to(&self.place.borrow(), None, remote.ip())),
            role: session.claim.role,
            local,
            remote,
            took: now().saturating_duration_since(draft.began),
            report: None,
        };
        Some(Established { carrier: stream.into_carrier().ok()?, session, info })
    }
}

/// What is in front of one address of ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outlook {
    /// Its NAT, over TCP.
    pub(crate) facts: NatFacts,
    /// The STUN servers to ask from there, those first that answered before.
    pub(crate) servers: Vec<SocketAddr>,
    /// The time to live at which a SYN passes that NAT and dies in silence.
    pub(crate) silent_hop: Option<u8>,
}

/// What is known of a connection before it is asked.
pub(crate) struct Draft {
    pub(crate) way: Way,
    pub(crate) path: Option<Path>,
    pub(crate) began: Instant,
}

/// What time it is, by the system's clock.
pub(crate) fn system_clock() -> Clock {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Clock::new(now(), UnixTime::default().after(unix))
}

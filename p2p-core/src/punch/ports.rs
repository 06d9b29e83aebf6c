//! The local ports of a punch, from round to round.

use std::collections::BTreeSet;

use super::api::SocketAct;
use super::endpoint::Endpoint;
use super::gather::{Basis, Gather, GatherConfig, Want};
use super::syn_sender::with_port;
use crate::Local;
use crate::nat::forecast::PortForecast;

/// The ports that a punch has open, and those of the round that is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundPorts {
    /// Ports that are listened on.
    pub(super) listening: BTreeSet<u16>,
    /// Ports that a server was asked about.
    observed: BTreeSet<u16>,
    /// The local ports by number, in this round.
    pub(super) locals: Vec<u16>,
    /// How often ports were chosen anew for a round, because news came before the peer was told of them.
    pub(super) begun_anew: u8,
    /// What they were chosen by.
    basis: Option<Basis>,
    /// This end as the peer was told of it.
    settled: Option<Endpoint>,
}

impl RoundPorts {
    /// Tells whether others would be chosen by now.
    pub(super) fn are_outdated(&self, config: &GatherConfig) -> bool {
        self.basis.is_some_and(|basis| basis != Basis::new(config))
    }

    /// Tells whether others may be chosen for the same round, and counts it.
    pub(super) fn may_begin_anew(&mut self) -> bool {
        let may = self.begun_anew < MOST_ANEW;
        self.begun_anew += u8::from(may);
        may
    }

    /// Chooses no ports of the round before for the next one: they did not lead to the peer.
    pub(super) fn forget(&mut self) {
        self.settled = None;
    }

    /// Begins a round with this configuration. Returns this end as the peer was told of it before, where nothing speaks
    /// against its ports: they serve all destinations, and were chosen by the same facts.
    pub(super) fn begin(&mut self, config: &GatherConfig) -> Option<Endpoint> {
        let is_outdated = self.are_outdated(config);
        self.basis = Some(Basis::new(config));
        let serves_all = |ours: &Endpoint| matches!(ours.ports, PortForecast::Fixed(_));
        self.settled = self.settled.take().filter(|ours| !is_outdated && serves_all(ours));
        let ours = self.settled.clone()?;
        Some(Endpoint { low_ttl: false, sockets: config.sockets.max(1), ..ours })
    }

    /// Returns what is to be done for ports that are being gathered.
    pub(super) fn take_wants(&mut self, gather: &mut Gather, local: Local) -> Vec<SocketAct> {
        let at = |port| Local(with_port(local.0, port));
        let mut acts = Vec::new();
        for want in std::mem::take(&mut gather.wants) {
            acts.push(match want {
                Want::Listen(port) => {
                    self.listening.insert(port);
                    SocketAct::Listen(at(port))
                }
                Want::Observe(port) => {
                    self.observed.insert(port);
                    SocketAct::Observe(at(port))
                }
            });
        }
        acts
    }

    /// Takes the ports that the peer is told of, and the local ones behind their numbers.
    pub(super) fn settle(&mut self, ours: &Endpoint, locals: Vec<u16>) {
        self.settled = Some(ours.clone());
        self.locals = locals;
    }

    /// Closes all. The connections to servers go last: the mapping of the connection that is kept may hang on them.
    pub(super) fn close(&mut self, local: Local) -> Vec<SocketAct> {
        let at = |port| Local(with_port(local.0, port));
        let listening = std::mem::take(&mut self.listening).into_iter();
        let observed = std::mem::take(&mut self.observed).into_iter();
        listening
            .map(|port| SocketAct::Unlisten(at(port)))
            .chain(observed.map(|port| SocketAct::Forget(at(port))))
            .collect()
    }
}

/// Ports are chosen anew so often in one punch, because news came before the peer was told of them.
const MOST_ANEW: u8 = 4;

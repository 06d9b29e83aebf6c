//! One address that is listened on, and what STUN servers say of its port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::super::nic::NicAddress;
use super::view::{PortOutcome, PortView};
use crate::node::io::{SocketAct, StunLink};
use crate::stun::query::{self, Act};
use crate::stun::{Query, QueryConfig, Server, Transport};
use crate::{Deadline, Local, Machine, Output, Seed};

/// A listener, or one that is being opened.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: NicAddress,
    /// The address it was asked to stand at.
    pub(super) asked: SocketAddr,
    /// The address bound, once it stands.
    pub(super) local: Option<SocketAddr>,
    seed: Seed,
    query: Query,
    /// When the SYN left to each server that is connected.
    since: BTreeMap<SocketAddr, Instant>,
    /// Each server's last word, in the order they first spoke: the first word counts.
    pub(super) heard: Vec<(SocketAddr, PortOutcome)>,
}

impl Listener {
    pub(super) fn new(address: NicAddress, asked: SocketAddr, mut seed: Seed, now: Instant) -> Self {
        let query = query(&mut seed, now);
        let (since, heard) = (BTreeMap::new(), Vec::new());
        Self { address, asked, local: None, seed, query, since, heard }
    }

    /// Asks one more server over TCP. One that is known already changes nothing.
    pub(super) fn ask(&mut self, server: SocketAddr, now: Instant) {
        let server = Server { address: server, transport: Transport::Tcp };
        if let Err(error) = self.query.handle_server(server, now) {
            tracing::debug!(%error, "a STUN server is left out");
        }
    }

    /// Asks again over the connections there are.
    pub(super) fn ask_again(&mut self, now: Instant) {
        self.query.handle_again(now);
    }

    /// Closes every connection and begins anew without servers: the network is another.
    pub(super) fn restart(&mut self, now: Instant) -> Vec<SocketAct> {
        let acts = self.close(now);
        self.query = query(&mut self.seed, now);
        acts
    }

    pub(super) fn close(&mut self, now: Instant) -> Vec<SocketAct> {
        self.query.close(now);
        self.since.clear();
        self.drain(now).0
    }

    pub(super) fn handle_up(&mut self, server: SocketAddr, since: Instant, now: Instant) {
        self.since.insert(server, since);
        self.query.handle_tcp_open(server, now);
    }

    pub(super) fn handle_bytes(&mut self, server: SocketAddr, bytes: &[u8], now: Instant) {
        self.query.handle_tcp_data(server, bytes, now);
    }

    pub(super) fn handle_down(&mut self, server: SocketAddr, why: Option<std::io::ErrorKind>, now: Instant) {
        self.since.remove(&server);
        self.query.handle_tcp_closed(server, why, now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.query.handle_timeout(now);
    }

    /// Forgets the words of servers that are not asked any more.
    pub(super) fn forget(&mut self, is_known: impl Fn(&SocketAddr) -> bool) {
        self.heard.retain(|(server, _)| is_known(server));
    }

    /// Returns the acts of its query, whether there was news, and when it wants to be woken.
    pub(super) fn drain(&mut self, now: Instant) -> (Vec<SocketAct>, bool, Option<Deadline>) {
        let (mut acts, mut has_news) = (Vec::new(), false);
        loop {
            match self.query.poll_output() {
                Output::Act(act) => acts.extend(self.act(act, now)),
                Output::Event(event) => has_news |= self.hear(event, now),
                Output::Wait(deadline) => return (acts, has_news, deadline),
            }
        }
    }

    fn act(&mut self, act: Act, now: Instant) -> Option<SocketAct> {
        let link = |to| Some(StunLink { from: self.local?, to });
        match act {
            Act::OpenTcp { server } => Some(SocketAct::OpenLink { link: link(server)? }),
            Act::SendTcp { server, bytes } => Some(SocketAct::WriteLink { link: link(server)?, bytes }),
            Act::CloseTcp { server } => Some(SocketAct::CloseLink { link: link(server)? }),
            // No server is asked over UDP here.
            Act::SendUdp { server, .. } => {
                self.query.handle_unreachable(server, std::io::ErrorKind::Unsupported, now);
                None
            }
        }
    }

    fn hear(&mut self, event: query::Event, now: Instant) -> bool {
        let (server, outcome) = match (event, self.local) {
            (query::Event::Answer(answer), Some(local)) => {
                let server = answer.server.address;
                let sent = self.since.get(&server).copied().unwrap_or(now);
                let seen = PortView { server, local: Local(local), mapped: answer.mapped, sent, at: now };
                (server, PortOutcome::Mapped(seen))
            }
            (query::Event::Failure(server, failure), _) => (server.address, PortOutcome::Failed(failure)),
            _ => return false,
        };
        match self.heard.iter_mut().find(|heard| heard.0 == server) {
            Some(heard) => heard.1 = outcome,
            None => self.heard.push((server, outcome)),
        }
        true
    }
}

fn query(seed: &mut Seed, now: Instant) -> Query {
    Query::new(QueryConfig::default(), seed.fork("query"), now).expect("no servers are not too many servers")
}

//! What happens in a scene, and what came of it.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Scene, SceneNode};
use crate::attempt::AttemptId;
use crate::node::{ConnectError, ConnectOptions};
use crate::peer::PeerAddr;
use crate::sim::node::KeptPipe;

/// Names a call of a node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SceneCall {
    /// The caller.
    pub node: SceneNode,
    /// The attempt.
    pub attempt: AttemptId,
}

/// Names the two ends of a connection that both nodes keep: the number of a pipe at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BothEnds {
    /// The caller's end.
    pub caller: (SceneNode, usize),
    /// The other one.
    pub answerer: (SceneNode, usize),
}

impl Scene {
    /// Lets this much time pass.
    pub fn run_for(&mut self, span: Duration) {
        self.world.run_for(span);
    }

    /// Lets things happen until `done`, for `within` at most. Tells whether it is done.
    pub fn run_until(&mut self, within: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.world.now() + within;
        while !done(self) {
            if self.world.next().is_none_or(|at| at > until) {
                self.world.run_until(until);
                return done(self);
            }
            self.world.step();
        }
        true
    }

    /// Lets things happen until all nodes know their networks, for a minute at most. Tells whether they do.
    pub fn warm_up(&mut self) -> bool {
        self.run_until(Duration::from_secs(60), |scene| {
            scene.nodes().all(|node| {
                let status = scene.runner(node).node().status();
                status.surveyed && status.is_ready()
            })
        })
    }

    /// Returns the address that a node publishes now.
    ///
    /// # Panics
    /// When it publishes none: a node does from its first moment.
    pub fn address(&self, node: SceneNode) -> PeerAddr {
        self.runner(node).node().status().address.clone().expect("a node has an address")
    }

    /// Has a node call another, at the address that it publishes now.
    ///
    /// # Panics
    /// When the call is refused at once.
    pub fn connect(&mut self, from: SceneNode, to: SceneNode) -> SceneCall {
        let address = self.address(to);
        self.connect_with(from, address, ConnectOptions::default()).expect("a call that may begin")
    }

    /// Has a node call a peer.
    ///
    /// # Errors
    /// [`ConnectError`] when the call is refused at once.
    pub fn connect_with(
        &mut self,
        from: SceneNode,
        peer: PeerAddr,
        options: ConnectOptions,
    ) -> Result<SceneCall, ConnectError> {
        let attempt = self.with(from, |runner, context| runner.connect(peer, options, context))?;
        Ok(SceneCall { node: from, attempt })
    }

    /// Returns what came of a call, and after how long: the number of a pipe, or the reason why there is none.
    pub fn outcome(&self, call: SceneCall) -> Option<(Duration, Result<usize, &ConnectError>)> {
        let known = self.runner(call.node).call(call.attempt)?;
        let (at, outcome) = known.outcome.as_ref()?;
        Some((*at - known.began, outcome.as_ref().copied()))
    }

    /// Lets things happen until a call is over and its other end knows, and returns both ends.
    ///
    /// # Errors
    /// The reason why there is no connection, as it is printed.
    ///
    /// # Panics
    /// When the call has no end within two minutes, or its ends keep different connections.
    pub fn meet(&mut self, call: SceneCall, other: SceneNode) -> Result<BothEnds, String> {
        let is_over = self.run_until(LONGEST, |scene| scene.outcome(call).is_some());
        assert!(is_over, "a call that never ends");
        let pipe = match self.outcome(call) {
            Some((_, Ok(pipe))) => pipe,
            Some((_, Err(error))) => return Err(error.to_string()),
            None => return Err("no outcome".into()),
        };
        // Go is on its way.
        self.run_until(Duration::from_secs(10), |scene| scene.pipe_of(call.attempt, other).is_some());
        let caller = (call.node, pipe);
        let Some(answerer) = self.pipe_of(call.attempt, other).map(|pipe| (other, pipe)) else {
            return Err("the other end keeps nothing".into());
        };
        let ends = BothEnds { caller, answerer };
        assert!(self.pipe(caller).is_other_end_of(self.pipe(answerer)), "two connections are kept");
        Ok(ends)
    }

    /// Returns the number of the last pipe that a node has of an attempt.
    pub fn pipe_of(&self, attempt: AttemptId, node: SceneNode) -> Option<usize> {
        let is_its = |pipe: &KeptPipe| pipe.session.claim.attempt == attempt;
        self.runner(node).pipes().iter().rposition(is_its)
    }

    /// Returns one end of a connection.
    ///
    /// # Panics
    /// When there is no such pipe.
    pub fn pipe(&self, (node, pipe): (SceneNode, usize)) -> &KeptPipe {
        &self.runner(node).pipes()[pipe]
    }

    /// Sends bytes from the caller's end to the other and back again, and returns what came back within ten seconds.
    pub fn echo(&mut self, ends: BothEnds, bytes: &[u8]) -> Vec<u8> {
        let there = self.tell(ends.caller, ends.answerer, bytes);
        self.tell(ends.answerer, ends.caller, &there)
    }

    /// Has one end of a connection say something, and returns what the other end has heard after ten seconds at most.
    pub fn tell(&mut self, from: (SceneNode, usize), to: (SceneNode, usize), bytes: &[u8]) -> Vec<u8> {
        let before = self.pipe(to).heard.len();
        self.with(from.0, |runner, context| runner.say(from.1, bytes, context));
        let wanted = before + bytes.len();
        self.run_until(Duration::from_secs(10), |scene| scene.pipe(to).heard.len() >= wanted);
        self.pipe(to).heard[before..].to_vec()
    }

    /// Closes a node.
    pub fn close(&mut self, node: SceneNode) {
        self.with(node, |runner, context| runner.with(context, |node, now| node.close(now)));
    }

    /// Returns all targets that a node has sent something to although they belong to no node, no NAT before one and no
    /// server.
    pub fn third_parties(&self) -> Vec<(SceneNode, SocketAddr)> {
        let of = |node: SceneNode| {
            let reached = self.runner(node).reached().keys();
            reached.filter(|to| !self.known.contains(&to.ip())).map(move |to| (node, *to))
        };
        self.nodes().flat_map(of).collect()
    }
}

/// No call takes longer: 30 s, and what it takes to say so.
const LONGEST: Duration = Duration::from_secs(120);

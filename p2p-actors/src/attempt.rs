//! One actor for each attempt, of ours or of a peer's: it owns the sockets of the attempt and, until a connection of it is
//! kept, its circuit.

use actix::fut::ActorStreamExt;
use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient, SpawnHandle};
use futures_util::stream;
use p2p_core::attempt::AttemptId;
use p2p_core::node::{CircuitAct, CircuitEvent};
use p2p_core::relay::circuit::CircuitFailure;
use tokio::sync::mpsc;

use crate::carrier::CarrierStream;
use crate::relay::{self, FromCircuit, Told};
use crate::sockets::{self, OwnsSockets, Sockets, ToOwner};

/// Asks the owner of an attempt's sockets for something about its circuit.
pub(crate) enum ToCircuit {
    /// Take it over. It has been begun.
    Begun(relay::Handle, mpsc::UnboundedReceiver<Told>),
    /// Do this with it.
    Perform(CircuitAct),
}

impl Message for ToCircuit {
    type Result = ();
}

/// Owns what one attempt has open.
pub(crate) struct Attempt {
    attempt: AttemptId,
    sockets: Sockets,
    node: Recipient<FromCircuit>,
    circuit: Option<relay::Handle>,
    listening: Option<SpawnHandle>,
}

impl Attempt {
    /// Returns the owner of `sockets`, which reports of the circuit to `node`.
    pub(crate) fn new(attempt: AttemptId, sockets: Sockets, node: Recipient<FromCircuit>) -> Self {
        Self { attempt, sockets, node, circuit: None, listening: None }
    }

    fn listen(&mut self, told: mpsc::UnboundedReceiver<Told>, ctx: &mut Context<Self>) {
        let all = stream::unfold(told, |mut told| async move { told.recv().await.map(|one| (one, told)) });
        let all = actix::fut::wrap_stream::<_, Self>(all).map(|told, actor, _| actor.on_told(told));
        self.listening = Some(ctx.spawn(all.finish()));
    }

    fn on_told(&mut self, told: Told) {
        let Some(circuit) = &self.circuit else { return };
        let event = match told {
            Told::Up => match circuit.stream() {
                Ok(stream) => {
                    let (local, remote) = (stream.local_addr(), stream.peer_addr());
                    let connection = self.sockets.take_in(CarrierStream::relayed(stream));
                    CircuitEvent::Up { connection, local, remote }
                }
                Err(error) => CircuitEvent::Failed(CircuitFailure::Blocked(error.to_string())),
            },
            Told::Arrived { link, early, peer } => {
                let stream = circuit.through(link, early, peer);
                let (local, remote) = (stream.local_addr(), stream.peer_addr());
                let connection = self.sockets.take_in(CarrierStream::through(stream));
                CircuitEvent::Arrived { connection, local, remote }
            }
            Told::Dial(to) => CircuitEvent::Dial(to),
            Told::Failed(failure) => CircuitEvent::Failed(failure),
        };
        self.node.do_send(FromCircuit { attempt: self.attempt, event });
    }

    fn perform(&mut self, act: CircuitAct, ctx: &mut Context<Self>) {
        match (act, &mut self.circuit) {
            (CircuitAct::Dialled { to, is_up }, Some(circuit)) => circuit.dialled(to, is_up),
            (CircuitAct::ConnectionFailed, Some(circuit)) => circuit.connection_failed(),
            (CircuitAct::Keep(kind), Some(circuit)) => {
                circuit.keep(kind);
                self.let_go(ctx);
            }
            (CircuitAct::End, _) => self.let_go(ctx),
            // It is begun by whoever knows the servers, and what the peer says goes to it straight.
            (act, _) => tracing::debug!(?act, "there is no circuit for it here"),
        }
    }

    /// Lets go of the circuit, which ends if it was not kept.
    fn let_go(&mut self, ctx: &mut Context<Self>) {
        self.circuit = None;
        if let Some(listening) = self.listening.take() {
            ctx.cancel_future(listening);
        }
    }
}

impl Actor for Attempt {
    type Context = Context<Self>;
}

impl OwnsSockets for Attempt {
    fn sockets(&mut self) -> &mut Sockets {
        &mut self.sockets
    }
}

impl Handler<ToOwner> for Attempt {
    type Result = ();

    fn handle(&mut self, message: ToOwner, ctx: &mut Context<Self>) {
        sockets::handle(self, message, ctx);
    }
}

impl Handler<ToCircuit> for Attempt {
    type Result = ();

    fn handle(&mut self, message: ToCircuit, ctx: &mut Context<Self>) {
        match message {
            ToCircuit::Begun(circuit, told) => {
                self.circuit = Some(circuit);
                self.listen(told, ctx);
            }
            ToCircuit::Perform(act) => self.perform(act, ctx),
        }
    }
}

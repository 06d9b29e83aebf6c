//! Network interfaces: the ones this machine has, and one actor for each that the node uses.

mod enumerate;
#[cfg(target_os = "linux")]
mod netlink;

use actix::{Actor, Context, Handler};

pub(crate) use enumerate::NicSource;
pub use enumerate::nics;

use crate::sockets::{self, OwnsSockets, Sockets, ToOwner};

/// Owns the sockets of one interface: its listeners and who came to them, its connections to STUN servers, its ports for
/// datagrams.
pub(crate) struct Interface(pub(crate) Sockets);

impl Actor for Interface {
    type Context = Context<Self>;
}

impl OwnsSockets for Interface {
    fn sockets(&mut self) -> &mut Sockets {
        &mut self.0
    }
}

impl Handler<ToOwner> for Interface {
    type Result = ();

    fn handle(&mut self, message: ToOwner, ctx: &mut Context<Self>) {
        sockets::handle(self, message, ctx);
    }
}

//! What changes among the interfaces of this machine.

use std::time::Duration;
use std::{fmt, io};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient, WrapFuture,
};
use tracing::{error, info, warn};

use super::enumerate::{Nic, NicSource};

/// How often to look unasked. Systems tell of changes, but not of all of them; looking takes a millisecond.
pub const EVERY: Duration = Duration::from_secs(15);

/// A change among the interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NicChange {
    /// It is there now. After the start every interface appears once.
    Appeared(Nic),
    /// Its addresses, gateways or state are others now.
    Changed(Nic),
    /// It is gone; this is what it was.
    Vanished(Nic),
}

impl Message for NicChange {
    type Result = ();
}

/// What leads from `old` to `new`: first what vanished, then the rest in the order of `new`. An interface is the
/// same if index and name are.
pub fn diff(old: &[Nic], new: &[Nic]) -> Vec<NicChange> {
    let same = |a: &Nic, b: &Nic| a.index == b.index && a.name == b.name;
    let vanished = old
        .iter()
        .filter(|was| !new.iter().any(|is| same(was, is)))
        .map(|was| NicChange::Vanished(was.clone()));
    let others = new.iter().filter_map(|is| match old.iter().find(|was| same(was, is)) {
        None => Some(NicChange::Appeared(is.clone())),
        Some(was) => (was != is).then(|| NicChange::Changed(is.clone())),
    });
    vanished.chain(others).collect()
}

/// Looks at the interfaces at once, then every `every`, and tells `owner` of each change.
///
/// # Panics
/// Outside of a `LocalSet`.
pub fn watch(every: Duration, owner: Recipient<NicChange>) -> Watch {
    let mut source = NicSource::default();
    watch_by(Box::new(move || source.nics()), every, owner)
}

/// Whatever tells which interfaces there are.
type Source = Box<dyn FnMut() -> io::Result<Vec<Nic>> + Send>;

fn watch_by(source: Source, every: Duration, owner: Recipient<NicChange>) -> Watch {
    let source = Some(source);
    Watch(Watching { source, every, owner, known: Vec::new(), is_blind: false }.start())
}

/// A handle to the watch. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch(Addr<Watching>);

impl Watch {
    /// Looks now: the system says that something changed.
    pub fn look(&self) {
        self.0.do_send(Look);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.do_send(Stop);
    }
}

/// The actor behind a [`Watch`].
pub struct Watching {
    /// Elsewhere while it is asked.
    source: Option<Source>,
    every: Duration,
    owner: Recipient<NicChange>,
    known: Vec<Nic>,
    /// The last look failed, which was told.
    is_blind: bool,
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching")
            .field("every", &self.every)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl Watching {
    /// Looks, unless it is looking already.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let Some(mut source) = self.source.take() else { return };
        let looking = tokio::task::spawn_blocking(move || (source(), source)).into_actor(self);
        ctx.spawn(looking.map(|looked, actor, _| match looked {
            Ok((found, source)) => {
                actor.source = Some(source);
                actor.on_looked(found);
            }
            Err(error) => error!(%error, "the network interfaces are not watched any more"),
        }));
    }

    /// That the system could not be asked says nothing of the interfaces: what was known still is.
    fn on_looked(&mut self, found: io::Result<Vec<Nic>>) {
        match found {
            Ok(found) => {
                if std::mem::take(&mut self.is_blind) {
                    info!("the network interfaces can be read again");
                }
                self.on_found(found);
            }
            Err(error) if !std::mem::replace(&mut self.is_blind, true) => {
                warn!(%error, "the network interfaces cannot be read now");
            }
            Err(_) => {}
        }
    }

    fn on_found(&mut self, found: Vec<Nic>) {
        for change in diff(&self.known, &found) {
            info!(?change, "network interface");
            self.owner.do_send(change);
        }
        self.known = found;
    }

    fn look_later(&self, ctx: &mut Context<Self>) {
        ctx.run_later(self.every, |actor, ctx| {
            actor.look(ctx);
            actor.look_later(ctx);
        });
    }
}

impl Actor for Watching {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.look(ctx);
        self.look_later(ctx);
    }
}

#[derive(Debug)]
struct Look;

impl Message for Look {
    type Result = ();
}

impl Handler<Look> for Watching {
    type Result = ();

    fn handle(&mut self, _: Look, ctx: &mut Context<Self>) {
        self.look(ctx);
    }
}

#[derive(Debug)]
struct Stop;

impl Message for Stop {
    type Result = ();
}

impl Handler<Stop> for Watching {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NicAddress, nics};
    use super::*;

    fn nic(index: u32, name: &str, ips: &[&str]) -> Nic {
        let addresses = ips.iter().map(|ip| NicAddress { ip: ip.parse().unwrap(), prefix: 24, scope: 0 });
        Nic {
            name: name.into(),
            index,
            addresses: addresses.collect(),
            is_loopback: false,
            is_up: true,
            gateways: Vec::new(),
        }
    }

    #[test]
    fn only_differences_are_told() {
        let old = [nic(1, "lo", &["127.0.0.1"]), nic(2, "eth0", &["192.0.2.1"]), nic(3, "usb0", &[])];
        assert_eq!(diff(&old, &old), []);
        let moved = nic(2, "eth0", &["192.0.2.2"]);
        let renamed = nic(3, "eth1", &[]);
        let new = [old[0].clone(), moved.clone(), renamed.clone()];
        assert_eq!(
            diff(&old, &new),
            [NicChange::Vanished(old[2].clone()), NicChange::Changed(moved), NicChange::Appeared(renamed),]
        );
        assert_eq!(diff(&[], &old).len(), 3);
    }

    #[test]
    fn a_lost_gateway_or_carrier_is_a_change() {
        let old = nic(2, "eth0", &["192.0.2.1"]);
        let down = Nic { is_up: false, ..old.clone() };
        let stranded = Nic { gateways: vec!["192.0.2.254".parse().unwrap()], ..old.clone() };
        for new in [down, stranded] {
            let changes = diff(std::slice::from_ref(&old), std::slice::from_ref(&new));
            assert_eq!(changes, [NicChange::Changed(new)]);
        }
    }

    struct Owner(tokio::sync::mpsc::UnboundedSender<NicChange>);

    impl Actor for Owner {
        type Context = Context<Self>;
    }

    impl Handler<NicChange> for Owner {
        type Result = ();

        fn handle(&mut self, change: NicChange, _: &mut Context<Self>) {
            let _ = self.0.send(change);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_asked_has_not_vanished() {
        let lo = nic(1, "lo", &["127.0.0.1"]);
        let mut answers = vec![
            Ok(vec![lo.clone()]),
            Err(io::Error::from_raw_os_error(24)),
            Err(io::Error::from_raw_os_error(24)),
            Ok(vec![lo.clone(), nic(2, "eth0", &["192.0.2.1"])]),
        ]
        .into_iter();
        let source = Box::new(move || answers.next().unwrap_or(Err(io::ErrorKind::Other.into())));
        let (told, mut changes) = tokio::sync::mpsc::unbounded_channel();
        tokio::task::LocalSet::new()
            .run_until(async {
                let _watch = watch_by(source, EVERY, Owner(told).start().recipient());
                assert_eq!(changes.recv().await, Some(NicChange::Appeared(lo)));
                let next = changes.recv().await.unwrap();
                assert!(matches!(&next, NicChange::Appeared(nic) if nic.name == "eth0"), "{next:?}");
            })
            .await;
    }

    #[tokio::test]
    async fn every_interface_appears_once() {
        let (told, mut changes) = tokio::sync::mpsc::unbounded_channel();
        tokio::task::LocalSet::new()
            .run_until(async {
                let owner = Owner(told).start();
                let watch = watch(EVERY, owner.recipient());
                let mut seen = Vec::new();
                while seen.len() < nics().unwrap().len() {
                    match changes.recv().await.unwrap() {
                        NicChange::Appeared(nic) => seen.push(nic.index),
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(seen, nics().unwrap().iter().map(|nic| nic.index).collect::<Vec<_>>());
                drop(watch);
            })
            .await;
    }
}

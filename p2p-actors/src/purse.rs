//! What all punches of a node share, whoever wants them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use p2p_core::attempt::Trust;
use p2p_core::punch::{Budget, Limits, Share};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Strangers share this part of the whole: half open connections and dials a second.
const STRANGERS: u16 = 4;
/// A punch waits so long for others to end. The caller of one believes for 7 s that an answer will come.
const RESERVE_WITHIN: Duration = Duration::from_secs(5);

/// The budget of a node, and the part of it that strangers can use up.
pub(crate) struct Purse {
    whole: RefCell<Budget>,
    strangers: RefCell<Budget>,
    returned: Notify,
}

/// A share, which goes back when it is dropped.
pub(crate) struct Held {
    purse: Rc<Purse>,
    share: Share,
    trust: Trust,
}

impl Purse {
    pub(crate) fn new(limits: Limits) -> Rc<Self> {
        let part = Limits {
            sockets: limits.sockets / STRANGERS,
            per_second: limits.per_second / STRANGERS,
            ..limits
        };
        Rc::new(Self {
            whole: RefCell::new(Budget::new(limits)),
            strangers: RefCell::new(Budget::new(part)),
            returned: Notify::new(),
        })
    }

    /// As much of `wanted` as there is, as soon as there is any. `None` when there is none for too long.
    pub(crate) async fn reserve(self: Rc<Self>, wanted: Share, trust: Trust) -> Option<Held> {
        let taken = async {
            loop {
                let returned = self.returned.notified();
                let share = self.take(wanted, trust);
                if share != Share::default() {
                    return share;
                }
                returned.await;
            }
        };
        let share = timeout(RESERVE_WITHIN, taken).await.ok()?;
        Some(Held { purse: self, share, trust })
    }

    fn take(&self, wanted: Share, trust: Trust) -> Share {
        let mut whole = self.whole.borrow_mut();
        if trust == Trust::Known {
            return whole.take(wanted);
        }
        let mut strangers = self.strangers.borrow_mut();
        let part = strangers.take(wanted);
        let share = whole.take(part);
        strangers.give_back(Share {
            sockets: part.sockets - share.sockets,
            per_second: part.per_second - share.per_second,
        });
        share
    }
}

impl Held {
    pub(crate) fn share(&self) -> Share {
        self.share
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.purse.whole.borrow_mut().give_back(self.share);
        if self.trust == Trust::Stranger {
            self.purse.strangers.borrow_mut().give_back(self.share);
        }
        self.purse.returned.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn share(sockets: u16, per_second: u16) -> Share {
        Share { sockets, per_second }
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_it_empty_waits_for_what_comes_back() {
        let purse = Purse::new(Limits { sockets: 100, per_second: 100, ..Limits::default() });
        let reserve = |wanted, trust| Rc::clone(&purse).reserve(wanted, trust);
        let first = reserve(share(80, 50), Trust::Known).await.unwrap();
        let second = reserve(share(80, 20), Trust::Known).await.unwrap();
        assert_eq!(second.share(), share(20, 20), "what is left");
        let mut third = Box::pin(reserve(share(10, 10), Trust::Known));
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        assert_eq!(third.await.unwrap().share(), share(10, 10));
        drop(second);
        let all = reserve(share(200, 200), Trust::Known).await.unwrap();
        assert_eq!(all.share(), share(100, 100), "all of it came back");
        assert!(reserve(share(1, 1), Trust::Known).await.is_none(), "nobody waits for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_leave_most_to_others() {
        let purse = Purse::new(Limits { sockets: 100, per_second: 100, ..Limits::default() });
        let reserve = |wanted, trust| Rc::clone(&purse).reserve(wanted, trust);
        let one = reserve(share(20, 10), Trust::Stranger).await.unwrap();
        let two = reserve(share(20, 10), Trust::Stranger).await.unwrap();
        assert_eq!((one.share(), two.share()), (share(20, 10), share(5, 10)));
        assert!(reserve(share(1, 1), Trust::Stranger).await.is_none());
        let ours = reserve(share(100, 100), Trust::Known).await.unwrap();
        assert_eq!(ours.share(), share(75, 80));
        drop((one, two));
        // What strangers may still have is not there any more.
        let three = reserve(share(100, 100), Trust::Stranger).await.unwrap();
        assert_eq!(three.share(), share(25, 20));
        drop((three, ours));
        assert_eq!(reserve(share(100, 100), Trust::Stranger).await.unwrap().share(), share(25, 25));
    }
}

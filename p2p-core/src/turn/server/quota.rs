//! The use of relayed addresses and bytes, by user and in all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What one piece can keep a flow busy for, whatever the rate.
const LONGEST: Duration = Duration::from_secs(60);

/// Bounds on relayed addresses and bytes.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Relayed addresses one user may have at once; a user of a time-limited credential is the name in it. Default 16.
    pub per_user: usize,
    /// Relayed addresses at once, over all users. Default 1,000.
    pub most: usize,
    /// Bytes a second one user may have relayed, both directions together. Default 12,500,000: 100 Mbit/s.
    pub user_rate: Option<u64>,
    /// Bytes a second that are relayed in all. Default: no limit.
    pub total_rate: Option<u64>,
}

impl Default for Quota {
    fn default() -> Self {
        Self { per_user: 16, most: 1_000, user_rate: Some(12_500_000), total_rate: None }
    }
}

/// Why a user gets no relayed address more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaReached {
    /// The user has what he may have: 486.
    User,
    /// The server has no more: 508.
    Server,
}

/// Bytes that may flow, kept as the moment until which those that flowed have been paid for. A second's worth may
/// go at once.
#[derive(Clone, Copy, Debug)]
struct ByteBucket {
    paid_until: Instant,
}

impl ByteBucket {
    fn new(now: Instant) -> Self {
        Self { paid_until: now }
    }

    /// Until when it is busy once `bytes` went at `rate`; if they may not go yet, how long that would have to wait.
    fn after(&self, bytes: usize, rate: u64, now: Instant) -> Result<Instant, Duration> {
        let start = self.paid_until.max(now);
        let ahead = start.duration_since(now);
        let cost = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate.max(1));
        // What is larger than a second's worth goes when nothing else has gone before.
        if !ahead.is_zero() && ahead + cost > Duration::from_secs(1) {
            return Err(ahead);
        }
        Ok(start + cost.min(LONGEST))
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.paid_until <= now
    }
}

#[derive(Debug)]
struct AccountUsage {
    held: usize,
    flow: ByteBucket,
}

/// The use of relayed addresses and bytes by account. Bounded by the relayed addresses there may be, and by the users of
/// the last second.
#[derive(Debug)]
pub(super) struct QuotaTable {
    quota: Quota,
    held: usize,
    flow: ByteBucket,
    accounts: BTreeMap<Arc<str>, AccountUsage>,
}

impl QuotaTable {
    pub(super) fn new(quota: Quota, now: Instant) -> Self {
        Self { quota, held: 0, flow: ByteBucket::new(now), accounts: BTreeMap::new() }
    }

    /// Tells whether `account` may have `wanted` relayed addresses more.
    pub(super) fn may_have(&self, account: &str, wanted: usize) -> Result<(), QuotaReached> {
        let held = self.accounts.get(account).map_or(0, |account| account.held);
        if held + wanted > self.quota.per_user {
            Err(QuotaReached::User)
        } else if self.held + wanted > self.quota.most {
            Err(QuotaReached::Server)
        } else {
            Ok(())
        }
    }

    /// One relayed address more.
    pub(super) fn enter(&mut self, account: &Arc<str>, now: Instant) {
        self.held += 1;
        let fresh = || AccountUsage { held: 0, flow: ByteBucket::new(now) };
        self.accounts.entry(Arc::clone(account)).or_insert_with(fresh).held += 1;
    }

    /// One less.
    pub(super) fn leave(&mut self, account: &str, now: Instant) {
        self.held = self.held.saturating_sub(1);
        if let Some(entry) = self.accounts.get_mut(account) {
            entry.held = entry.held.saturating_sub(1);
        }
        // Whoever comes back at once does not find a full purse again.
        self.accounts.retain(|_, account| account.held > 0 || !account.flow.is_idle(now));
    }

    /// As [`spend`](Self::spend), for a connection, which may outlive the last address of its account.
    pub(super) fn spend_late(&mut self, account: &str, bytes: usize, now: Instant) -> Result<(), Duration> {
        if !self.accounts.contains_key(account) {
            self.accounts.insert(account.into(), AccountUsage { held: 0, flow: ByteBucket::new(now) });
        }
        self.spend(account, bytes, now)
    }

    /// Tells whether `bytes` may be relayed for `account` now; if not, how long that would have to wait. Nothing is paid for
    /// what may not go.
    pub(super) fn spend(&mut self, account: &str, bytes: usize, now: Instant) -> Result<(), Duration> {
        let total = self.quota.total_rate.map(|rate| self.flow.after(bytes, rate, now)).transpose()?;
        if let Some(rate) = self.quota.user_rate
            && let Some(account) = self.accounts.get_mut(account)
        {
            account.flow.paid_until = account.flow.after(bytes, rate, now)?;
        }
        self.flow.paid_until = total.unwrap_or(self.flow.paid_until);
        Ok(())
    }

    /// Relayed addresses in all.
    pub(super) fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota() -> Quota {
        Quota { per_user: 2, most: 3, user_rate: None, total_rate: None }
    }

    #[test]
    fn a_user_and_the_server_have_so_much() {
        let now = crate::sim::epoch();
        let mut table = QuotaTable::new(quota(), now);
        let [anna, bert]: [Arc<str>; 2] = ["anna".into(), "bert".into()];
        assert_eq!(table.may_have("anna", 2), Ok(()));
        assert_eq!(table.may_have("anna", 3), Err(QuotaReached::User));
        table.enter(&anna, now);
        table.enter(&anna, now);
        assert_eq!(table.may_have("anna", 1), Err(QuotaReached::User));
        assert_eq!(table.may_have("bert", 1), Ok(()));
        table.enter(&bert, now);
        assert_eq!(table.may_have("bert", 1), Err(QuotaReached::Server));
        table.leave("anna", now);
        assert_eq!((table.may_have("bert", 1), table.may_have("anna", 1)), (Ok(()), Ok(())));
        table.leave("anna", now);
        table.leave("bert", now);
        assert_eq!((table.held(), table.accounts.len()), (0, 0), "nobody is remembered");
    }

    #[test]
    fn bytes_flow_at_the_rate_whatever_is_offered() {
        let start = crate::sim::epoch();
        let mut table =
            QuotaTable::new(Quota { user_rate: Some(300_000), total_rate: Some(450_000), ..quota() }, start);
        let users: [Arc<str>; 2] = ["anna".into(), "bert".into()];
        users.iter().for_each(|user| table.enter(user, start));
        let mut passed = [0u64; 2];
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            for (user, passed) in users.iter().zip(&mut passed) {
                for _ in 0..(if millisecond < 5_000 || user.as_ref() == "anna" { 1 } else { 0 }) {
                    *passed += if table.spend(user, 1_000, now).is_ok() { 1_000 } else { 0 };
                }
            }
        }
        let total = passed[0] + passed[1];
        // Five seconds of both, bound by the total, and five of one, bound by his own; a second's worth at once.
        assert!(
            (5 * 450_000 + 5 * 300_000 - 10_000..=6 * 450_000 + 6 * 300_000).contains(&total),
            "{passed:?}"
        );
        // After a pause there is a second's worth again, not more.
        let later = start + Duration::from_secs(100);
        let burst = (0..1_000).filter(|_| table.spend("anna", 1_000, later).is_ok()).count();
        assert!((299..=301).contains(&burst), "{burst}");
        assert!(table.spend("anna", 1_000, later).is_err());
    }

    #[test]
    fn what_may_not_go_costs_nobody_anything() {
        let now = crate::sim::epoch();
        let mut table =
            QuotaTable::new(Quota { user_rate: Some(1_000), total_rate: Some(1_000), ..quota() }, now);
        let users: [Arc<str>; 2] = ["anna".into(), "bert".into()];
        users.iter().for_each(|user| table.enter(user, now));
        assert_eq!(table.spend("anna", 600, now), Ok(()));
        assert_eq!(table.spend("bert", 600, now), Err(Duration::from_millis(600)), "by the total");
        assert_eq!(table.spend("anna", 600, now), Err(Duration::from_millis(600)));
        let later = now + Duration::from_millis(600);
        assert_eq!(table.spend("bert", 1_000, later), Ok(()), "all of his second's worth");
    }

    #[test]
    fn nobody_gets_a_new_purse_by_coming_back() {
        let now = crate::sim::epoch();
        let mut table = QuotaTable::new(Quota { user_rate: Some(1_000), ..quota() }, now);
        let anna: Arc<str> = "anna".into();
        table.enter(&anna, now);
        assert!(table.spend("anna", 1_000, now).is_ok());
        table.leave("anna", now);
        table.enter(&anna, now);
        assert!(table.spend("anna", 1_000, now).is_err());
        // Nor by having an address no more.
        let later = now + Duration::from_secs(10);
        table.leave("anna", later);
        assert!(table.accounts.is_empty());
        assert!(table.spend_late("anna", 1_000, later).is_ok());
        assert!(table.spend_late("anna", 1_000, later).is_err());
    }
}

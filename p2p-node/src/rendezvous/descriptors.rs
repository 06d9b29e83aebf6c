//! The open files of this process, and how they are shared among the servers.
//!
//! Every connection takes a descriptor of one table. Who takes the last of them takes down everything else in the
//! process, so each server has its part of what the system allows, and some are left for the process itself.

use tracing::warn;

/// Raises the number of files this process may have open as far as the system lets it (`RLIMIT_NOFILE`, from the soft to
/// the hard limit). Returns the number.
///
/// It is for a program whose servers are its purpose, such as `p2p rendezvous`: the limit is one of the whole process.
pub fn raise_open_files() -> usize {
    system::raise();
    system::limit()
}

/// What one server wants, and what it gets.
#[derive(Debug)]
pub(super) struct DescriptorWant<'a> {
    /// Its name, for the log.
    pub(super) name: &'static str,
    /// Its setting: lowered when there are too few.
    pub(super) setting: &'a mut usize,
    /// Descriptors that one of them takes.
    pub(super) each: usize,
}

/// Lowers the settings so that together they take no more descriptors than there are. `others` are for listening.
pub(super) fn share(wants: &mut [DescriptorWant<'_>], others: usize) {
    let limit = system::limit();
    let own = OWN.min(limit / 4) + others;
    share_out(wants, limit.saturating_sub(system::open() + own), limit);
}

fn share_out(wants: &mut [DescriptorWant<'_>], free: usize, limit: usize) {
    let wanted = wants.iter().map(|want| want.setting.saturating_mul(want.each));
    let wanted = wanted.fold(0, usize::saturating_add);
    if wanted <= free {
        return;
    }
    for DescriptorWant { name, setting, .. } in wants {
        let part = **setting as u128 * free as u128 / wanted as u128;
        let has = (part as usize).clamp(LEAST.min(**setting), **setting);
        warn!(
            "{name}: room for {has} instead of {setting}, as this process may open {limit} files only (ulimit -n)"
        );
        **setting = has;
    }
}

#[cfg(unix)]
mod system {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use tracing::debug;

    pub(super) fn raise() {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        // Some systems say "infinity" and mean a number that they do not tell.
        for wanted in [maximum, Some(super::ENOUGH), Some(super::MODEST)] {
            let is_more = current.is_some_and(|current| wanted.is_none_or(|wanted| wanted > current));
            if !is_more || setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum }).is_ok() {
                return;
            }
        }
        debug!(?current, ?maximum, "the limit of open files stays as it is");
    }

    pub(super) fn limit() -> usize {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(super::ENOUGH);
        limit.min(super::ENOUGH) as usize
    }

    /// Descriptors that are open now.
    pub(super) fn open() -> usize {
        std::fs::read_dir("/dev/fd").map_or(0, Iterator::count)
    }
}

#[cfg(not(unix))]
mod system {
    pub(super) fn raise() {}

    pub(super) fn limit() -> usize {
        super::ENOUGH as usize
    }

    pub(super) fn open() -> usize {
        0
    }
}

/// More than all servers of a rendezvous take by far.
const ENOUGH: u64 = 1 << 20;
/// What macOS allows when it says infinity (`OPEN_MAX`).
const MODEST: u64 = 10_240;
/// Descriptors for the process itself, and for connections on their way in and out.
const OWN: usize = 96;
/// No server has fewer.
const LEAST: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(mut settings: [(usize, usize); 3], free: usize) -> [usize; 3] {
        let wants =
            settings.iter_mut().map(|(setting, each)| DescriptorWant { name: "it", setting, each: *each });
        share_out(&mut wants.collect::<Vec<_>>(), free, free);
        settings.map(|(setting, _)| setting)
    }

    #[test]
    fn each_has_what_it_wants_or_its_part() {
        let wanted = [(1_000, 1), (500, 2), (1_000, 1)];
        assert_eq!(shared(wanted, 3_000), [1_000, 500, 1_000]);
        assert_eq!(shared(wanted, 300), [100, 50, 100]);
        assert_eq!(shared([(1_000, 1), (2, 1), (1_000, 1)], 200), [99, 2, 99]);
        assert_eq!(shared(wanted, 0), [LEAST; 3]);
        let most = usize::MAX / 4;
        assert_eq!(shared([(most, 1), (most, 2), (0, 1)], 300), [100, 100, 0]);
    }

    #[test]
    fn the_limit_is_known() {
        assert!(system::limit() >= 64 && system::open() < system::limit());
    }
}

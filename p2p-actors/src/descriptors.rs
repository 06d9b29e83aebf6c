//! The descriptors this process may have, and how a node shares them out.
//!
//! Whoever connects costs one. Without a bound a stranger takes all of them, and then the node can neither dial nor read its
//! own network. So what others can take is a share of what the process may have, and the rest is the node's own: listeners,
//! brokers, STUN and TURN servers, attempts of our user.

use std::io;

use crate::config::Limits;

/// What others may take of this process's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Connections that came to us and are not proven.
    pub(crate) unproven: usize,
    /// Those of them whose end is decided and not yet done.
    pub(crate) leaving: usize,
    /// Connections we make because peers asked for them.
    pub(crate) errands: usize,
    /// Pipes that peers have asked for.
    pub(crate) pipes: usize,
}

impl Shares {
    /// The shares of this process, within the limits of the configuration.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self::of(limit(), limits)
    }

    /// An eighth for strangers, half as much for those that leave, an eighth for what strangers ask for, a quarter for pipes:
    /// each of them costs the user another descriptor, as a file or a service. The rest is left.
    fn of(limit: usize, limits: &Limits) -> Self {
        let unproven = limits.unproven.min(limit / 8).max(1);
        let leaving = (unproven / 2).clamp(1, MOST_LEAVING);
        let errands = limits.errands.min(limit / 8).max(1);
        Self { unproven, leaving, errands, pipes: limits.pipes.min(limit / 4).max(1) }
    }
}

/// Whether an error says that the system, or this process, has no more of something: not that what was asked for is not
/// there.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    // EMFILE, ENFILE and ENOMEM have these numbers on every Unix; ENOBUFS has three; WSAEMFILE and WSAENOBUFS of Windows.
    const UNIX: [i32; 6] = [24, 23, 12, 105, 55, 132];
    const WINDOWS: [i32; 2] = [10_024, 10_055];
    let known: &[i32] = if cfg!(windows) { &WINDOWS } else { &UNIX };
    error.raw_os_error().is_some_and(|code| known.contains(&code))
}

/// The most connections that are being ended at a time.
const MOST_LEAVING: usize = 64;

#[cfg(target_os = "linux")]
fn limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(target_os = "linux")]
const USUAL: u64 = 1_024;

/// What macOS gives a process that asks for nothing.
#[cfg(all(unix, not(target_os = "linux")))]
fn limit() -> usize {
    256
}

/// Windows has no such limit.
#[cfg(not(unix))]
fn limit() -> usize {
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_never_have_more_than_five_eighths_and_always_something() {
        for limit in [0, 16, 64, 256, 1_024, 1_048_576, usize::MAX] {
            let shares = Shares::of(limit, &Limits::default());
            assert!(shares.unproven >= 1 && shares.errands >= 1 && shares.pipes >= 1);
            let taken = shares.unproven + shares.leaving + shares.errands + shares.pipes;
            assert!(limit < 16 || taken <= limit / 8 * 5, "{limit}: {shares:?}");
        }
        let few = Limits { unproven: 2, errands: 4, pipes: 3, ..Limits::default() };
        assert_eq!(Shares::of(1_024, &few), Shares { unproven: 2, leaving: 1, errands: 4, pipes: 3 });
    }

    #[test]
    fn out_of_descriptors_is_no_answer() {
        assert!(is_exhausted(&io::Error::from_raw_os_error(24)));
        assert!(!is_exhausted(&io::ErrorKind::NotFound.into()));
    }
}

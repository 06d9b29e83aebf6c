//! The descriptors this process may have, and how a node shares them out.
//!
//! Whoever connects costs one. Without a bound a stranger takes all of them, and then the node can neither dial nor read its
//! own network. So what others can take is a share of what the process may have, and the rest is the node's own: listeners,
//! brokers, STUN and TURN servers, attempts of our user.

use std::io;

use p2p_core::node::Limits;

/// Bounds what others may take by what this process may have: an eighth for connections that are not proven, an eighth for
/// what peers ask us to dial, a quarter for pipes. Each pipe costs the user another descriptor, as a file or a service.
/// A limit is never raised by it.
pub(crate) fn within(limits: Limits) -> Limits {
    shares(limit(), limits)
}

fn shares(limit: usize, limits: Limits) -> Limits {
    let (eighth, quarter) = ((limit / 8).max(1), (limit / 4).max(1));
    limits
        .with_unproven(limits.unproven.min(eighth))
        .with_dials_for_peers(limits.dials_for_peers.min(eighth))
        .with_pipes(limits.pipes.min(quarter))
}

/// Returns the number of connections whose end is decided and not yet done that may be beside so many unproven ones.
pub(crate) fn leaving(unproven: usize) -> usize {
    (unproven / 2).clamp(1, MOST_LEAVING)
}

/// Tells whether an error says that the system, or this process, has no more of something: not that what was asked for is not
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
            let shares = shares(limit, Limits::default());
            assert!(shares.unproven >= 1 && shares.dials_for_peers >= 1 && shares.pipes >= 1);
            let taken = shares.unproven + leaving(shares.unproven) + shares.dials_for_peers + shares.pipes;
            assert!(limit < 16 || taken <= limit / 8 * 5, "{limit}: {shares:?}");
        }
        let few = Limits::new().with_unproven(2).with_dials_for_peers(4).with_pipes(3);
        assert_eq!(shares(1_024, few), few);
    }

    #[test]
    fn out_of_descriptors_is_no_answer() {
        assert!(is_exhausted(&io::Error::from_raw_os_error(24)));
        assert!(!is_exhausted(&io::ErrorKind::NotFound.into()));
    }
}

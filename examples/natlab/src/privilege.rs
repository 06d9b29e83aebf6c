//! The permission to make labs.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::error::LabError;
use crate::interface::{Setup, set_up};
use crate::namespace::Namespace;
use crate::scenario::Routing;

/// Checks that this process may make namespaces and TUN devices in them, by trying it.
///
/// # Errors
/// [`LabError::NotAllowed`] with the reason and what may help.
pub fn check() -> Result<(), LabError> {
    let refused =
        |what: &str, hint: &str, error: io::Error| LabError::NotAllowed(format!("{what}: {error}; {hint}"));
    let namespace = Namespace::new(None).map_err(|error| {
        refused("making a network namespace", "run it as root, or call enter_user_namespace first", error)
    })?;
    let probe = Setup { name: "probe".to_owned(), addresses: Vec::new(), gateways: Vec::new() };
    namespace
        .run(|| set_up(&[probe], Routing::Metric, false))
        .and_then(|outcome| outcome)
        .map(|_| ())
        .map_err(|error| {
            refused("making a TUN device", "run it as root, or get access to /dev/net/tun", error)
        })
}

/// Becomes root of a new user namespace, in which an ordinary user may make labs.
///
/// It must be called before the process has a second thread, as the kernel refuses it afterwards. It does nothing for
/// root.
///
/// # Errors
/// [`LabError::NotAllowed`] when this system has no user namespaces for ordinary users.
pub fn enter_user_namespace() -> Result<(), LabError> {
    let (user, group) = (geteuid(), getegid());
    if user.is_root() {
        return Ok(());
    }
    let steps = || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))
    };
    steps().map_err(|error| {
        LabError::NotAllowed(format!(
            "entering a user namespace: {error}; run it as root, or allow user namespaces \
             (kernel.unprivileged_userns_clone, user.max_user_namespaces)"
        ))
    })
}

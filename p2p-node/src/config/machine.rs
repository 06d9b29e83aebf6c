//! The names that the operating system gives this machine.

use std::fs;

/// The name of the loopback interface.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const LOOPBACK: &str = "lo";
/// The name of the loopback interface.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) const LOOPBACK: &str = "lo0";

/// Returns bytes that stay the same while this machine runs, and differ on every other one. They are empty when the
/// system has none. Then two nodes on this machine take each other for neighbours on a network.
pub(super) fn id() -> Vec<u8> {
    let sources =
        ["/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/sys/kernel/random/boot_id", "/etc/hostid"];
    let known = sources.iter().filter_map(|path| fs::read(path).ok());
    known.map(|id| id.trim_ascii().to_vec()).find(|id| !id.is_empty()).unwrap_or_default()
}

//! The names that the operating system gives this machine.

use std::fs;
use std::io::{ErrorKind, Result};

/// The name of the loopback interface.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const LOOPBACK: &str = "lo";
/// The name of the loopback interface.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) const LOOPBACK: &str = "lo0";

/// Something that stays the same while this machine runs and is not the same on another one. Empty when the
/// system has nothing of the kind: then two nodes on this machine take each other for neighbours.
///
/// # Errors
/// If a file that may hold it cannot be read now: the next one would be another machine's name for the same machine.
pub(super) fn id() -> Result<Vec<u8>> {
    first_of(
        ["/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/sys/kernel/random/boot_id", "/etc/hostid"]
            .map(fs::read),
    )
}

fn first_of(files: impl IntoIterator<Item = Result<Vec<u8>>>) -> Result<Vec<u8>> {
    for file in files {
        match file {
            Ok(id) if id.trim_ascii().is_empty() => {}
            Ok(id) => return Ok(id.trim_ascii().to_vec()),
            Err(error) if is_none(error.kind()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Vec::new())
}

/// Whether the system says that there is nothing for us to read.
fn is_none(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::Unsupported
            | ErrorKind::InvalidInput
    )
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_now_is_not_passed_over() {
        let id = || Ok(b"this\n".to_vec());
        assert_eq!(first_of([Err(ErrorKind::NotFound.into()), Ok(b"\n".to_vec()), id()]).unwrap(), b"this");
        assert!(first_of([Err(Error::from_raw_os_error(24)), id()]).is_err());
        assert!(first_of([Err(ErrorKind::PermissionDenied.into())]).unwrap().is_empty());
    }
}

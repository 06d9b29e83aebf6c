//! Standard input and output, which may be non-blocking: whoever shares a terminal or a pipe with us can have made them so.
//! Then there is nothing to read, or no room, for a while, and that is waited for.

use std::io::{Error, Result};

use tokio::task::spawn_blocking;

/// Reads what there is from standard input into the room that the buffer has, once there is something. Returns the buffer,
/// and how much was read: nothing at the end.
///
/// # Errors
/// What the system says.
pub(crate) async fn read(mut buffer: Vec<u8>) -> Result<(Vec<u8>, usize)> {
    spawn_blocking(move || system::read(&mut buffer).map(|filled| (buffer, filled)))
        .await
        .map_err(Error::other)?
}

/// Writes the first bytes of the buffer to standard output, all of them. Returns the buffer.
///
/// # Errors
/// What the system says.
pub(crate) async fn write(buffer: Vec<u8>, length: usize) -> Result<Vec<u8>> {
    spawn_blocking(move || system::write(buffer.get(..length).unwrap_or(&buffer)).map(|()| buffer))
        .await
        .map_err(Error::other)?
}

#[cfg(unix)]
mod system {
    use std::io::{ErrorKind, Result};
    use std::os::fd::BorrowedFd;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::Errno;
    use rustix::stdio::{stdin, stdout};

    pub(super) fn read(buffer: &mut [u8]) -> Result<usize> {
        patiently(stdin(), PollFlags::IN, || rustix::io::read(stdin(), &mut *buffer))
    }

    pub(super) fn write(mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match patiently(stdout(), PollFlags::OUT, || rustix::io::write(stdout(), bytes))? {
                0 => return Err(ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }

    /// Does something to a descriptor that may not be ready for it.
    fn patiently(
        descriptor: BorrowedFd<'_>,
        ready: PollFlags,
        mut act: impl FnMut() -> rustix::io::Result<usize>,
    ) -> Result<usize> {
        loop {
            match act() {
                Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&descriptor, ready)], None) {
                    Err(error) if error != Errno::INTR => return Err(error.into()),
                    _ => {}
                },
                Err(Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io::{Read, Result, Write};

    pub(super) fn read(buffer: &mut [u8]) -> Result<usize> {
        std::io::stdin().lock().read(buffer)
    }

    pub(super) fn write(bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }
}

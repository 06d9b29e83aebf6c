//! Lines for people and programs. Unlike `println!`, none of this panics when nobody reads.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use crate::ended::Ended;

/// Prints a line on standard output, at once.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    self::text(format_args!("{text}\n"))
}

/// Prints lines that have their line ends already.
pub(crate) fn text(text: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Ended::Unread.into()),
        done => Ok(done?),
    }
}

/// Prints a line on standard error. If that is closed, there is nobody to tell.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

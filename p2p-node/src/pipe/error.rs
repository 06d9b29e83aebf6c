//! The error a connection died of, for both halves of a pipe.

use std::io::{Error, ErrorKind};

/// The first error of a connection. The system tells it once, to whichever half asks first, and the other half would read
/// a clean end.
#[derive(Clone, Debug)]
pub(super) struct FirstError {
    kind: ErrorKind,
    text: String,
}

impl FirstError {
    pub(super) fn new(error: &Error) -> Self {
        let kind = error.kind();
        let text = match (kind, error.raw_os_error()) {
            (ErrorKind::TimedOut, Some(_)) => {
                "the connection is dead: the peer's system does not answer any more".to_owned()
            }
            _ => error.to_string(),
        };
        Self { kind, text }
    }

    /// Returns the same error again.
    pub(super) fn told(&self) -> Error {
        Error::new(self.kind, self.text.clone())
    }
}

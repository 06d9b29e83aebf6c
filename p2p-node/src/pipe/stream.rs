//! The two forms of a pipe, over whatever carries it.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use p2p_core::proof::Session;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::bare::Bare;
use super::liveness::BEAT;
use super::sealed::Sealed;
use super::transport::Transport;

/// The form of a pipe that a user's bytes go through.
pub(super) enum Stream<S> {
    Plain(Bare<S>),
    Sealed(Box<Sealed<S>>),
}

impl<S: Transport> Stream<S> {
    /// Makes the form that both ends agreed on.
    pub(super) fn new(transport: S, session: &Session, ask_after: Option<Duration>) -> Result<Self> {
        Ok(match session.plain {
            true => Self::Plain(Bare::new(transport)),
            false => Self::Sealed(Box::new(Sealed::new(transport, session, ask_after)?)),
        })
    }

    pub(super) fn transport(&self) -> &S {
        match self {
            Self::Plain(bare) => bare.transport(),
            Self::Sealed(sealed) => sealed.transport(),
        }
    }

    /// Does for the peer, and for the user, what is due. Returns the latest time to come again, or `None` when the stream
    /// is dead.
    pub(super) fn tend(&mut self) -> Option<Instant> {
        match self {
            Self::Plain(_) => Some(Instant::now() + BEAT),
            Self::Sealed(sealed) => sealed.tend(),
        }
    }

    /// Tells whether the connection should outlive this: see [`Sealed::wants_to_linger`].
    pub(super) fn wants_to_linger(&self) -> bool {
        matches!(self, Self::Sealed(sealed) if sealed.wants_to_linger())
    }

    /// Waits until the connection is not needed any more.
    pub(super) fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(_) => Poll::Ready(()),
            Self::Sealed(sealed) => sealed.poll_linger(cx),
        }
    }

    /// Waits until the peer has what was written, after both directions have ended.
    pub(super) fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Plain(bare) => bare.poll_delivered(cx),
            Self::Sealed(sealed) => sealed.poll_delivered(cx),
        }
    }

    /// Returns what `bare` makes of a plain stream's transport. If the stream is sealed, or `bare` gives the transport
    /// back, the stream is as it was.
    pub(super) fn into_bare<T>(
        self,
        bare: impl FnOnce(S) -> std::result::Result<T, S>,
    ) -> std::result::Result<T, Self> {
        match self {
            Self::Plain(plain) => {
                bare(plain.into_transport()).map_err(|transport| Self::Plain(Bare::new(transport)))
            }
            sealed @ Self::Sealed(_) => Err(sealed),
        }
    }
}

macro_rules! either {
    ($self:ident, $method:ident($($arg:expr),*)) => {
        match $self.get_mut() {
            Stream::Plain(bare) => Pin::new(bare).$method($($arg),*),
            Stream::Sealed(sealed) => Pin::new(sealed.as_mut()).$method($($arg),*),
        }
    };
}

impl<S: Transport> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        either!(self, poll_read(cx, buf))
    }
}

impl<S: Transport> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        either!(self, poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        either!(self, poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(bare) => bare.is_write_vectored(),
            Self::Sealed(sealed) => sealed.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        either!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        either!(self, poll_shutdown(cx))
    }
}

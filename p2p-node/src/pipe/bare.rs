//! A connection whose bytes travel as they are.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::FirstError;
use super::transport::Transport;

/// The plain form of a pipe. What it adds to the connection is that an error is told to both halves.
pub(super) struct Bare<S> {
    transport: S,
    error: Option<FirstError>,
}

impl<S: Transport> Bare<S> {
    pub(super) fn new(transport: S) -> Self {
        Self { transport, error: None }
    }

    pub(super) fn transport(&self) -> &S {
        &self.transport
    }

    pub(super) fn into_transport(self) -> S {
        self.transport
    }

    /// Waits until the peer has what was written, after both directions have ended.
    pub(super) fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.transport.poll_delivered(cx)
    }

    /// Remembers the first error, for the other half.
    fn on_written<T>(&mut self, written: Poll<Result<T>>) -> Poll<Result<T>> {
        written.map_err(|error| match error.kind() {
            // Said where the peer's end had arrived before, and where we have ended: what is read is not cut by it.
            ErrorKind::BrokenPipe => error,
            _ => self.fail(error),
        })
    }

    fn fail(&mut self, error: Error) -> Error {
        self.error.get_or_insert_with(|| FirstError::new(&error)).told()
    }
}

impl<S: Transport> AsyncRead for Bare<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        if let Err(error) = ready!(Pin::new(&mut self.transport).poll_read(cx, buf)) {
            return Poll::Ready(Err(self.fail(error)));
        }
        match &self.error {
            // The half that writes was told of the error, and this one would be told of an end.
            Some(error) if room > 0 && buf.filled().len() == before => Poll::Ready(Err(error.told())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<S: Transport> AsyncWrite for Bare<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, buf);
        self.on_written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
        self.on_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.transport).poll_flush(cx);
        self.on_written(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let ended = Pin::new(&mut self.transport).poll_shutdown(cx);
        self.on_written(ended)
    }
}

//! A stream that is looked after while its user does not: the peer's questions are answered, and a dead path is noticed.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use p2p_actors::StallGuard;
use p2p_core::node::KeepAlive;
use p2p_core::proof::Session;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::liveness::BEAT;
use super::stream::Stream;
use super::transport::Transport;

/// The time a connection outlives a pipe that has said its last word and not heard the peer's: a question of the peer's
/// that is on its way would be answered by the system with a reset, which destroys what is still being sent.
const LINGER: Duration = Duration::from_secs(20);

/// A stream and the task that looks after it. The lock is held for the length of one call, and by the task every 15 s.
pub(super) struct Tended<S: Transport + Send + 'static> {
    stream: Arc<Mutex<Option<Stream<S>>>>,
    keeper: AbortHandle,
    runtime: Handle,
}

impl<S: Transport + Send + 'static> Tended<S> {
    /// Makes a stream in the form that both ends agreed on, on the current runtime.
    ///
    /// # Errors
    /// An error of a session whose keys are of no use.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn new(transport: S, session: &Session, keep_alive: &KeepAlive) -> Result<Self> {
        let stream = Stream::new(transport, session, keep_alive.ping_after())?;
        let stream = Arc::new(Mutex::new(Some(stream)));
        let runtime = Handle::current();
        let keeper = runtime.spawn(keep(Arc::downgrade(&stream), StallGuard::new(keep_alive)));
        Ok(Self { stream, keeper: keeper.abort_handle(), runtime })
    }

    fn stream(&self) -> MutexGuard<'_, Option<Stream<S>>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the stream.
    ///
    /// # Errors
    /// The error of `act`. The stream is there until its owner gives it away.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Stream<S>) -> Result<T>) -> Result<T> {
        self.stream().as_mut().map_or_else(|| Err(gone()), act)
    }

    fn poll<T>(&self, act: impl FnOnce(Pin<&mut Stream<S>>) -> Poll<Result<T>>) -> Poll<Result<T>> {
        self.stream().as_mut().map_or_else(|| Poll::Ready(Err(gone())), |stream| act(Pin::new(stream)))
    }

    /// Waits until the peer has what was written, after both directions have ended.
    pub(super) fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll(|mut stream| stream.poll_delivered(cx))
    }

    /// Returns what `bare` makes of a plain stream's transport. If the stream is sealed, or `bare` gives the transport
    /// back, all is as it was.
    pub(super) fn into_bare<T>(
        self,
        bare: impl FnOnce(S) -> std::result::Result<T, S>,
    ) -> std::result::Result<T, Self> {
        let mut place = self.stream();
        let taken = place.take().map(|stream| stream.into_bare(bare));
        match taken {
            Some(Ok(bare)) => return Ok(bare),
            Some(Err(stream)) => *place = Some(stream),
            None => {}
        }
        drop(place);
        Err(self)
    }
}

fn gone() -> Error {
    ErrorKind::NotConnected.into()
}

/// Looks after a stream until it is dead or dropped.
async fn keep<S: Transport>(stream: Weak<Mutex<Option<Stream<S>>>>, mut guard: StallGuard) {
    let first = Instant::now() + guard.every().map_or(BEAT, |every| every.min(BEAT));
    let mut next = Some(first);
    while let Some(until) = next {
        sleep_until(until).await;
        let Some(stream) = stream.upgrade() else { return };
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = stream.as_mut() else { return };
        stream.transport().look(&mut guard);
        let looked = guard.every().map(|every| Instant::now() + every);
        next = stream.tend().map(|next| looked.map_or(next, |looked| looked.min(next)));
    }
}

impl<S: Transport + Send + 'static> Drop for Tended<S> {
    fn drop(&mut self) {
        self.keeper.abort();
        let Some(mut stream) = self.stream().take() else { return };
        if stream.wants_to_linger() {
            self.runtime.spawn(async move {
                // Whether the peer ends or time does: nobody is left who wants to know.
                let _ = timeout(LINGER, std::future::poll_fn(|cx| stream.poll_linger(cx))).await;
            });
        }
    }
}

impl<S: Transport + Send + 'static> AsyncRead for Tended<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        self.poll(|stream| stream.poll_read(cx, buf))
    }
}

impl<S: Transport + Send + 'static> AsyncWrite for Tended<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.poll(|stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().as_ref().is_some_and(Stream::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll(|stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
#[path = "tended_tests.rs"]
mod tests;

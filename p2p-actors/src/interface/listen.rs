//! The accept loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

/// How long to leave a listener alone that only gives errors: mostly there are no descriptors left, and whoever
/// has them needs time to give some back.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that came in, with its seat.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) seat: OwnedSemaphorePermit,
}

/// The next connection. With no seat free it waits with one connection in hand; the others queue in the kernel,
/// which is the one place where a flood costs us nothing. `None` when the seats are closed.
pub(crate) async fn accept(listener: &TcpListener, seats: &Arc<Semaphore>) -> Option<Accepted> {
    let mut is_told = false;
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            // It was gone before we took it: the next one may be there already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    warn!(%error, "cannot accept a connection, trying again");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let seat = Arc::clone(seats).acquire_owned().await.ok()?;
        match stream.local_addr() {
            Ok(local) => {
                return Some(Accepted { stream, local, remote, seat });
            }
            Err(error) => debug!(%error, %remote, "a connection was gone at once"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bind;
    use super::*;

    #[tokio::test]
    async fn no_more_are_handed_over_than_there_are_seats() {
        let listener = bind::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let here = listener.local_addr().unwrap();
        let seats = Arc::new(Semaphore::new(2));
        let mut dialled = Vec::new();
        for _ in 0..5 {
            dialled.push(TcpStream::connect(here).await.unwrap());
        }
        let mut seated = Vec::new();
        for _ in 0..2 {
            seated.push(accept(&listener, &seats).await.unwrap());
        }
        assert_eq!(seats.available_permits(), 0);
        let mut third = Box::pin(accept(&listener, &seats));
        assert!(futures_util::FutureExt::now_or_never(&mut third).is_none());
        let left = seated.remove(0);
        assert_eq!(left.remote, dialled[0].local_addr().unwrap());
        drop(left);
        assert!(third.await.is_some());
        seats.close();
        assert!(accept(&listener, &seats).await.is_none());
    }
}

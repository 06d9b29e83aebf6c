//! Pipes whose path dies, or whose peer does not read, in virtual time.

use std::io::ErrorKind;
use std::pin::pin;

use p2p_core::attempt::AttemptId;
use p2p_core::proof::{Cipher, Claim};
use p2p_core::{Seed, peer::Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy_bidirectional, duplex, split};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::pipe::liveness::Between;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// One end of a connection in memory.
struct Cord(DuplexStream, Between);

impl Transport for Cord {
    fn poll_write_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.1 {
            Between::Relay => Pin::new(&mut self.0).poll_flush(cx),
            _ => Pin::new(&mut self.0).poll_shutdown(cx),
        }
    }

    fn wants_farewell(&self) -> bool {
        self.1 == Between::Relay
    }

    fn on_peer_ended(&mut self) {}

    fn on_farewell(&mut self) {}

    fn poll_delivered(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn between(&self) -> Between {
        self.1
    }

    fn look(&self, _: &mut StallGuard) {}
}

impl AsyncRead for Cord {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cord {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn session(caller: bool) -> Session {
    let (one, two) = ([1; 32], [2; 32]);
    Session {
        claim: Claim {
            peer: Identity::generate(&mut Seed::from_u64(caller.into())).id(),
            attempt: AttemptId([0; 16]),
            caller,
        },
        plain: false,
        cipher: Cipher::ChaCha20Poly1305,
        send_key: if caller { one } else { two },
        receive_key: if caller { two } else { one },
        binding: [3; 32],
    }
}

fn end(stream: DuplexStream, between: Between, caller: bool, keep_alive: KeepAlive) -> Tended<Cord> {
    Tended::new(Cord(stream, between), &session(caller), &keep_alive).unwrap()
}

/// Two ends, and the path between them. Aborted, that swallows everything and ends nothing.
fn pair(between: Between) -> (Tended<Cord>, Tended<Cord>, Path) {
    let (a, near) = duplex(100_000);
    let (b, far) = duplex(100_000);
    let ends = [Arc::new(tokio::sync::Mutex::new(near)), Arc::new(tokio::sync::Mutex::new(far))];
    let [near, far] = ends.clone();
    let carrying = tokio::spawn(async move {
        let _ = copy_bidirectional(&mut *near.lock().await, &mut *far.lock().await).await;
    });
    let (a, b) = (end(a, between, true, KeepAlive::default()), end(b, between, false, KeepAlive::default()));
    (a, b, Path { carrying, _ends: ends })
}

struct Path {
    carrying: JoinHandle<()>,
    _ends: [Arc<tokio::sync::Mutex<DuplexStream>>; 2],
}

#[tokio::test(start_paused = true)]
async fn a_dead_path_is_told_to_reader_and_writer_within_a_minute_with_the_reason() {
    for between in [Between::Network, Between::Relay] {
        let (a, mut b, path) = pair(between);
        let (mut read, mut write) = split(a);
        let reading = tokio::spawn(async move { read.read(&mut [0]).await });
        sleep(100 * SECOND).await;
        write.write_all(b"all is well").await.unwrap();
        b.read_exact(&mut [0; 11]).await.unwrap();
        sleep(100 * SECOND).await;
        let before = Instant::now();
        path.carrying.abort();
        let error = reading.await.unwrap().unwrap_err();
        assert!(before.elapsed() <= 60 * SECOND, "{between:?}: {:?}", before.elapsed());
        for error in [error, write.write(b"hello?").await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{between:?}");
            assert!(error.to_string().contains("no sign of life for 4"), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipe_that_nobody_touches_lives() {
    for between in [Between::Network, Between::Relay] {
        let (mut a, mut b, _path) = pair(between);
        sleep(HOUR).await;
        a.write_all(b"still there?").await.unwrap();
        let mut heard = [0; 12];
        b.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"still there?");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_for_an_hour_is_no_dead_one() {
    for between in [Between::Network, Between::Relay] {
        let (a, mut b, _path) = pair(between);
        let data = vec![7; 2_000_000];
        let (mut read, mut write) = split(a);
        let reading = tokio::spawn(async move { read.read(&mut [0]).await });
        let expected = data.clone();
        let writing = tokio::spawn(async move {
            write.write_all(&data).await?;
            write.shutdown().await
        });
        sleep(HOUR).await;
        assert!(!writing.is_finished() && !reading.is_finished(), "{between:?}");
        let mut heard = Vec::new();
        b.read_to_end(&mut heard).await.unwrap();
        assert!(heard == expected);
        writing.await.unwrap().unwrap();
        b.shutdown().await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_nobody_still_answers() {
    let (a, b) = duplex(1_000);
    let mut a = end(a, Between::Network, true, KeepAlive::default());
    let mut b = end(b, Between::Network, false, KeepAlive::OFF);
    sleep(HOUR).await;
    a.write_all(b"x").await.unwrap();
    b.read_exact(&mut [0]).await.unwrap();
}

/// The peer reads a question after the end of the one who asked it. Its answer must find a connection: a system that has
/// none answers with a reset, and throws away what it still has to send.
#[tokio::test(start_paused = true)]
async fn a_connection_outlives_a_pipe_whose_peer_may_still_have_something_to_say() {
    let (a, mut b) = duplex(1_000);
    let mut a = end(a, Between::Network, true, KeepAlive::default());
    sleep(20 * SECOND).await;
    a.write_all(b"all of it").await.unwrap();
    a.shutdown().await.unwrap();
    drop(a);
    // Nobody has gone yet.
    b.write_all(b"").await.unwrap();
    tokio::task::yield_now().await;
    let mut b = end(b, Between::Network, false, KeepAlive::default());
    let mut heard = Vec::new();
    b.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"all of it");
    b.flush().await.unwrap();
    // It waits for a while, and for no longer.
    let mut lost = pin!(async {
        while b.write_all(b"?").await.is_ok() {
            sleep(SECOND).await;
        }
    });
    tokio::time::timeout(2 * LINGER, &mut lost).await.unwrap();
}

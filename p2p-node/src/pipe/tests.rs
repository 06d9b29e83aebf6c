//! Pipes over real loopback sockets, and over what is no socket.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::FutureExt;
use p2p_actors::{IdleConnection, ProvenConnection, StallGuard};
use p2p_core::Seed;
use p2p_core::attempt::{AttemptId, Path, Role, Way};
use p2p_core::peer::Identity;
use p2p_core::proof::Claim;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;

use super::liveness::Between;
use super::stream::Stream;
use super::transport::Transport;
use super::*;

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dialled, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

pub(super) fn session(caller: bool, plain: bool, cipher: Cipher) -> Session {
    let (one, two) = ([1; 32], [2; 32]);
    Session {
        claim: Claim {
            peer: Identity::generate(&mut Seed::from_u64(caller.into())).id(),
            attempt: AttemptId([0; 16]),
            role: if caller { Role::Caller } else { Role::Answerer },
        },
        plain,
        cipher,
        send_key: if caller { one } else { two },
        receive_key: if caller { two } else { one },
        binding: [3; 32],
    }
}

fn pipe(stream: TcpStream, session: Session) -> Pipe {
    let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let info = ConnectionInfo::new(Way::Direct, Path::Machine, session.claim.role, local, remote);
    let connection = IdleConnection::Tcp(stream.into_std().unwrap());
    Pipe::new(ProvenConnection { connection, session, info, place: None }, &KeepAlive::default()).unwrap()
}

async fn pair(plain: bool, cipher: Cipher) -> (Pipe, Pipe) {
    let (a, b) = tcp().await;
    (pipe(a, session(true, plain, cipher)), pipe(b, session(false, plain, cipher)))
}

#[tokio::test]
async fn bytes_arrive_whole_in_order_and_both_ways() {
    for (plain, cipher) in
        [(true, Cipher::Aes256Gcm), (false, Cipher::Aes256Gcm), (false, Cipher::ChaCha20Poly1305)]
    {
        let (a, b) = pair(plain, cipher).await;
        let mut data = vec![0; 5_000_000];
        Seed::from_u64(1).fill(&mut data);
        let stream = |pipe: Pipe, data: Vec<u8>| async move {
            let (mut read, mut write) = tokio::io::split(pipe);
            let send = async {
                write.write_all(&data).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (_, length) = tokio::join!(send, read.read_to_end(&mut got));
            length.unwrap();
            got
        };
        let reversed: Vec<u8> = data.iter().rev().copied().collect();
        let (at_a, at_b) = tokio::join!(stream(a, data.clone()), stream(b, reversed.clone()));
        assert!(at_a == reversed && at_b == data);
    }
}

#[tokio::test]
async fn parts_written_at_once_arrive_in_order() {
    for plain in [true, false] {
        let (mut a, mut b) = pair(plain, Cipher::Aes256Gcm).await;
        assert_eq!(a.is_write_vectored(), plain);
        let parts = ["a head", "", " and", " a tail"].map(|part| IoSlice::new(part.as_bytes()));
        let some = a.write_vectored(&parts).await.unwrap();
        assert!(some == 17 || !plain && some > 0, "{some} bytes");
        let mut got = vec![0; some];
        b.read_exact(&mut got).await.unwrap();
        assert_eq!(got, b"a head and a tail"[..some]);
    }
}

#[tokio::test]
async fn a_question_needs_no_flush_even_when_the_kernel_is_full() {
    let (mut a, mut b) = pair(false, Cipher::Aes256Gcm).await;
    let question = vec![9; 8_000_000];
    let ask = async {
        a.write_all(&question).await.unwrap();
        let mut answer = [0; 2];
        a.read_exact(&mut answer).await.unwrap();
        answer
    };
    let answer = async {
        let mut got = vec![0; question.len()];
        b.read_exact(&mut got).await.unwrap();
        b.write_all(b"ok").await.unwrap();
        got
    };
    let (answer, got) = tokio::join!(ask, answer);
    assert_eq!(&answer, b"ok");
    assert!(got == question);
}

#[tokio::test]
async fn an_error_is_told_to_both_halves_and_never_reads_as_an_end() {
    for plain in [true, false] {
        let (a, b) = tcp().await;
        let mut a = pipe(a, session(true, plain, Cipher::Aes256Gcm));
        b.set_zero_linger().unwrap();
        drop(b);
        // Whoever writes is told of the reset by the system, once.
        let error = loop {
            if let Err(error) = a.write_all(b"hello?").await {
                break error;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let mut rest = Vec::new();
        assert_eq!(a.read_to_end(&mut rest).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn closed_reads_as_end_and_cut_as_an_error() {
    let (mut a, mut b) = pair(false, Cipher::Aes256Gcm).await;
    a.write_all(b"bye").await.unwrap();
    a.shutdown().await.unwrap();
    assert_eq!(a.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut got = Vec::new();
    b.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"bye");
    // The other direction is still open.
    b.write_all(b"and you").await.unwrap();
    let mut heard = [0; 7];
    a.read_exact(&mut heard).await.unwrap();
    drop(b);
    assert_eq!(a.read(&mut heard).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn nothing_of_the_users_shows_on_the_wire_and_tampering_is_told() {
    let (a, mut wire) = tcp().await;
    let mut a = pipe(a, session(true, false, Cipher::Aes256Gcm));
    a.write_all(b"attack at dawn").await.unwrap();
    let mut seen = vec![0; 14 + record::OVERHEAD];
    wire.read_exact(&mut seen).await.unwrap();
    assert!(!seen.windows(6).any(|part| part == b"attack"));

    let (b, mut wire) = tcp().await;
    let mut b = pipe(b, session(false, false, Cipher::Aes256Gcm));
    seen[5] ^= 1;
    wire.write_all(&seen).await.unwrap();
    assert_eq!(b.read(&mut [0; 9]).await.unwrap_err().kind(), ErrorKind::InvalidData);
}

#[tokio::test]
async fn only_a_plain_pipe_gives_its_socket_away() {
    let (a, b) = pair(false, Cipher::Aes256Gcm).await;
    let mut a = a.into_tcp().unwrap_err();
    assert_eq!(a.cipher(), Some(Cipher::Aes256Gcm));
    a.write_all(b"still works").await.unwrap();
    drop(b);
    let (a, mut b) = pair(true, Cipher::Aes256Gcm).await;
    let mut a = a.into_tcp().unwrap();
    a.write_all(b"bare").await.unwrap();
    let mut got = [0; 4];
    b.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"bare");
}

#[tokio::test]
async fn a_quiet_pipe_is_small() {
    let (mut a, mut b) = pair(false, Cipher::Aes256Gcm).await;
    a.write_all(b"x").await.unwrap();
    b.read_exact(&mut [0]).await.unwrap();
    let held = |stream: &mut Stream<ActiveConnection>| match stream {
        Stream::Sealed(sealed) => Ok(sealed.held()),
        Stream::Plain(_) => panic!("it is encrypted"),
    };
    let held = b.stream.with(held).unwrap();
    assert!(held <= 8 * 1024, "{held} bytes");
}

/// Says that it has room, always.
impl Transport for DuplexStream {
    fn wants_farewell(&self) -> bool {
        true
    }

    fn on_peer_ended(&mut self) {}

    fn on_farewell(&mut self) {}

    fn poll_delivered(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(self).poll_flush(cx)
    }

    fn poll_write_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn between(&self) -> Between {
        Between::Relay
    }

    fn look(&self, _: &mut StallGuard) {}
}

#[tokio::test]
async fn a_pipe_runs_on_what_is_no_socket_and_stays_whole_when_asked_for_one() {
    for plain in [true, false] {
        let (a, b) = tokio::io::duplex(1_000);
        let a = Stream::new(a, &session(true, plain, Cipher::ChaCha20Poly1305), None).unwrap();
        let mut b = Stream::new(b, &session(false, plain, Cipher::ChaCha20Poly1305), None).unwrap();
        let mut a = a.into_bare(Err::<TcpStream, _>).err().unwrap();
        let mut data = vec![0; 300_000];
        Seed::from_u64(2).fill(&mut data);
        let send = async {
            a.write_all(&data).await.unwrap();
            a.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, length) = tokio::join!(send, b.read_to_end(&mut got));
        length.unwrap();
        assert!(got == data, "plain: {plain}");
        b.write_all(b"well received").await.unwrap();
        b.shutdown().await.unwrap();
        let mut answer = String::new();
        a.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "well received");
    }
}

/// Fills a pipe until the kernel takes no more, leaving sealed bytes behind.
async fn fill(pipe: &mut Pipe) -> usize {
    let mut total = 0;
    let chunk = vec![7; 64 * 1024];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), pipe.write(&chunk)).await {
        total += written.unwrap();
    }
    total
}

#[tokio::test]
async fn a_cancelled_write_leaves_nothing_stuck() {
    let (mut a, mut b) = pair(false, Cipher::Aes256Gcm).await;
    let total = fill(&mut a).await;
    // The write was cancelled while it waited; now this end only reads.
    let ask = async { a.read_exact(&mut [0]).await.unwrap() };
    let answer = async {
        let mut got = vec![0; total];
        b.read_exact(&mut got).await.unwrap();
        b.write_all(b"!").await.unwrap();
    };
    tokio::join!(ask, answer);
}

#[tokio::test]
async fn a_reader_in_another_task_sends_on_what_a_writer_left() {
    let (a, mut b) = pair(false, Cipher::Aes256Gcm).await;
    let (mut read, mut write) = tokio::io::split(a);
    let reading = tokio::spawn(async move { read.read_exact(&mut [0]).await.map(|_| read) });
    tokio::task::yield_now().await;
    let mut total = 0;
    let chunk = vec![7; 64 * 1024];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), write.write(&chunk)).await {
        total += written.unwrap();
    }
    let mut got = vec![0; total];
    b.read_exact(&mut got).await.unwrap();
    b.write_all(b"!").await.unwrap();
    reading.await.unwrap().unwrap();
    drop(write);
}

#[tokio::test]
async fn where_no_end_is_told_below_both_say_farewell_when_they_have_read_everything() {
    for is_read in [true, false] {
        let (a, b) = tokio::io::duplex(1_000);
        let mut a = Stream::new(a, &session(true, false, Cipher::ChaCha20Poly1305), None).unwrap();
        let mut b = Stream::new(b, &session(false, false, Cipher::ChaCha20Poly1305), None).unwrap();
        let mut heard = Vec::new();
        a.write_all(b"question").await.unwrap();
        a.shutdown().await.unwrap();
        b.write_all(b"answer").await.unwrap();
        b.shutdown().await.unwrap();
        a.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"answer");
        {
            let mut waiting = std::pin::pin!(poll_fn(|cx| a.poll_delivered(cx)));
            assert!(waiting.as_mut().now_or_never().is_none(), "nobody has read the question");
        }
        if is_read {
            b.read_to_end(&mut heard).await.unwrap();
            poll_fn(|cx| b.poll_delivered(cx)).await.unwrap();
            poll_fn(|cx| a.poll_delivered(cx)).await.unwrap();
        } else {
            drop(b);
            let error = poll_fn(|cx| a.poll_delivered(cx)).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        }
    }
}

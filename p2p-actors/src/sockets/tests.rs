//! Sockets of one owner over the loopback of this machine.

use std::future::Future;
use std::time::Duration;

use actix::Handler;
use bytes::Bytes;
use p2p_core::attempt::{AttemptId, DialError, Path, Role, Way};
use p2p_core::node::{ConnectError, ConnectionInfo, Established, KeepAlive, NicId};
use p2p_core::peer::Identity;
use p2p_core::proof::{Cipher, Claim, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::interface::InterfaceActor;

/// Far longer than anything here takes: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

const THE_OWNER: OwnerRun = OwnerRun { owner: Owner::Nic(NicId(0)), run: 1 };

/// A node that hands on what it is told.
struct Listening(mpsc::UnboundedSender<FromSocket>, mpsc::UnboundedSender<OwnerRun>);

impl Actor for Listening {
    type Context = Context<Self>;
}

impl Handler<FromSocket> for Listening {
    type Result = ();

    fn handle(&mut self, from: FromSocket, _: &mut Context<Self>) {
        let _ = self.0.send(from);
    }
}

impl Handler<OwnerGone> for Listening {
    type Result = ();

    fn handle(&mut self, OwnerGone(owner): OwnerGone, _: &mut Context<Self>) {
        let _ = self.1.send(owner);
    }
}

struct Watched {
    owner: actix::Addr<InterfaceActor>,
    told: mpsc::UnboundedReceiver<FromSocket>,
    gone: mpsc::UnboundedReceiver<OwnerRun>,
}

impl Watched {
    fn ask(&self, acts: impl IntoIterator<Item = SocketAct>) {
        acts.into_iter().for_each(|act| self.owner.do_send(ToOwner::Perform(act)));
    }

    async fn whole(&mut self) -> FromSocket {
        self.told.recv().await.expect("the owner lives")
    }

    async fn next(&mut self) -> SocketEvent {
        self.whole().await.event
    }
}

fn tell<F: Future<Output = ()>>(story: impl FnOnce(Watched, Arc<Semaphore>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (tell, told) = mpsc::unbounded_channel();
        let (tell_gone, gone) = mpsc::unbounded_channel();
        let node = Listening(tell, tell_gone).start();
        let reporting = Reporting {
            node: node.clone().recipient(),
            gone: node.recipient(),
            next: Arc::new(AtomicU64::new(1)),
        };
        let seats = Arc::new(Semaphore::new(2));
        let sockets = OwnedSockets::new(THE_OWNER, reporting, Arc::clone(&seats));
        let owner = InterfaceActor(sockets).start();
        let story = story(Watched { owner, told, gone }, seats);
        timeout(PATIENCE, story).await.expect("the story to end");
    });
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A port that is free.
fn free() -> SocketAddr {
    std::net::TcpListener::bind(any()).unwrap().local_addr().unwrap()
}

async fn arrived(told: &mut Watched) -> (TcpStream, ConnectionId) {
    told.ask([SocketAct::Listen { at: any(), is_throwaway: false }]);
    let SocketEvent::Listening { at, outcome: Ok(local) } = told.next().await else { panic!("no listener") };
    assert_eq!((at, local.ip()), (any(), any().ip()));
    let there = TcpStream::connect(local).await.unwrap();
    let SocketEvent::Accepted { connection, at, remote } = told.next().await else { panic!("nobody came") };
    assert_eq!((at, remote), (local, there.local_addr().unwrap()));
    assert_eq!(connection.0 % 2, 1, "even numbers are the node's");
    (there, connection)
}

fn established(connection: ConnectionId) -> Box<Established> {
    let claim =
        Claim { peer: Identity::from_bytes([1; 32]).id(), attempt: AttemptId([1; 16]), role: Role::Caller };
    let session = Session {
        claim,
        plain: true,
        cipher: Cipher::Aes256Gcm,
        send_key: [1; 32],
        receive_key: [2; 32],
        binding: [3; 32],
    };
    let info = ConnectionInfo::new(Way::Direct, Path::Machine, Role::Caller, any(), any());
    Box::new(Established { connection, session, info })
}

fn hand_over(
    told: &Watched,
    connection: ConnectionId,
) -> oneshot::Receiver<Result<ProvenConnection, ConnectError>> {
    let (reply, outcome) = oneshot::channel();
    let hand_over = HandOver {
        established: established(connection),
        taker: Taker::Caller(reply),
        keep_alive: KeepAlive::default(),
    };
    told.owner.do_send(ToOwner::HandOver(hand_over));
    outcome
}

#[test]
fn a_connection_is_read_as_far_as_asked_and_then_handed_over() {
    tell(|mut told, seats| async move {
        let (mut there, connection) = arrived(&mut told).await;
        assert_eq!(seats.available_permits(), 1);
        there.write_all(b"hello and more").await.unwrap();
        told.ask([SocketAct::Read { connection, at_most: 5 }]);
        let bytes = Bytes::from_static(b"hello");
        assert_eq!(told.next().await, SocketEvent::Bytes { connection, bytes });
        told.ask([SocketAct::Write { connection, bytes: Bytes::from_static(b"welcome") }]);
        let proven = hand_over(&told, connection).await.unwrap().unwrap();
        assert_eq!(seats.available_permits(), 2, "its seat is free");
        let mut stream = proven.connection.into_stream().unwrap();
        stream.write_all(b", go on").await.unwrap();
        let mut rest = [0; 9];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b" and more");
        let mut heard = [0; 14];
        there.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"welcome, go on");
        // It is the user's, and nobody here has it any more.
        assert!(matches!(hand_over(&told, connection).await, Ok(Err(ConnectError::Socket(_)))));
    });
}

#[test]
fn a_last_word_is_sent_before_the_end_and_the_seat_is_free() {
    tell(|mut told, seats| async move {
        let (mut there, connection) = arrived(&mut told).await;
        let bytes = Bytes::from_static(b"we are busy");
        told.ask([SocketAct::Write { connection, bytes }, SocketAct::Close { connection }]);
        let mut heard = Vec::new();
        there.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"we are busy");
        assert_eq!(seats.available_permits(), 2);
        // What comes after is no longer of interest.
        told.ask([SocketAct::Read { connection, at_most: 1 }, SocketAct::Close { connection }]);
        let (there, connection) = arrived(&mut told).await;
        told.ask([SocketAct::Read { connection, at_most: 1 }]);
        drop(there);
        assert_eq!(told.next().await, SocketEvent::Lost { connection });
    });
}

#[test]
fn a_dial_leads_to_a_connection_or_tells_why_not() {
    tell(|mut told, _| async move {
        let server = TcpListener::bind(any()).await.unwrap();
        let (here, to) = (free(), server.local_addr().unwrap());
        for from in [None, Some(here)] {
            let connection = ConnectionId(0);
            told.ask([SocketAct::Dial { connection, from, to, ttl: None }]);
            let (_, remote) = server.accept().await.unwrap();
            assert_eq!(told.next().await, SocketEvent::Connected { connection, local: remote, remote: to });
            assert!(from.is_none_or(|from| from == remote));
            told.ask([SocketAct::Close { connection }]);
        }
        let connection = ConnectionId(2);
        told.ask([SocketAct::Dial { connection, from: None, to: free(), ttl: None }]);
        let error = DialError::Refused;
        assert_eq!(told.next().await, SocketEvent::DialFailed { connection, error });
    });
}

#[test]
fn a_link_closed_and_opened_in_one_go_comes_from_its_port_again() {
    tell(|mut told, _| async move {
        let server = TcpListener::bind(any()).await.unwrap();
        let link = StunLink { from: free(), to: server.local_addr().unwrap() };
        told.ask([SocketAct::OpenLink { link }]);
        for _ in 0..3 {
            let (mut stream, from) = server.accept().await.unwrap();
            assert_eq!(from, link.from);
            assert!(matches!(told.next().await, SocketEvent::LinkUp { link: up, .. } if up == link));
            let bytes = b"where am I?".to_vec();
            told.ask([SocketAct::WriteLink { link, bytes }]);
            stream.read_exact(&mut [0; 11]).await.unwrap();
            stream.write_all(b"there").await.unwrap();
            let bytes = Bytes::from_static(b"there");
            assert_eq!(told.next().await, SocketEvent::LinkBytes { link, bytes });
            told.ask([SocketAct::CloseLink { link }, SocketAct::OpenLink { link }]);
            let error = stream.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn nobody_floods_the_node() {
    tell(|mut told, _| async move {
        let server = TcpListener::bind(any()).await.unwrap();
        let link = StunLink { from: free(), to: server.local_addr().unwrap() };
        told.ask([SocketAct::OpenLink { link }]);
        let (mut stream, _) = server.accept().await.unwrap();
        told.next().await;
        stream.write_all(&[7; 100_000]).await.unwrap();
        let (from, flood) = (free(), UdpSocket::bind(any()).await.unwrap());
        let to = flood.local_addr().unwrap();
        told.ask([SocketAct::SendDatagram { from, to, bytes: vec![1] }]);
        flood.recv(&mut [0]).await.unwrap();
        for _ in 0..100 {
            flood.send_to(&[8], from).await.unwrap();
        }
        let mut waiting = vec![told.whole().await, told.whole().await];
        let kinds = waiting.iter().map(|from| std::mem::discriminant(&from.event));
        assert_ne!(kinds.clone().next(), kinds.last(), "one from each of them");
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(told.told.try_recv().is_err(), "no more before those are taken up");
        let (mut of_link, mut of_port) = (0, 0);
        while of_link < 100_000 || of_port < 100 {
            let from = match waiting.pop() {
                Some(from) => from,
                None => told.whole().await,
            };
            match &from.event {
                SocketEvent::LinkBytes { bytes, .. } => of_link += bytes.len(),
                SocketEvent::Datagram { .. } => of_port += 1,
                other => panic!("{other:?}"),
            }
            drop(from.taken_up);
        }
    });
}

#[test]
fn a_throw_away_port_lets_nobody_in_and_tells_nobody() {
    tell(|mut told, seats| async move {
        let at = free();
        told.ask([SocketAct::Listen { at, is_throwaway: true }]);
        let mut there = loop {
            if let Ok(there) = TcpStream::connect(at).await {
                break there;
            }
        };
        let error = there.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(seats.available_permits(), 2);
        told.ask([SocketAct::Unlisten { at }, SocketAct::Listen { at: any(), is_throwaway: false }]);
        assert!(matches!(told.next().await, SocketEvent::Listening { outcome: Ok(_), .. }));
        while TcpStream::connect(at).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn what_cannot_be_had_is_told() {
    tell(|mut told, _| async move {
        let taken = TcpListener::bind(any()).await.unwrap();
        let at = taken.local_addr().unwrap();
        told.ask([SocketAct::Listen { at, is_throwaway: false }]);
        let SocketEvent::Listening { outcome: Err(error), .. } = told.next().await else { panic!("{at}") };
        assert_eq!(error.kind, std::io::ErrorKind::AddrInUse);
        let port = UdpSocket::bind(any()).await.unwrap();
        let from = port.local_addr().unwrap();
        told.ask([SocketAct::SendDatagram { from, to: at, bytes: vec![1] }]);
        let why = std::io::ErrorKind::AddrInUse;
        assert_eq!(told.next().await, SocketEvent::Unreachable { at: from, to: at, why });
        let link = StunLink { from: any(), to: free() };
        told.ask([SocketAct::OpenLink { link }]);
        let why = Some(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(told.next().await, SocketEvent::LinkDown { link, why });
    });
}

#[test]
fn at_its_end_everything_is_closed_and_the_node_is_told() {
    tell(|mut told, seats| async move {
        let (mut there, _) = arrived(&mut told).await;
        told.owner.do_send(ToOwner::End);
        assert_eq!(told.gone.recv().await, Some(THE_OWNER));
        assert!(matches!(there.read(&mut [0]).await, Ok(0) | Err(_)), "it was closed");
        assert_eq!(seats.available_permits(), 2);
    });
}

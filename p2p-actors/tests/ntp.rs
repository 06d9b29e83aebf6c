//! A node asks NTP servers over the loopback of this machine.

mod nodes;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::SystemTime;

use nodes::{PATIENCE, alone};
use p2p_actors::{Handle, StartError, spawn};
use p2p_core::UnixTime;
use p2p_core::clock::ntp::{Failure, Kiss, MOST_SERVERS};
use p2p_core::node::{ConfigFault, NodeConfig, NtpServer, NtpStatus};
use p2p_core::sim::ntp::NtpServer as Answers;

fn system_time() -> UnixTime {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    UnixTime::default().after(unix)
}

/// A server on a thread of its own, until it is dropped.
struct Server {
    address: SocketAddr,
    socket: UdpSocket,
    is_over: Arc<AtomicBool>,
    /// Who asked.
    askers: Arc<Mutex<Vec<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(answers: Answers) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (serving, is_over) = (socket.try_clone().unwrap(), Arc::new(AtomicBool::new(false)));
        let askers = Arc::new(Mutex::new(Vec::new()));
        let (over, seen) = (Arc::clone(&is_over), Arc::clone(&askers));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = serving.recv_from(&mut buffer) {
                let received = system_time();
                if over.load(Ordering::SeqCst) {
                    return;
                }
                seen.lock().unwrap().push(from);
                if let Some(answer) = answers.answer(&buffer[..length], received, system_time()) {
                    serving.send_to(&answer, from).unwrap();
                }
            }
        });
        Self { address: socket.local_addr().unwrap(), socket, is_over, askers, thread: Some(thread) }
    }

    fn name(&self) -> NtpServer {
        NtpServer::from(self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.socket.send_to(b"", self.address).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn config(ntp: Vec<NtpServer>) -> NodeConfig {
    alone(7).with_ntp(ntp)
}

async fn told(node: &Handle, wanted: impl Fn(&NtpStatus) -> bool) -> NtpStatus {
    let mut status = node.status();
    let waiting = status.wait_for(|status| wanted(&status.ntp));
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("the node lives").ntp.clone()
}

#[tokio::test]
async fn most_servers_tell_the_time_and_the_others_are_named() {
    // Two agree that the clock of this machine is 90 s behind, one lies, one is dead, one cannot be found.
    let servers = [90_000_000, 3_600_000_000, 90_000_200].map(|ahead| Server::start(Answers::ahead(ahead)));
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut names: Vec<NtpServer> = servers.iter().map(Server::name).collect();
    names.push(NtpServer::new("127.0.0.1", dead));
    // Longer than any label may be: refused without asking anybody.
    names.push(NtpServer::new("x".repeat(300), 123));
    let node = spawn(config(names.clone()), None).await.unwrap();
    let ntp = told(&node, |ntp| ntp.measured.is_some()).await;

    let measured = ntp.measured.unwrap();
    assert!(measured.offset(measured.at()).contains(90_000_000_000), "{measured:?}");
    assert_eq!(ntp.servers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
    let agreed: Vec<_> = ntp.servers.iter().map(|(_, said)| said.word.map(|word| word.is_agreed)).collect();
    assert_eq!(agreed, [Some(true), Some(false), Some(true), None, None]);
    let failures: Vec<_> = ntp.servers.iter().map(|(_, said)| said.failure.as_ref()).collect();
    assert_eq!(failures[..3], [None; 3]);
    let refused = Failure::Unreachable(io::ErrorKind::ConnectionRefused);
    assert!([&refused, &Failure::NoAnswer].contains(&failures[3].unwrap()), "{failures:?}");
    assert!(matches!(failures[4], Some(Failure::Unresolved(_))), "{failures:?}");
    node.close().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_that_refuses_gets_its_socket_closed() {
    let server = Server::start(Answers::kissing(*b"DENY"));
    let node = spawn(config(vec![server.name()]), None).await.unwrap();
    let ntp = told(&node, |ntp| ntp.servers.iter().any(|(_, said)| said.failure.is_some())).await;
    assert_eq!(ntp.servers[0].1.failure, Some(Failure::Denied(Kiss::DENY)));
    assert_eq!(ntp.measured, None);
    let asker = server.askers.lock().unwrap()[0];
    let knocking = UdpSocket::bind("127.0.0.1:0").unwrap();
    knocking.connect(asker).unwrap();
    knocking.send(b"anybody there?").unwrap();
    // Loopback says so at once.
    assert_eq!(knocking.take_error().unwrap().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    node.close().await;
}

#[tokio::test]
async fn nobody_is_asked_unless_configured_and_not_too_many() {
    let node = spawn(config(Vec::new()), None).await.unwrap();
    assert_eq!(node.status().borrow().ntp, NtpStatus::default());
    node.close().await;
    let many = vec![NtpServer::new("127.0.0.1", 123); MOST_SERVERS + 1];
    let refused = spawn(config(many), None).await;
    assert!(matches!(refused, Err(StartError::Config(ConfigFault::NtpServers(_)))), "{refused:?}");
}

/// A client we did not write understands our packets as we do.
#[test]
fn another_implementation_agrees() {
    for ahead in [0, 90_000_000, -2_500_000] {
        let server = Server::start(Answers::ahead(ahead));
        let client = rsntp::SntpClient::new();
        let told = client.synchronize(server.address.to_string()).unwrap();
        let (offset, delay) = (told.clock_offset().as_secs_f64(), told.round_trip_delay().as_secs_f64());
        let off = (offset - ahead as f64 / 1e6).abs();
        assert!(off <= delay / 2.0 + 10e-6, "{offset} s is not {ahead} us, round trip {delay} s");
        assert_eq!(told.stratum(), 2);
    }
}

//! A coturn of our own on loopback, where it is installed.
#![allow(dead_code, reason = "not everybody needs everything")]

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use p2p_core::Seed;
use p2p_core::stun::{Message, Transport};

/// A running coturn, which ends when this is dropped.
pub(crate) struct Coturn {
    process: Child,
    command: Command,
    _folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
}

impl Coturn {
    /// Starts one that knows `user` in realm `p2p` and relays to loopback; `None` when this machine has none.
    pub(crate) async fn start(user: &str, password: &str) -> Option<Self> {
        Self::with(user, password, &[]).await
    }

    /// Starts one with more options.
    pub(crate) async fn with(user: &str, password: &str, options: &[&str]) -> Option<Self> {
        let address = UdpSocket::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
        let folder = tempfile::tempdir().ok()?;
        let mut command = Command::new("turnserver");
        command
            .args(["-n", "--lt-cred-mech", "--realm=p2p", "--allow-loopback-peers", "--no-cli", "--no-tls"])
            .args(["--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--log-file=stdout"])
            .arg(format!("--user={user}:{password}"))
            .arg(format!("--listening-port={}", address.port()))
            .arg(format!("--pidfile={}", folder.path().join("pid").display()))
            .args(options)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().ok()?;
        let mut coturn = Self { process, command, _folder: folder, address };
        coturn.is_up().await.then_some(coturn)
    }

    /// Returns the id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills it without a farewell to anybody.
    pub(crate) fn kill(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again at the same address. Returns true when it is up.
    pub(crate) async fn again(&mut self) -> bool {
        self.kill();
        match self.command.spawn() {
            Ok(process) => self.process = process,
            Err(_) => return false,
        }
        self.is_up().await
    }

    async fn is_up(&mut self) -> bool {
        let patience = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(self.address).is_err() || !answers(self.address) {
            if Instant::now() > patience {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }
}

/// Tells whether it answers over UDP, where it listens a little later.
fn answers(address: SocketAddr) -> bool {
    let ask = || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let question = Message::binding(&mut Seed::from_u64(1)).encode(Transport::Udp);
        socket.send(&question.map_err(std::io::Error::other)?)?;
        socket.recv(&mut [0; 1_500])
    };
    ask().is_ok()
}

impl Drop for Coturn {
    fn drop(&mut self) {
        self.kill();
    }
}

//! The plainest punch: two programs with ordinary sockets dial each other's mapped address.
//!
//! Traversal code is measured against it, and the lab itself is judged by it. It has no knowledge of NATs, and no
//! clock but the one that both programs share.

mod simulated;

pub use simulated::{SimulatedCrossingError, cross_simulated};

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::error::LabError;
use crate::host::Host;
use crate::lab::Lab;

/// The port on which [`cross`] asks for addresses.
pub const SOURCE_PORT: u16 = 3_000;
/// The port that a dials from; the other one dials from the next port.
const LOCAL_PORT: u16 = 40_001;
/// The most time for a step on the way to the punch.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time for both programs to get ready.
const RUN_UP: Duration = Duration::from_millis(50);

/// The end of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// The dial ended with a connection.
    Connected,
    /// The dial was ended by a RST against our SYN.
    Refused,
    /// The dial was ended by a RST after the other side's SYN had come.
    Reset,
    /// The dial was ended by an ICMP error.
    Unreachable,
    /// The dial was given up without an answer.
    Silent,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
        })
    }
}

impl Serialize for Ended {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One side of a crossing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Dialled {
    /// The end of its dial.
    pub ended: Ended,
    /// The time from the agreed moment to that end.
    pub after: Duration,
    /// The time by which the dial itself was late, which is a busy machine's fault.
    pub late: Duration,
}

/// The outcome of a punch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Crossing {
    /// The side that dials at the agreed moment.
    pub first: Dialled,
    /// The side that dials later by the skew.
    pub second: Dialled,
}

impl Crossing {
    /// Returns the time until both had a connection, if both had.
    pub fn met_after(&self) -> Option<Duration> {
        let both = [self.first, self.second];
        both.iter()
            .all(|side| side.ended == Ended::Connected)
            .then(|| self.first.after.max(self.second.after))
    }
}

/// A server that tells each client the client's address as seen from here. It ends when this is dropped.
#[derive(Debug)]
pub struct SourceServer {
    listeners: Vec<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

impl SourceServer {
    /// Starts a server on these ports of all addresses of a host. Connections are kept until the end, as a mapping
    /// may go with them.
    ///
    /// # Errors
    /// [`LabError`] when a port is taken.
    pub fn new(host: &Host, ports: &[u16]) -> Result<Self, LabError> {
        let step = || LabError::system("listening for those who ask for their address");
        let ends: Vec<SocketAddr> = host
            .addresses()
            .iter()
            .flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port)))
            .collect();
        let listen = || ends.into_iter().map(TcpListener::bind).collect::<io::Result<Vec<_>>>();
        let mut server = Self { listeners: host.enter(listen)?.map_err(step())?, threads: Vec::new() };
        for listener in &server.listeners {
            let listener = listener.try_clone().map_err(step())?;
            let serve = move || {
                let mut kept = Vec::new();
                while let Ok((mut stream, from)) = listener.accept() {
                    // A client that has gone does not want the answer.
                    let _ = writeln!(stream, "{from}");
                    kept.push(stream);
                }
            };
            server.threads.push(host.spawn(serve)?);
        }
        Ok(server)
    }
}

impl Drop for SourceServer {
    fn drop(&mut self) {
        for listener in &self.listeners {
            // This wakes the thread that accepts, which would otherwise keep the namespace alive.
            if let Err(error) = SockRef::from(listener).shutdown(Shutdown::Both) {
                eprintln!("natlab: cannot end a server: {error}");
            }
        }
        for thread in self.threads.drain(..) {
            // A panic there has been reported already.
            let _ = thread.join();
        }
    }
}

/// Asks a [`SourceServer`] for the mapped address of a local port. The connection must be kept as long as the mapping
/// is needed. It must be called inside a host.
///
/// # Errors
/// [`io::Error`] when the server cannot be reached, or its answer is not an address.
pub fn ask_source(local: u16, server: IpAddr) -> io::Result<(SocketAddr, TcpStream)> {
    let socket = bound(local, server)?;
    socket.connect_timeout(&SockAddr::from(SocketAddr::new(server, SOURCE_PORT)), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 64 && stream.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    let text = String::from_utf8_lossy(&line).into_owned();
    let mapped = text.parse().map_err(|_| io::Error::other(format!("`{text}` is no address")))?;
    Ok((mapped, stream))
}

/// Makes a TCP socket on a local port that others may share.
fn bound(local: u16, towards: IpAddr) -> io::Result<Socket> {
    let (domain, any): (_, IpAddr) = match towards {
        IpAddr::V4(_) => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(any, local)))?;
    Ok(socket)
}

/// Dials `to` from a local port at `at`. It must be called inside a host.
fn dial(
    local: u16,
    to: SocketAddr,
    at: Instant,
    start: Instant,
    patience: Duration,
) -> io::Result<(Dialled, Option<TcpStream>)> {
    let socket = bound(local, to.ip())?;
    thread::sleep(at.saturating_duration_since(Instant::now()));
    let late = Instant::now().saturating_duration_since(at);
    let ended = connect(&socket, to, patience)?;
    let after = start.elapsed();
    let stream = (ended == Ended::Connected).then(|| TcpStream::from(socket));
    Ok((Dialled { ended, after, late }, stream))
}

/// Connects a socket to `to`, and returns the end of the dial.
///
/// # Errors
/// [`io::Error`] when the dial ends in a way that no network can cause.
pub fn connect(socket: &Socket, to: SocketAddr, patience: Duration) -> io::Result<Ended> {
    let Err(error) = socket.connect_timeout(&SockAddr::from(to), patience) else {
        return Ok(Ended::Connected);
    };
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Ok(Ended::Refused),
        io::ErrorKind::ConnectionReset => Ok(Ended::Reset),
        io::ErrorKind::TimedOut => Ok(Ended::Silent),
        // On Linux an ICMP 3/13 is "no route" over IPv4, and "permission denied" over IPv6.
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::PermissionDenied => Ok(Ended::Unreachable),
        _ => Err(io::Error::new(error.kind(), format!("dialling {to}: {error}"))),
    }
}

/// Lets hosts `a` and `b` learn their mapped addresses from host `s`, and then dial each other, `b` later by `skew`.
/// Each gives up after `patience`.
///
/// # Errors
/// [`LabError`] when a step before the punch fails, or both are connected but not with each other.
pub fn cross(lab: &Lab, skew: Duration, patience: Duration) -> Result<Crossing, LabError> {
    let server = lab.host("s")?;
    let _serving = SourceServer::new(server, &[SOURCE_PORT])?;
    let mut sides = Vec::new();
    for (name, local) in [("a", LOCAL_PORT), ("b", LOCAL_PORT + 1)] {
        let host = lab.host(name)?;
        let is_v4 = host.address().is_ipv4();
        let towards = server.addresses().iter().copied().find(|ip| ip.is_ipv4() == is_v4);
        let towards =
            towards.ok_or_else(|| LabError::Unknown(format!("address of `s` for host `{name}`")))?;
        let asked = host.enter(|| ask_source(local, towards))?;
        let (mapped, kept) =
            asked.map_err(LabError::system(format!("asking for the mapped address of `{name}`")))?;
        sides.push((host, local, mapped, kept));
    }
    let [(a, from_a, mapped_a, _kept_a), (b, from_b, mapped_b, _kept_b)] = sides.as_slice() else {
        unreachable!("two sides were pushed");
    };
    let start = Instant::now() + RUN_UP;
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| a.enter(|| dial(*from_a, *mapped_b, start, start, patience)));
        let second = scope.spawn(|| b.enter(|| dial(*from_b, *mapped_a, start + skew, start, patience)));
        (first.join(), second.join())
    });
    let step = |name| LabError::system(format!("the punch of `{name}`"));
    let passed_on = |panic| std::panic::resume_unwind(panic);
    let (first, stream_a) = first.unwrap_or_else(passed_on)?.map_err(step("a"))?;
    let (second, stream_b) = second.unwrap_or_else(passed_on)?.map_err(step("b"))?;
    if let (Some(stream_a), Some(stream_b)) = (stream_a, stream_b) {
        greet(stream_a, stream_b).map_err(LabError::system("talking through the punched connection"))?;
    }
    Ok(Crossing { first, second })
}

/// Checks that the bytes sent into one end of a connection come out of the other.
fn greet(a: TcpStream, b: TcpStream) -> io::Result<()> {
    for (mut from, mut to) in [(&a, &b), (&b, &a)] {
        to.set_read_timeout(Some(PATIENCE))?;
        from.write_all(b"hello")?;
        let mut heard = [0; 5];
        to.read_exact(&mut heard)?;
        if heard != *b"hello" {
            return Err(io::Error::other("the two connections are not one"));
        }
    }
    Ok(())
}
